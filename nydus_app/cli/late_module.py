"""A module that is loaded by its first use, where everybody writes `import` at the top all the same.

For trio, and ssl with it: their import takes as long as all else that a start does, and a mount answers before its loop runs.
"""

import sys
import threading
from importlib.util import find_spec, module_from_spec
from types import ModuleType
from typing import Any


class _LateModule(ModuleType):
    """Not the standard library's LazyLoader: `import` asks every module for its __spec__, which would load that one."""

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        assert self.__spec__ is not None
        with self.__spec__.loader_state:  # whoever else comes waits; the loading thread sees what there is so far
            if not self.__dict__.get("__begun__"):
                self.__begun__ = True
                self.__spec__.loader.exec_module(self)
                if type(self) is _LateModule:
                    self.__class__ = ModuleType
        return ModuleType.__getattribute__(self, name)


def load_late(name: str) -> None:
    """`import name`, but loaded at the first use. Nothing happens where it is loaded, or there is none."""
    if name in sys.modules or (spec := find_spec(name)) is None:
        return
    module = module_from_spec(spec)
    spec.loader_state = threading.RLock()
    module.__class__ = _LateModule
    sys.modules[name] = module
