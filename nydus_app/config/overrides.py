"""Overrides of the tree, without Hydra: for `nydusd`, for NYDUS_OVERRIDES, for Python people.

    Override("backend", "localfs"), Override("backend.dir", "/blobs")  ─ compose ─►  Tree

The rules are those that OmegaConf applies to the same dataclasses, so that both ways give one tree.
"""

import difflib
import shlex
import types
import typing
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import fields, is_dataclass
from enum import Enum
from typing import Any, NamedTuple

from nydus_app.config.masking import holds_secret
from nydus_app.config.quoting import Reference, parse_value, quote
from nydus_app.config.tree import GROUPS, Tree
from nydus_app.errors import ConfigError


class Override(NamedTuple):
    """`key` is dotted; for mode, backend and cache alone the value is the name of the choice."""

    key: str
    value: Any


def compose(overrides: Iterable[Override]) -> Tree:
    """The default tree with the overrides applied: choices first, then values in their order."""
    tree = Tree()
    values = []
    for override in overrides:
        if override.key in GROUPS and not isinstance(override.value, dict):
            setattr(tree, override.key, _choose(override))
        else:
            values.append(override)
    for key, value in values:
        _apply(tree, key, value)
    return tree


def _choose(override: Override) -> object:
    options = GROUPS[override.key]
    if override.value not in list(options):  # a list: the value may be unhashable
        raise ConfigError(
            f"{override.key}={override.value}: no such choice{nearest(str(override.value), options)}"
            f" (one of {', '.join(options)})"
        )
    return options[override.value]()


def nearest(name: str, known: Iterable[str], prefix: str = "") -> str:
    """`; did you mean `x`?` or nothing."""
    close = difflib.get_close_matches(name, list(known), n=1, cutoff=0.5)
    return f"; did you mean `{prefix}{close[0]}`?" if close else ""


def _apply(tree: Tree, key: str, value: Any) -> None:
    node: Any = tree
    *path, last = key.split(".")
    for depth, name in enumerate(path):
        _check_name(node, key, name, path[:depth])
        node = getattr(node, name)
    _assign(node, key, last, value, path)


def _assign(node: Any, key: str, name: str, value: Any, path: list[str]) -> None:
    """Give `name` of the section `node` a value; a dictionary for a section leaves its other keys alone."""
    _check_name(node, key, name, path)
    section = getattr(node, name)
    if not is_dataclass(section):
        setattr(node, name, convert(key, value, typing.get_type_hints(type(node))[name]))
    elif not isinstance(value, dict):
        raise _wrong(key, value, "a dictionary")
    else:
        for inner, v in value.items():
            _assign(section, f"{key}.{inner}", str(inner), v, [*path, name])


def _check_name(node: Any, key: str, name: str, path: list[str]) -> None:
    known = [f.name for f in fields(node)] if is_dataclass(node) else []
    if name not in known:
        raise ConfigError(f"{key}: no such key{nearest(name, known, ''.join(f'{p}.' for p in path))}")


def convert(key: str, value: Any, hint: Any) -> Any:
    """`value` as a `hint`, or ConfigError naming the key and what is legal."""
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    if hint is Any:
        return value
    if origin in (typing.Union, types.UnionType):
        (inner,) = [a for a in arguments if a is not type(None)]
        return None if value is None else convert(key, value, inner)
    if origin is list:
        if not isinstance(value, list):
            raise _wrong(key, value, "a list, such as ['a','b']")
        return [convert(f"{key}[{i}]", v, arguments[0]) for i, v in enumerate(value)]
    if origin is dict:
        if not isinstance(value, dict):
            raise _wrong(key, value, "a dictionary, such as {'a':'b'}")
        return {str(k): convert(f"{key}.{k}", v, arguments[1]) for k, v in value.items()}
    if is_dataclass(hint):
        return _convert_section(key, value, hint)
    return _convert_scalar(key, value, hint)


def _convert_section(key: str, value: Any, section: Any) -> Any:
    if not isinstance(value, dict):
        raise _wrong(key, value, "a dictionary")
    hints = typing.get_type_hints(section)
    for name in value:
        if name not in hints:
            raise ConfigError(f"{key}.{name}: no such key{nearest(name, hints, key + '.')}")
    return section(**{name: convert(f"{key}.{name}", v, hints[name]) for name, v in value.items()})


TRUE, FALSE = ("true", "yes", "on", "y", "1"), ("false", "no", "off", "n", "0")


def _convert_scalar(key: str, value: Any, hint: Any) -> Any:
    if isinstance(hint, type) and issubclass(hint, Enum):
        if isinstance(value, hint):
            return value
        if isinstance(value, str) and value in hint.__members__:
            return hint[value]
        names = list(hint.__members__)
        raise ConfigError(f"{key}={_shown(key, value)}: one of {', '.join(names)} is wanted{nearest(str(value), names)}")
    if hint is bool:
        if isinstance(value, bool | int):
            return bool(value)
        if isinstance(value, str) and value.lower() in (*TRUE, *FALSE):
            return value.lower() in TRUE
        raise _wrong(key, value, "true or false")
    if hint is int:
        try:
            if isinstance(value, int | str) and not isinstance(value, bool):
                return int(value)
        except ValueError:
            pass
        raise _wrong(key, value, "a whole number")
    if isinstance(value, list | dict) or value is None:
        raise _wrong(key, value, "a text")
    return str(value)


def _shown(key: str, value: Any) -> str:
    return "***" if holds_secret(tuple(key.split(".")), value) else str(value)


def _wrong(key: str, value: Any, wanted: str) -> ConfigError:
    """Lists, dictionaries and what stands in their place are not shown: a secret may be inside."""
    if isinstance(value, list | dict) or wanted.startswith(("a list", "a dictionary")):
        found = {list: "a list", dict: "a dictionary", type(None): "null"}.get(type(value), "a single value")
        return ConfigError(f"{key}: {wanted} is wanted, not {found}")
    return ConfigError(f"{key}={_shown(key, value)}: {wanted} is wanted")


# ---- as text ------------------------------------------------------------------------------------


def parse_words(words: Iterable[str]) -> list[Override]:
    """`key=value` words in Hydra's grammar. Raises ConfigError."""
    found = []
    for word in words:
        key, equals, text = word.partition("=")
        if not equals or not key:
            raise ConfigError(f"{key or '='}: key=value is wanted")
        if key[0] in "+~":
            raise ConfigError(f"{key}: keys can neither be added nor removed here")
        found.append(Override(key, parse_value(key, text)))
    return found


def parse_overrides(text: str) -> list[Override]:
    """The words of NYDUS_OVERRIDES, separated as a shell would."""
    try:
        return parse_words(shlex.split(text))
    except ValueError as e:
        raise ConfigError(f"NYDUS_OVERRIDES: {e}") from None


def format_words(overrides: Iterable[Override]) -> list[str]:
    """Words of a `nydus-run` line that mean the same; secrets become references."""
    shown, _ = take_secrets_out(overrides)
    return [f"{o.key}={o.value if o.key in GROUPS else quote(o.value)}" for o in shown]


def take_secrets_out(overrides: Iterable[Override]) -> tuple[list[Override], dict[str, str]]:
    """The overrides with references instead of secrets, and the environment that they refer to."""
    environment: dict[str, str] = {}

    def referred(value: Any, path: tuple[str, ...], at: Sequence[str]) -> Any:
        if isinstance(value, dict):
            return {k: referred(v, (*path, k), (*at, k)) for k, v in value.items()}
        if isinstance(value, list):
            return [referred(v, path, (*at, str(i))) for i, v in enumerate(value)]
        if not (value and isinstance(value, str) and holds_secret(path, value)):
            return value
        name = _variable(at, value, environment)
        environment[name] = value
        return Reference(name)

    shown = []
    for o in overrides:
        path = tuple(o.key.split("."))
        shown.append(Override(o.key, referred(o.value, path, path)))
    return shown, environment


def _variable(at: Sequence[str], value: str, taken: Mapping[str, str]) -> str:
    """NYDUS_BACKEND_AUTH; a number behind it where other keys come to the same name (X-A, X_A)."""
    words = ("".join(c if c.isalnum() and c.isascii() else "_" for c in word) for word in at)
    name = stem = "NYDUS_" + "_".join(words).upper()
    number = 1
    while taken.get(name, value) != value:
        number += 1
        name = f"{stem}_{number}"
    return name
