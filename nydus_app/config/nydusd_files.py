"""nydusd's configuration files become overrides (contract 4; `api/src/config.rs`).

Tried in nydusd's order: ConfigV2 as JSON, ConfigV2 as TOML, the legacy JSON; the first whose types fit
decides. As lenient as nydusd: keys that it ignores are ignored, with one warning that names them. As
strict, too: a wrong type, a missing section or field, a key given twice, null for what is no option.
Every default of that world is written out as an override, so that ours, which differ in places, do
not show through.
"""

import json
import logging
from collections.abc import Callable, Mapping
from typing import Any, NoReturn

from nydus_app.config.overrides import Override
from nydus_app.errors import ConfigFileError

log = logging.getLogger("nydus.config")

MAX_FILE_SIZE = 0x100000
BATCH_SIZE = 0x100000
REQUIRED: Any = object()
NAMED_IN_WARNING = 20

_TYPES = {
    bool: "a boolean",
    int: "a whole number",
    float: "a fraction",
    str: "a string",
    list: "an array",
    dict: "an object",
}
_BITS = {
    "version": 32,
    "timeout": 32,
    "connect_timeout": 32,
    "retry_limit": 8,
    "bandwidth_limit": 32,
    "bandwidth_rate": 32,
}
"""Widths of the numbers that are narrower than 64 bits in nydusd."""


class _Misfit(ConfigFileError):
    """The types do not fit, so that nydusd goes on and tries the file in its next form."""


class _Object(dict[str, Any]):
    """A JSON object that remembers which keys it was given twice."""

    repeated: frozenset[str] = frozenset()

    @classmethod
    def of(cls, pairs: list[tuple[str, Any]]) -> "_Object":
        found = cls(pairs)
        if len(found) < len(pairs):
            seen: set[str] = set()
            found.repeated = frozenset(k for k, _ in pairs if k in seen or seen.add(k))
        return found


class _Section:
    """An object of the file: typed access, remembering which keys somebody asked for."""

    def __init__(self, data: Mapping[str, Any], name: str, unknown: list[str]) -> None:
        self._data = data
        self._name = name
        self._unknown = unknown
        self._asked: set[str] = set()

    def _full(self, key: str) -> str:
        return f"{self._name}.{key}" if self._name else key

    def get(self, key: str, kind: type, default: Any) -> Any:
        """The value; `default` where the key is absent, or null with a default of None."""
        self._asked.add(key)
        if key in getattr(self._data, "repeated", ()):
            raise _Misfit(f"`{self._full(key)}` is given twice")
        if key not in self._data or (self._data[key] is None and default is None):
            if default is REQUIRED:
                raise _Misfit(f"missing field `{self._full(key)}`")
            return default
        value = self._data[key]
        if not isinstance(value, kind) or (kind is int and isinstance(value, bool)):
            raise _Misfit(f"`{self._full(key)}` must be {_TYPES[kind]}, not {_kind_of(value)}")
        if kind is int and not 0 <= value < 1 << _BITS.get(key, 64):
            raise _Misfit(f"`{self._full(key)}` must be a whole number from 0 and below 2^{_BITS.get(key, 64)}")
        if kind is str:
            self._check_text(key, value)
        return value

    def _check_text(self, key: str, value: str) -> None:
        """Python's JSON lets half characters pass; no path and no header can hold them, or a NUL."""
        if "\0" in value or any("\ud800" <= c <= "\udfff" for c in value):
            raise _Misfit(f"`{self._full(key)}` holds a character that no text can have")

    def strings(self, key: str) -> list[str]:
        found = self.get(key, list, [])
        if not all(isinstance(v, str) for v in found):
            raise _Misfit(f"`{self._full(key)}` must be an array of strings")
        for value in found:
            self._check_text(key, value)
        return list(found)

    def texts(self, key: str, default: Any) -> dict[str, str]:
        found = self.get(key, dict, default)
        if not all(isinstance(v, str) for v in found.values()):
            raise _Misfit(f"`{self._full(key)}` must be an object of strings")
        for value in found.values():
            self._check_text(key, value)
        return dict(found)

    def section(self, key: str) -> "_Section":
        return _Section(self.get(key, dict, REQUIRED), self._full(key), self._unknown)

    def given(self, key: str) -> "_Section | None":
        """None where the key is absent; null is refused."""
        return self.section(key) if key in self._data else None

    def optional(self, key: str) -> "_Section | None":
        """None where the key is absent or null."""
        return None if self.get(key, dict, None) is None else self.section(key)

    def sections(self, key: str) -> list["_Section"]:
        found = self.get(key, list, [])
        if not all(isinstance(v, dict) for v in found):
            raise _Misfit(f"`{self._full(key)}` must be an array of objects")
        return [_Section(v, f"{self._full(key)}[{i}]", self._unknown) for i, v in enumerate(found)]

    def ignore(self, *keys: str) -> None:
        """Keys that nydusd knows and does nothing with."""
        self._asked.update(keys)

    def warn(self, key: str) -> None:
        self._unknown.append(self._full(key))

    def close(self) -> None:
        for key in self._data:
            if key not in self._asked:
                self.warn(key)


def _kind_of(value: Any) -> str:
    for kind, name in _TYPES.items():  # a bool is an int, too, and comes first
        if isinstance(value, kind):
            return name
    return "null" if value is None else "a date"


def read_file(path: str) -> list[Override]:
    """Overrides for the file at `path`. Raises ConfigFileError with one line naming file and cause."""
    try:
        with open(path, "rb") as f:
            raw = f.read(MAX_FILE_SIZE + 1)
    except OSError as e:
        raise ConfigFileError(f"configuration file {path}: {e.strerror}") from None
    if len(raw) > MAX_FILE_SIZE:
        raise ConfigFileError(f"configuration file {path}: larger than 1 MiB")
    try:
        return decode(raw.decode())
    except UnicodeDecodeError:
        raise ConfigFileError(f"configuration file {path}: no UTF-8 text") from None
    except ConfigFileError as e:
        raise ConfigFileError(f"configuration file {path}: {e}") from None


def decode(text: str) -> list[Override]:
    """Overrides for the text of a file. Raises ConfigFileError."""
    data, is_json = _parse(text)
    unknown: list[str] = []
    try:
        overrides = _version_2(_Section(data, "", unknown))
    except _Misfit as misfit:
        if not is_json:
            hint = "" if "version" in data else "; a file without it is JSON and has `device`"
            raise ConfigFileError(f"{misfit}{hint}") from None
        unknown.clear()
        try:
            overrides = _legacy(_Section(data, "", unknown))
        except _Misfit as legacy_misfit:
            raise ConfigFileError(str(misfit if "version" in data else legacy_misfit)) from None
    if unknown:
        names = sorted(k if k.isprintable() else ascii(k) for k in unknown)
        more = f" and {len(names) - NAMED_IN_WARNING} more" if len(names) > NAMED_IN_WARNING else ""
        log.warning("configuration keys without effect: %s%s", ", ".join(names[:NAMED_IN_WARNING]), more)
    return overrides


def _parse(text: str) -> tuple[dict[str, Any], bool]:
    """The file's object, and whether it is JSON."""
    try:
        data = json.loads(text, object_pairs_hook=_Object.of, parse_constant=_refuse_constant)
    except RecursionError:
        raise ConfigFileError("nested too deeply") from None
    except ValueError as e:
        return _parse_toml(text, e), False
    if not isinstance(data, dict):
        raise ConfigFileError("the configuration must be an object")
    return data, True


def _refuse_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is no number")


def _parse_toml(text: str, json_error: ValueError) -> dict[str, Any]:
    import tomllib

    try:
        return tomllib.loads(text)
    except (ValueError, RecursionError) as e:
        if not text.lstrip().startswith("{"):
            raise ConfigFileError(f"neither JSON nor TOML: {e}") from None
    if isinstance(json_error, json.JSONDecodeError):
        place = f"{json_error.msg} (line {json_error.lineno}, column {json_error.colno})"
        raise ConfigFileError(f"no valid JSON: {place}")
    raise ConfigFileError(f"no valid JSON: {json_error}")


# ---- backends -----------------------------------------------------------------------------------

_KINDS = {
    "localfs": "localfs",
    "localdisk": "localdisk",
    "oss": "oss",
    "s3": "s3",
    "registry": "registry",
    "http-proxy": "http_proxy",
}
_FIELDS: dict[str, dict[str, Any]] = {
    "localfs": {"dir": "", "blob_file": ""},
    "localdisk": {"device_path": "", "disable_gpt": False},
    "oss": {
        "scheme": "https",
        "endpoint": REQUIRED,
        "bucket_name": REQUIRED,
        "object_prefix": "",
        "access_key_id": "",
        "access_key_secret": "",
    },
    "s3": {
        "scheme": "https",
        "endpoint": REQUIRED,
        "region": REQUIRED,
        "bucket_name": REQUIRED,
        "object_prefix": "",
        "access_key_id": "",
        "access_key_secret": "",
    },
    "registry": {
        "scheme": "https",
        "host": REQUIRED,
        "repo": REQUIRED,
        "auth": None,
        "registry_token": None,
        "blob_url_scheme": "",
        "blob_redirected_host": "",
    },
    "http-proxy": {"addr": REQUIRED, "path": ""},
}
# Without `retry_limit` nydusd 2.4 tries three times more, and 2.2 not at all.
_HTTP: dict[str, Any] = {"skip_verify": False, "timeout": 5, "connect_timeout": 5, "retry_limit": 3}
_PROXY: dict[str, Any] = {
    "url": "",
    "ping_url": "",
    "fallback": True,
    "check_interval": 5,
    "use_http": False,
    "check_pause_elapsed": 300,
    "dragonfly_scheduler_endpoint": "",
}
_MIRROR: dict[str, Any] = {
    "host": "",
    "ping_url": "",
    "auth_through": False,
    "health_check_interval": 5,
    "failure_limit": 5,
}
# Written into the configuration of every backend by containerd's snapshotter; nydusd ignores them.
_FOREIGN = ("readahead", "readahead_sec", "proxy", "mirrors")


def _values(section: _Section, fields: Mapping[str, Any]) -> dict[str, Any]:
    """Fields by name; a field's type is that of its default, text where it has none."""
    return {
        name: section.get(name, str if default in (None, REQUIRED) else type(default), default)
        for name, default in fields.items()
    }


def _closed(section: _Section, read: Callable[[_Section], dict[str, Any]]) -> dict[str, Any]:
    values = read(section)
    section.close()
    return values


def _backend(kind: str, section: _Section) -> list[Override]:
    values = _values(section, _FIELDS[kind])
    if kind == "localfs":
        values["alt_dirs"] = section.strings("alt_dirs")
    if kind == "s3":
        values["endpoint"] = values["endpoint"] or "s3.amazonaws.com"
    if kind not in ("localfs", "localdisk"):
        values.update(_values(section, _HTTP), ca_cert_files=section.strings("ca_cert_files"))
        proxy = section.given("proxy")
        values["proxy"] = _closed(proxy, lambda s: _values(s, _PROXY)) if proxy else dict(_PROXY)
        url = values["proxy"]["url"]
        if url and "://" not in url:  # as HTTP_PROXY often is, and nydusd's HTTP library takes it
            values["proxy"]["url"] = f"http://{url}"
        values["mirrors"] = [
            _closed(m, lambda s: {**_values(s, _MIRROR), "headers": s.texts("headers", {})})
            for m in section.sections("mirrors")
        ]
    section.ignore(*_FOREIGN)
    section.close()
    return [Override("backend", _KINDS[kind]), *_flatten("backend", values)]


def _flatten(prefix: str, values: Mapping[str, Any]) -> list[Override]:
    """One override a value; sections become dotted keys, lists stay values."""
    found = []
    for name, value in values.items():
        if isinstance(value, dict):
            found += _flatten(f"{prefix}.{name}", value)
        else:
            found.append(Override(f"{prefix}.{name}", value))
    return found


def _kind(value: str) -> str:
    if value not in _KINDS:
        raise ConfigFileError(f"backend type {value!r} is none of {', '.join(_KINDS)}")
    return value


# ---- cache, rafs, prefetch ----------------------------------------------------------------------

_NO_PREFETCH: dict[str, Any] = {
    "enable": False,
    "threads": 0,
    "batch_size": 0,
    "bandwidth_limit": 0,
    "prefetch_all": False,
    "stream_prefetch": False,
}
_CACHES = {
    "blobcache": "blobcache",
    "filecache": "blobcache",
    "fscache": "fscache",
    "dummycache": "dummycache",
    "": "dummycache",
}
_BLOBCACHE: dict[str, Any] = {
    "work_dir": ".",
    "disable_indexed_map": False,
    "enable_encryption": False,
    "enable_convergent_encryption": False,
    "encryption_key": "",
}
_FSCACHE: dict[str, Any] = {"work_dir": "."}
_CACHE: dict[str, Any] = {"compressed": False, "validate": False}
_RAFS: dict[str, Any] = {
    "mode": "direct",
    "batch_size": BATCH_SIZE,
    "validate": False,
    "enable_xattr": False,
    "iostats_files": False,
    "access_pattern": False,
    "latest_read_files": False,
}


def _cache_group(kind: str) -> str:
    if kind not in _CACHES:
        raise ConfigFileError(f"cache type {kind!r} is none of blobcache, filecache, fscache, dummycache")
    return _CACHES[kind]


def _cache(group: str, values: dict[str, Any], files: _Section | None, prefetch: dict[str, Any]) -> list[Override]:
    """`values` as in _CACHE; `files` says where a cache that keeps something keeps it."""
    values = {**values, "prefetch": prefetch}
    if group == "dummycache":
        del values["compressed"]
    elif files is None:
        raise ConfigFileError(f"a cache of type {group} wants a configuration with a work_dir")
    else:
        values |= _closed(files, lambda s: _values(s, _BLOBCACHE if group == "blobcache" else _FSCACHE))
    return [Override("cache", group), *_flatten("cache", values)]


def _prefetch_2(section: _Section | None) -> dict[str, Any]:
    if section is None:
        return dict(_NO_PREFETCH)
    defaults = {**_NO_PREFETCH, "threads": 8, "batch_size": BATCH_SIZE}
    section.get("enable", bool, REQUIRED)
    return _closed(section, lambda s: _values(s, defaults))


def _rafs(values: dict[str, Any], image_id: str) -> list[Override]:
    if values["mode"] not in ("direct", "cached"):
        raise ConfigFileError(f"mode {values['mode']!r} is none of direct, cached")
    return _flatten("rafs", {"id": image_id, **values})


# ---- version 2 ----------------------------------------------------------------------------------


def _version_2(root: _Section) -> list[Override]:
    version = root.get("version", int, REQUIRED)
    image_id = root.get("id", str, "")
    sections = {name: root.optional(name) for name in ("backend", "cache", "rafs")}
    overlay = root.optional("overlay")
    external = [_closed(s, _external_backend) for s in root.sections("external_backends")]
    if version != 2:
        raise ConfigFileError(f"invalid configuration: version {version}, 2 is expected")
    found = []
    for name, read in (("backend", _backend_2), ("cache", _cache_2), ("rafs", _rafs_2)):
        section = sections[name]
        if section is None:
            raise ConfigFileError(f"invalid configuration: the section `{name}` is missing")
        found += read(section)
        section.close()
    found.append(Override("rafs.id", image_id))
    if overlay is not None:
        fields = {"upper_dir": REQUIRED, "work_dir": REQUIRED}
        found += _flatten("overlay", _closed(overlay, lambda s: _values(s, fields)))
    found.append(Override("external_backends", external))
    root.close()
    return found


def _external_backend(section: _Section) -> dict[str, Any]:
    return {
        "patch": section.texts("patch", REQUIRED),
        "type": section.get("type", str, REQUIRED),
        "config": section.texts("config", REQUIRED),
    }


def _backend_2(backend: _Section) -> list[Override]:
    """Sections of other types than the chosen one have no effect, but must be well-formed."""
    kind = _kind(backend.get("type", str, REQUIRED))
    found: list[Override] = []
    for other in _KINDS:
        section = backend.optional(other)
        if section is None:
            continue
        if other == kind:
            found = _backend(kind, section)
        else:
            _backend(other, section)
            backend.warn(other)
    if not found:
        raise ConfigFileError(f"invalid configuration: backend type {kind!r} without a section `backend.{kind}`")
    return found


def _cache_2(cache: _Section) -> list[Override]:
    """The section of the other kind of cache has no effect, but must be well-formed."""
    group = _cache_group(cache.get("type", str, ""))
    own = None
    for name, used_by, fields in (("filecache", "blobcache", _BLOBCACHE), ("fscache", "fscache", _FSCACHE)):
        section = cache.optional(name)
        if section is None:
            continue
        if group == used_by:
            own = section
        else:
            _values(section, fields)
            cache.warn(name)
    return _cache(group, _values(cache, _CACHE), own, _prefetch_2(cache.given("prefetch")))


def _rafs_2(rafs: _Section) -> list[Override]:
    return _rafs(_values(rafs, _RAFS), "") + _flatten("prefetch", _prefetch_2(rafs.given("prefetch")))


# ---- legacy -------------------------------------------------------------------------------------


def _legacy(root: _Section) -> list[Override]:
    device = root.given("device")
    if device is None:
        raise _Misfit("missing field `device` (or `version` for a version 2 file)")
    backend = device.section("backend")
    kind = _kind(backend.get("type", str, REQUIRED))
    if kind == "http-proxy":
        raise ConfigFileError("backend type 'http-proxy' needs a version 2 configuration")
    found = _backend(kind, backend.optional("config") or _Section({}, "device.backend.config", []))
    backend.close()
    prefetch = _legacy_prefetch(root.given("fs_prefetch"))
    found += _legacy_cache(device.given("cache"), prefetch)
    values = {
        "mode": root.get("mode", str, REQUIRED),
        "batch_size": root.get("amplify_io", int, BATCH_SIZE),
        "validate": root.get("digest_validate", bool, False),
        **{k: root.get(k, bool, False) for k in ("enable_xattr", "iostats_files", "access_pattern", "latest_read_files")},
    }
    found += _rafs(values, device.get("id", str, "")) + _flatten("prefetch", prefetch)
    device.close()
    root.close()
    return found


def _legacy_cache(cache: _Section | None, prefetch: dict[str, Any]) -> list[Override]:
    """A legacy cache takes the file system's prefetch over where that is on; it cannot have its own."""
    prefetch = dict(prefetch) if prefetch["enable"] else {**_NO_PREFETCH, "prefetch_all": True}
    if cache is None:
        return _cache("dummycache", dict(_CACHE), None, prefetch)
    group = _cache_group(cache.get("type", str, ""))
    if group == "dummycache":
        cache.ignore("config")
    files = None if group == "dummycache" else cache.optional("config")
    found = _cache(group, _values(cache, _CACHE), files, prefetch)
    cache.close()
    return found


def _legacy_prefetch(section: _Section | None) -> dict[str, Any]:
    """An absent object is all off; in a given one `prefetch_all` is on unless said otherwise."""
    if section is None:
        return dict(_NO_PREFETCH)
    values = {
        "enable": section.get("enable", bool, False),
        "threads": section.get("threads_count", int, 8),
        "batch_size": section.get("merging_size", int, BATCH_SIZE),
        "bandwidth_limit": section.get("bandwidth_rate", int, 0),
        "prefetch_all": section.get("prefetch_all", bool, True),
        "stream_prefetch": section.get("stream_prefetch", bool, False),
    }
    section.close()
    return values
