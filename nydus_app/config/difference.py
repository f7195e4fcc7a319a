"""The overrides that lead from one tree to another, as another program's command line needs them."""

from dataclasses import asdict, fields, is_dataclass
from enum import Enum
from typing import Any

from nydus_app.config.overrides import Override
from nydus_app.config.tree import GROUPS, Tree


def difference(base: Tree, wanted: Tree) -> list[Override]:
    """What `compose` has to apply to `base` so that it becomes `wanted`; choices come first."""
    choices, values = [], []
    for name in (f.name for f in fields(Tree)):
        before, after = getattr(base, name), getattr(wanted, name)
        if name in GROUPS and type(before) is not type(after):
            choices.append(Override(name, next(n for n, schema in GROUPS[name].items() if schema is type(after))))
            before = type(after)()
        values += _changes(name, before, after)
    return [*choices, *values]


def _changes(key: str, before: Any, after: Any) -> list[Override]:
    if is_dataclass(after):
        names = [f.name for f in fields(after)]
        return [o for n in names for o in _changes(f"{key}.{n}", getattr(before, n), getattr(after, n))]
    return [] if before == after else [Override(key, _plain(after))]


def _plain(value: Any) -> Any:
    """Sections inside of lists as dictionaries; choices by name."""
    if isinstance(value, list):
        return [_plain(v) for v in value]
    if is_dataclass(value) and not isinstance(value, type):
        return _plain(asdict(value))
    if isinstance(value, dict):
        return {k: _plain(v) for k, v in value.items()}
    return value.name if isinstance(value, Enum) else value
