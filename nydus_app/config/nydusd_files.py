"""nydusd's configuration files become overrides (contract 4; `api/src/config.rs`).

Tried in nydusd's order: ConfigV2 as JSON, ConfigV2 as TOML, the legacy JSON. As lenient as nydusd:
keys that it ignores are ignored, with one warning that names them; as strict, too: a wrong type or a
missing required field is an error. Every default of that world is written out as an override, so
that ours, which differ in places, do not show through.
"""

import json
import logging
from collections.abc import Callable, Mapping
from typing import Any

from nydus_app.config.overrides import Override
from nydus_app.errors import ConfigFileError

log = logging.getLogger("nydus.config")

MAX_FILE_SIZE = 0x100000
BATCH_SIZE = 0x100000
REQUIRED: Any = object()

_TYPES = {str: "a string", bool: "a boolean", int: "a whole number", list: "an array", dict: "an object"}


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
        if key not in self._data or (self._data[key] is None and default is None):
            if default is REQUIRED:
                raise ConfigFileError(f"missing field `{self._full(key)}`")
            return default
        value = self._data[key]
        if not isinstance(value, kind) or (kind is int and (isinstance(value, bool) or not 0 <= value)):
            raise ConfigFileError(f"`{self._full(key)}` must be {_TYPES[kind]}, not {_kind_of(value)}")
        return value

    def strings(self, key: str) -> list[str]:
        found = self.get(key, list, [])
        if not all(isinstance(v, str) for v in found):
            raise ConfigFileError(f"`{self._full(key)}` must be an array of strings")
        return list(found)

    def section(self, key: str) -> "_Section | None":
        data = self.get(key, dict, None)
        return None if data is None else _Section(data, self._full(key), self._unknown)

    def ignore(self, *keys: str) -> None:
        """Keys that nydusd knows and does nothing with."""
        self._asked.update(keys)

    def close(self) -> None:
        self._unknown += [self._full(k) for k in self._data if k not in self._asked]


def _kind_of(value: Any) -> str:
    for kind in (bool, int, str, list, dict):
        if isinstance(value, kind):
            return _TYPES[kind]
    return "null" if value is None else "a fraction"


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
    data = _parse(text)
    unknown: list[str] = []
    root = _Section(data, "", unknown)
    overrides = _version_2(root) if "version" in data else _legacy(root)
    root.close()
    if unknown:
        log.warning("configuration keys without effect: %s", ", ".join(sorted(unknown)))
    return overrides


def _parse(text: str) -> dict[str, Any]:
    try:
        data = json.loads(text)
    except RecursionError:
        raise ConfigFileError("nested too deeply") from None
    except json.JSONDecodeError as e:
        if text.lstrip().startswith(("{", "[")) and not text.lstrip().startswith("[b"):
            cause = f"no valid JSON: {e.msg} (line {e.lineno}, column {e.colno})"
            return _parse_toml(text, cause)
        return _parse_toml(text, None)
    if not isinstance(data, dict):
        raise ConfigFileError("the configuration must be an object")
    return data


def _parse_toml(text: str, json_cause: str | None) -> dict[str, Any]:
    import tomllib

    try:
        return tomllib.loads(text)
    except (tomllib.TOMLDecodeError, RecursionError) as e:
        raise ConfigFileError(json_cause or f"neither JSON nor TOML: {e}") from None


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
_HTTP: dict[str, Any] = {"skip_verify": False, "timeout": 5, "connect_timeout": 5, "retry_limit": 0}
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


def _backend(kind: str, section: _Section) -> list[Override]:
    values = _values(section, _FIELDS[kind])
    if kind == "localfs":
        values["alt_dirs"] = section.strings("alt_dirs")
    if kind == "s3":
        values["endpoint"] = values["endpoint"] or "s3.amazonaws.com"
    if kind not in ("localfs", "localdisk"):
        values.update(_values(section, _HTTP), ca_cert_files=section.strings("ca_cert_files"))
        proxy = section.section("proxy")
        values["proxy"] = _closed(proxy, lambda s: _values(s, _PROXY)) if proxy else dict(_PROXY)
        values["mirrors"] = _mirrors(section)
    section.ignore(*_FOREIGN)
    section.close()
    return [Override("backend", _KINDS[kind]), *_flatten("backend", values)]


def _mirrors(section: _Section) -> list[dict[str, Any]]:
    found = []
    for i, data in enumerate(section.get("mirrors", list, [])):
        if not isinstance(data, dict):
            raise ConfigFileError("`mirrors` must be an array of objects")
        mirror = _Section(data, f"mirrors[{i}]", [])
        headers = mirror.get("headers", dict, {})
        found.append({**_values(mirror, _MIRROR), "headers": {str(k): str(v) for k, v in headers.items()}})
    return found


def _closed(section: _Section, read: Callable[[_Section], dict[str, Any]]) -> dict[str, Any]:
    values = read(section)
    section.close()
    return values


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


def _cache(kind: str, *, compressed: bool, validate: bool, files: _Section | None, prefetch: dict[str, Any]) -> list[Override]:
    if kind not in _CACHES:
        raise ConfigFileError(f"cache type {kind!r} is none of blobcache, filecache, fscache, dummycache")
    group = _CACHES[kind]
    values: dict[str, Any] = {"validate": validate, "prefetch": prefetch}
    if group != "dummycache":
        if files is None:
            raise ConfigFileError(f"cache type {kind!r} wants a configuration with a work_dir")
        values.update(compressed=compressed, work_dir=files.get("work_dir", str, "."))
    if group == "blobcache" and files is not None:
        for name in ("disable_indexed_map", "enable_encryption", "enable_convergent_encryption"):
            values[name] = files.get(name, bool, False)
        values["encryption_key"] = files.get("encryption_key", str, "")
    if files is not None:
        files.close()
    return [Override("cache", group), *_flatten("cache", values)]


def _prefetch_2(section: _Section | None) -> dict[str, Any]:
    if section is None:
        return dict(_NO_PREFETCH)
    defaults = {**_NO_PREFETCH, "threads": 8, "batch_size": BATCH_SIZE}
    section.get("enable", bool, REQUIRED)
    return _closed(section, lambda s: _values(s, defaults))


def _inherited(cache: dict[str, Any], rafs: dict[str, Any]) -> dict[str, Any]:
    """Prefetch of the cache: that of the file system where only that is on."""
    return dict(rafs) if rafs["enable"] and not cache["enable"] else cache


_RAFS: dict[str, Any] = {
    "mode": "direct",
    "batch_size": BATCH_SIZE,
    "validate": False,
    "enable_xattr": False,
    "iostats_files": False,
    "access_pattern": False,
    "latest_read_files": False,
}


def _rafs(values: dict[str, Any], image_id: str) -> list[Override]:
    if values["mode"] not in ("direct", "cached"):
        raise ConfigFileError(f"mode {values['mode']!r} is none of direct, cached")
    return _flatten("rafs", {"id": image_id, **values})


# ---- the two forms ------------------------------------------------------------------------------


def _version_2(root: _Section) -> list[Override]:
    version = root.get("version", int, REQUIRED)
    if version != 2:
        raise ConfigFileError(f"invalid configuration: version {version}, 2 is expected")
    found = []
    if backend := root.section("backend"):
        kind = _kind(backend.get("type", str, REQUIRED))
        own = backend.section(kind)
        if own is None:
            raise ConfigFileError(f"invalid configuration: backend type {kind!r} without a section `backend.{kind}`")
        backend.ignore(*_KINDS)
        found += _backend(kind, own)
        backend.close()
    rafs = root.section("rafs") or _Section({}, "rafs", [])
    values, prefetch = _values(rafs, _RAFS), _prefetch_2(rafs.section("prefetch"))
    found += _cache_2(root.section("cache"), prefetch)
    rafs.close()
    found += _rafs(values, root.get("id", str, "")) + _flatten("prefetch", prefetch)
    if overlay := root.section("overlay"):
        found += _flatten("overlay", _closed(overlay, lambda s: _values(s, {"upper_dir": "", "work_dir": ""})))
    found.append(Override("external_backends", root.get("external_backends", list, [])))
    return found


def _cache_2(cache: _Section | None, rafs_prefetch: dict[str, Any]) -> list[Override]:
    if cache is None:
        none = _inherited(dict(_NO_PREFETCH), rafs_prefetch)
        return _cache("", compressed=False, validate=False, files=None, prefetch=none)
    kind = cache.get("type", str, "")
    files = cache.section("fscache" if kind == "fscache" else "filecache")
    cache.ignore("fscache", "filecache")
    own = _prefetch_2(cache.section("prefetch"))
    found = _cache(
        kind,
        compressed=cache.get("compressed", bool, False),
        validate=cache.get("validate", bool, False),
        files=files,
        prefetch=_inherited(own, rafs_prefetch),
    )
    cache.close()
    return found


def _legacy(root: _Section) -> list[Override]:
    device = root.section("device")
    if device is None:
        raise ConfigFileError("missing field `device` (or `version` for a version 2 file)")
    backend = device.section("backend")
    if backend is None:
        raise ConfigFileError("missing field `device.backend`")
    kind = _kind(backend.get("type", str, REQUIRED))
    if kind == "http-proxy":
        raise ConfigFileError("backend type 'http-proxy' needs a version 2 configuration")
    found = _backend(kind, backend.section("config") or _Section({}, "device.backend.config", []))
    backend.close()
    prefetch = _legacy_prefetch(root.section("fs_prefetch"))
    found += _legacy_cache(device.section("cache"), prefetch)
    values = {
        "mode": root.get("mode", str, REQUIRED),
        "batch_size": root.get("amplify_io", int, BATCH_SIZE),
        "validate": root.get("digest_validate", bool, False),
        **{k: root.get(k, bool, False) for k in ("enable_xattr", "iostats_files", "access_pattern", "latest_read_files")},
    }
    found += _rafs(values, device.get("id", str, "")) + _flatten("prefetch", prefetch)
    device.close()
    return found


def _legacy_cache(cache: _Section | None, prefetch: dict[str, Any]) -> list[Override]:
    inherited = _inherited(dict(_NO_PREFETCH), prefetch)
    if cache is None:
        return _cache("", compressed=False, validate=False, files=None, prefetch=inherited)
    found = _cache(
        cache.get("type", str, ""),
        compressed=cache.get("compressed", bool, False),
        validate=cache.get("validate", bool, False),
        files=cache.section("config"),
        prefetch=inherited,
    )
    cache.close()
    return found


def _legacy_prefetch(section: _Section | None) -> dict[str, Any]:
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
