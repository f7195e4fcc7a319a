"""Nydus image service: mounts RAFS container images in milliseconds, fetches their data on demand.

`mount` and `open_image` are for Python programs (`python_api.py`); they are loaded when first used,
because the command `nydusd` starts in the time that their imports would take.
"""

from typing import Any

from nydus_app import version

__version__ = version.__version__
__all__ = ["mount", "open_image"]


def __getattr__(name: str) -> Any:
    if name in __all__:
        from nydus_app import python_api

        return getattr(python_api, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
