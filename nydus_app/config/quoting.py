"""Values as text in Hydra's override grammar, and back (hydra.cc, "basic override syntax").

Writing always quotes strings, so that nothing in them is a number, a bool or an interpolation.
Reading is Hydra's subset that makes sense without Hydra: words, quoted strings, numbers, lists,
dictionaries, and `${oc.env:NAME}` or `${oc.env:NAME,default}`.
"""

import os
import re
from enum import Enum
from typing import Any

from nydus_app.errors import ConfigError

INT = re.compile(r"[+-]?(0|[1-9](_?[0-9])*)\Z")
FLOAT = re.compile(
    r"[+-]?(([0-9](_?[0-9])*\.([0-9](_?[0-9])*)?|\.[0-9](_?[0-9])*)([eE][+-]?[0-9]+)?|[0-9](_?[0-9])*[eE][+-]?[0-9]+"
    r"|[Ii][Nn][Ff]|[Nn][Aa][Nn])\Z"
)
WORD = re.compile(r"(\\[\\()\[\]{}:=, \t]|\$\{[^}]*\}|[a-zA-Z0-9_/\-\\+.$%*@?|: \t])+")
INTERPOLATION = re.compile(r"(\\*)\$\{")
ENVIRONMENT = re.compile(r"oc\.env:([A-Za-z_][A-Za-z0-9_]*)(?:,(.*))?\Z")


class Reference(str):
    """The name of an environment variable that holds the value; written as `${oc.env:NAME}`."""


def quote(value: Any) -> str:
    """`value` (str, bool, int, None, Enum, list, dict) so that Hydra reads the same value."""
    if isinstance(value, Reference):
        return f"'${{oc.env:{value}}}'"
    if isinstance(value, Enum):
        return value.name
    if value is None:
        return "null"
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, str):
        return _quote_text(value)
    if isinstance(value, list):
        return "[" + ",".join(quote(v) for v in value) + "]"
    if isinstance(value, dict):
        return "{" + ",".join(f"{_bare_key(str(k))}:{quote(v)}" for k, v in value.items()) + "}"
    return str(value)


def _bare_key(name: str) -> str:
    """Names in a dictionary cannot be quoted in Hydra's grammar, only escaped."""
    if not re.fullmatch(r"[a-zA-Z0-9_/\-\\+.$%*@?| ]+", name):
        raise ConfigError(f"the name {name!r} cannot be written as an override")
    return name.replace("\\", "\\\\").replace(" ", "\\ ")


def _quote_text(text: str) -> str:
    if text == "???":
        raise ConfigError("the text ??? stands for a missing value and cannot be one")
    text = escape_interpolations(text)
    text = re.sub(r"(\\*)('|$)", lambda m: m[1] * 2 + ("\\'" if m[2] else ""), text)
    return f"'{text}'"


def escape_interpolations(text: str) -> str:
    """`text` such that OmegaConf takes every `${` in it literally."""
    return re.sub(r"(\\*)(\$\{)", lambda m: m[1] * 2 + "\\" + m[2], text)


def parse_value(key: str, text: str) -> Any:
    """The value that Hydra would read from `key=text`. Raises ConfigError."""
    reader = _Reader(key, text)
    value = reader.value()
    reader.end()
    return value


class _Reader:
    """Recursive descent over one value; nesting is bounded by the text's length and NESTING."""

    NESTING = 20

    def __init__(self, key: str, text: str) -> None:
        self._key = key
        self._text = text
        self._at = 0
        self._depth = 0

    def _error(self, what: str) -> ConfigError:
        return ConfigError(f"{self._key}: {what}; for the shell, quote it twice: \"{self._key}='…'\"")

    def _blank(self) -> None:
        while self._text[self._at : self._at + 1] in (" ", "\t"):
            self._at += 1

    def _take(self, character: str) -> bool:
        self._blank()
        if self._text.startswith(character, self._at):
            self._at += 1
            return True
        return False

    def end(self) -> None:
        self._blank()
        if self._at < len(self._text):
            raise self._error(f"{self._text[self._at]!r} cannot stand in an unquoted value")

    def value(self) -> Any:
        self._depth += 1
        if self._depth > self.NESTING:
            raise self._error("the value is nested too deeply")
        self._blank()
        start = self._text[self._at : self._at + 1]
        if start == "[":
            value: Any = self._list()
        elif start == "{":
            value = self._dict()
        elif start in ("'", '"'):
            value = self._resolved(self._quoted(start))
        else:
            value = self._word()
        self._depth -= 1
        return value

    def _list(self) -> list[Any]:
        self._take("[")
        found: list[Any] = []
        while not self._take("]"):
            if found and not self._take(","):
                raise self._error("a list wants commas and a closing ]")
            found.append(self.value())
        return found

    def _dict(self) -> dict[str, Any]:
        self._take("{")
        found: dict[str, Any] = {}
        while not self._take("}"):
            if found and not self._take(","):
                raise self._error("a dictionary wants commas and a closing }")
            self._blank()
            mark = self._text[self._at : self._at + 1]
            name = self._quoted(mark) if mark in ("'", '"') else self._bare(r"[^:,{}\[\]'\"]+").strip()
            if not self._take(":"):
                raise self._error("a dictionary wants name:value")
            found[str(name)] = self.value()
        return found

    def _bare(self, pattern: str) -> str:
        match = re.compile(pattern).match(self._text, self._at)
        if match is None:
            raise self._error("a name is missing")
        self._at = match.end()
        return match[0]

    def _quoted(self, mark: str) -> str:
        """Backslashes count only before the closing mark: each pair is one, an odd one escapes it."""
        out, at = [], self._at + 1
        while True:
            match = re.compile(r"(\\*)" + mark).search(self._text, at)
            if match is None:
                raise self._error(f"the closing {mark} is missing")
            slashes = match[1]
            out.append(self._text[at : match.start()] + "\\" * (len(slashes) // 2))
            at = match.end()
            if len(slashes) % 2 == 0:
                self._at = at
                return "".join(out)
            out.append(mark)

    def _word(self) -> Any:
        match = WORD.match(self._text, self._at)
        if match is None:
            if self._at >= len(self._text):
                return ""
            raise self._error(f"{self._text[self._at]!r} cannot stand in an unquoted value")
        raw = match[0]
        if self._depth > 1:  # inside of a container a colon or a comma ends nothing but is escaped
            raw = raw.rstrip()
        self._at = match.end()
        text = raw.strip()
        if text.lower() == "null":
            return None
        if text.lower() in ("true", "false"):
            return text.lower() == "true"
        if INT.match(text):
            return int(text)
        if FLOAT.match(text):
            return float(text)
        return self._resolved(re.sub(r"\\([\\()\[\]{}:=, \t])", r"\1", text))

    def _resolved(self, text: str) -> str:
        """Interpolations resolved; `\\${` is a literal `${`."""

        out, at = [], 0
        while match := INTERPOLATION.search(text, at):
            slashes, escaped = divmod(len(match[1]), 2)
            out += [text[at : match.start()], "\\" * slashes]
            at = match.end()
            if escaped:
                out.append("${")
            else:
                inside, closed, _ = text[at:].partition("}")
                if not closed:
                    raise self._error("the closing } is missing")
                out.append(self._environment(inside))
                at += len(inside) + 1
        return "".join([*out, text[at:]])

    def _environment(self, inside: str) -> str:
        match = ENVIRONMENT.match(inside)
        if match is None:
            raise self._error(f"${{{inside}}} is not supported here; ${{oc.env:NAME}} and ${{oc.env:NAME,default}} are")
        value = os.environ.get(match[1], match[2])
        if value is None:
            raise ConfigError(f"{self._key}: the environment variable {match[1]} is not set")
        return value
