"""Overrides as a recipe: a YAML file that Hydra composes over the tree (`recipes/recipe/`).

JSON strings are YAML strings; so the file is written without a YAML library.
"""

import json
from collections.abc import Iterable, Mapping
from enum import Enum
from typing import Any

from nydus_app.config.overrides import Override, take_secrets_out
from nydus_app.config.quoting import Reference, escape_interpolations
from nydus_app.config.tree import GROUPS


def format_recipe(overrides: Iterable[Override]) -> str:
    shown, environment = take_secrets_out(overrides)
    lines = ["# @package _global_"]
    if environment:
        lines.append(f"# needs in the environment: {', '.join(sorted(environment))}")
    lines.append("defaults:")
    lines += [f"  - override /{o.key}: {o.value}" for o in shown if o.key in GROUPS]
    nested: dict[str, Any] = {}
    for o in shown:
        if o.key not in GROUPS:
            *path, last = o.key.split(".")
            node = nested
            for name in path:
                node = node.setdefault(name, {})
            node[last] = o.value
    return "\n".join([*lines, *_lines(nested, "")]) + "\n"


def _lines(node: Mapping[str, Any], indent: str) -> Iterable[str]:
    for name, value in node.items():
        if isinstance(value, dict) and value:
            yield f"{indent}{name}:"
            yield from _lines(value, indent + "  ")
        else:
            yield f"{indent}{name}: {_scalar(value)}"


def _scalar(value: Any) -> str:
    if isinstance(value, Reference):
        return f'"${{oc.env:{value}}}"'
    if isinstance(value, Enum):
        return value.name
    if isinstance(value, list):
        return "[" + ", ".join(_scalar(v) for v in value) + "]"
    if isinstance(value, dict):
        return "{" + ", ".join(f"{json.dumps(k)}: {_scalar(v)}" for k, v in value.items()) + "}"
    if isinstance(value, str):
        return json.dumps(escape_interpolations(value))
    return json.dumps(value)
