"""What is wrong with a tree, named before anything happens. Pure but for `check_paths`.

    check            something is missing, out of range, or contradicts itself     ConfigError
    check_supported  legal, but not in this version                                Unsupported
    check_paths      a file or directory is not there or not what it should be     ConfigFileError
"""

import errno
import os
import stat
from collections.abc import Iterator
from dataclasses import fields, is_dataclass
from typing import Any

from nydus_app.config.tree import (
    AUTO,
    MISSING,
    Blobcache,
    Dummycache,
    Fuse,
    HttpOptions,
    HttpProxy,
    Localdisk,
    Localfs,
    Oss,
    Prefetch,
    Registry,
    S3,
    Singleton,
    Tree,
    Virtiofs,
)
from nydus_app.errors import ConfigError, ConfigFileError, Unsupported

MAX_BATCH_SIZE = 0x1000_0000
MIN_CACHE_SIZE = 64 << 10
MAX_SOCKET_PATH = 107
MISSING_LOCALFS = "backend.dir (or backend.blob_file)"


def check(tree: Tree) -> None:
    """Raises ConfigError: one line with all missing keys, else one with the first wrong value."""
    missing = list(missing_keys(tree))
    if missing:
        raise ConfigError(f"missing: {', '.join(missing)}")
    for problem in _problems(tree):
        raise ConfigError(problem)


def missing_keys(tree: Tree) -> Iterator[str]:
    """Full keys without a value; a choice that needs one of two keys names both."""
    yield from _missing(tree, "")
    match tree.backend:
        case Localfs(dir="", blob_file="") if tree.bootstrap is not None:
            yield MISSING_LOCALFS


def _missing(node: Any, prefix: str) -> Iterator[str]:
    for f in fields(node):
        value = getattr(node, f.name)
        if is_dataclass(value):
            yield from _missing(value, f"{prefix}{f.name}.")
        elif value == MISSING:
            yield f"{prefix}{f.name}"


def _problems(tree: Tree) -> Iterator[str]:
    match tree.mode:
        case Fuse(threads=threads) if not 1 <= threads <= 1024:
            yield f"mode.threads={threads}: 1 to 1024 are legal"
        case Singleton(fscache_threads=threads) if not 1 <= threads <= 1024:
            yield f"mode.fscache_threads={threads}: 1 to 1024 are legal"
        case Singleton(fscache=None, fscache_tag=str()):
            yield "mode.fscache_tag: it needs mode.fscache as well"
    yield from _backend_problems(tree.backend)
    yield from _cache_problems(tree.cache)
    if not 0 <= tree.rafs.batch_size <= MAX_BATCH_SIZE:
        yield f"rafs.batch_size={tree.rafs.batch_size}: 0 to {MAX_BATCH_SIZE} bytes (256 MiB) are legal"
    yield from _prefetch_problems("prefetch", tree.prefetch)
    yield from _common_problems(tree)


def _common_problems(tree: Tree) -> Iterator[str]:
    if tree.bootstrap is not None and tree.shared_dir is not None:
        yield "shared_dir: either bootstrap or shared_dir can be served, not both"
    if tree.prefetch_files is not None and tree.bootstrap is None:
        yield "prefetch_files: it needs bootstrap as well"
    for key, path in (("bootstrap", tree.bootstrap), ("mountpoint", tree.mountpoint), ("log.file", tree.log.file), *_recordings(tree)):
        if path is not None and (not path or "\0" in path):
            yield f"{key}: {path!r} is no path"
    if not tree.virtual_mountpoint.startswith("/"):
        yield f"virtual_mountpoint={tree.virtual_mountpoint}: an absolute path is wanted"
    if (tree.daemon.id is None) != (tree.daemon.supervisor is None):
        yield "daemon.id and daemon.supervisor: give both or neither"
    if tree.daemon.rlimit_nofile < 0:
        yield f"daemon.rlimit_nofile={tree.daemon.rlimit_nofile}: 0 (leave alone) or more is legal"
    if tree.log.rotation_size < 0:
        yield f"log.rotation_size={tree.log.rotation_size}: 0 (no rotation) or more MiB are legal"
    if tree.recording.time < 0:
        yield f"recording.time={tree.recording.time}: seconds, 0 for as long as the daemon runs"
    if tree.api.sock is not None and not 0 < len(os.fsencode(tree.api.sock)) <= MAX_SOCKET_PATH:
        yield f"api.sock: a socket's path has 1 to {MAX_SOCKET_PATH} bytes"
    overlay = tree.overlay
    if (overlay.upper_dir or None) is None and (overlay.work_dir or None) is not None:
        yield "overlay.work_dir: it needs overlay.upper_dir as well"


def _recordings(tree: Tree) -> Iterator[tuple[str, str | None]]:
    yield "recording.save", tree.recording.save
    yield "recording.replay", tree.recording.replay


def _backend_problems(backend: Any) -> Iterator[str]:
    required: dict[type, tuple[str, ...]] = {
        Localdisk: ("device_path",),
        Registry: ("host", "repo"),
        Oss: ("endpoint", "bucket_name"),
        S3: ("endpoint", "region", "bucket_name"),
        HttpProxy: ("addr",),
    }
    for name in required.get(type(backend), ()):
        if not getattr(backend, name):
            yield f"backend.{name}: it must not be empty"
    if isinstance(backend, HttpOptions):
        from nydus_app.config.http_check import http_problems

        yield from http_problems(backend)
    if isinstance(backend, Oss | S3):
        from nydus_app.config.object_check import object_problems

        yield from object_problems(backend)


def _cache_problems(cache: Any) -> Iterator[str]:
    if not isinstance(cache, Dummycache) and not cache.work_dir:
        yield "cache.work_dir: it must not be empty (and no home directory says where to put it)"
    yield from _prefetch_problems("cache.prefetch", cache.prefetch)
    if isinstance(cache, Blobcache):
        yield from _bound_problems(cache)
    if not isinstance(cache, Blobcache) or not (cache.enable_encryption or cache.enable_convergent_encryption):
        return
    if cache.compressed:
        yield "cache.compressed and cache.enable_encryption: only an uncompressed cache can be encrypted"
    if cache.enable_convergent_encryption:
        return
    try:
        key = bytes.fromhex(cache.encryption_key)
    except ValueError:
        key = b""
    if len(key) != 32 or key[:16] == key[16:]:
        yield "cache.encryption_key: 64 hexadecimal digits are wanted, the two halves different"


def _bound_problems(cache: Blobcache) -> Iterator[str]:
    for name in ("max_size", "min_free"):
        if getattr(cache, name) < 0:
            yield f"cache.{name}={getattr(cache, name)}: bytes, 0 for no bound"
    if 0 < cache.max_size < MIN_CACHE_SIZE:
        yield f"cache.max_size={cache.max_size}: at least {MIN_CACHE_SIZE} bytes, 0 for no bound"


def _prefetch_problems(key: str, prefetch: Prefetch) -> Iterator[str]:
    if not prefetch.enable:
        return
    if not 0 <= prefetch.threads <= 1024:
        yield f"{key}.threads={prefetch.threads}: 1 to 1024 are legal, 0 is off"
    if not 0 <= prefetch.batch_size <= MAX_BATCH_SIZE:
        yield f"{key}.batch_size={prefetch.batch_size}: 0 to {MAX_BATCH_SIZE} bytes (256 MiB) are legal"
    if prefetch.bandwidth_limit < 0:
        yield f"{key}.bandwidth_limit={prefetch.bandwidth_limit}: bytes a second, 0 for no limit"


# ---- what this version cannot do ----------------------------------------------------------------


def check_supported(tree: Tree) -> None:
    """Raises Unsupported with one line that names the key and what to use instead."""
    for what in _later(tree):
        raise Unsupported(f"{what} is not supported by this version")


def _later(tree: Tree) -> Iterator[str]:
    match tree.mode:
        case Virtiofs():
            yield "mode=virtiofs (only mode=fuse)"
        case Singleton():
            yield "mode=singleton (only mode=fuse)"
    if tree.shared_dir is not None:
        yield "shared_dir (passing a host directory through)"
    if tree.bootstrap is None:
        yield "a start without bootstrap"
    if tree.external_backends:
        yield "external_backends"
    match tree.cache:
        case Blobcache() | Dummycache():
            pass
        case _:
            yield "cache=fscache (only blobcache and dummycache)"
    if tree.virtual_mountpoint != "/":
        yield f"virtual_mountpoint={tree.virtual_mountpoint} (only /)"
    if tree.overlay.upper_dir:
        yield "overlay"
    if tree.daemon.upgrade:
        yield "daemon.upgrade"
    if tree.daemon.dedup_db is not None:
        yield "daemon.dedup_db"


# ---- paths --------------------------------------------------------------------------------------


def check_paths(tree: Tree, *, strict: bool) -> None:
    """Look at what a mount needs, changing nothing. Raises ConfigError, mostly ConfigFileError.

    `strict` also wants the backend's directory, which nydusd looks at with the first read only.
    """
    if tree.bootstrap is not None:
        _check_file("bootstrap", tree.bootstrap)
    if tree.mountpoint is None:
        raise ConfigError("mountpoint=null: mode=fuse needs a directory to mount on")
    _check_directory("mountpoint", tree.mountpoint, dead_mount_is_fine=True)
    for key, path in _own_files(tree):
        _check_outside(key, path, tree.mountpoint)
    if tree.prefetch_files is not None:
        _check_prefetch_files(tree.prefetch_files)
    if tree.recording.save is not None:
        _check_directory("directory of recording.save", os.path.dirname(os.path.abspath(tree.recording.save)))
    if tree.recording.replay not in (None, AUTO):
        _check_file("recording.replay", tree.recording.replay)
    if strict and isinstance(tree.backend, Localfs):
        if tree.backend.blob_file:
            _check_file("backend.blob_file", tree.backend.blob_file)
        elif not any(os.path.isdir(d) for d in (tree.backend.dir, *tree.backend.alt_dirs)):
            _check_directory("backend.dir", tree.backend.dir)
    if isinstance(tree.backend, HttpOptions):
        for key, path in _http_files(tree.backend):
            _check_file(key, path)
    if tree.api.sock is not None:
        _check_directory("directory of api.sock", os.path.dirname(os.path.abspath(tree.api.sock)))
    if tree.log.file is not None:
        _check_directory("directory of log.file", _nearest_existing(os.path.dirname(os.path.abspath(tree.log.file))))
    for key, path in (("api.sock", tree.api.sock), ("log.file", tree.log.file)):
        if path is not None and os.path.isdir(path):
            raise ConfigFileError(f"{key} {path}: is a directory")


def _own_files(tree: Tree) -> Iterator[tuple[str, str | None]]:
    """What a daemon opens once it has mounted."""
    yield "api.sock", tree.api.sock
    yield "log.file", tree.log.file
    yield "recording.save", tree.recording.save
    if isinstance(tree.cache, Blobcache):
        yield "cache.work_dir", tree.cache.work_dir
    match tree.backend:
        case Localfs(dir=folder, alt_dirs=others, blob_file=file):
            yield "backend.blob_file", file
            yield "backend.dir", folder
            for i, other in enumerate(others):
                yield f"backend.alt_dirs[{i}]", other


def _check_outside(key: str, path: str | None, mountpoint: str) -> None:
    """Below its own mountpoint a daemon would wait for itself. The mountpoint is not looked at: it may be a dead one."""
    if not path or os.path.abspath(mountpoint) == "/":  # no path leads into what is mounted over the root
        return
    ways = os.path.abspath(path), os.path.abspath(mountpoint)
    if _is_within(*ways) or _is_within(*map(_in_real_folder, ways)):
        raise ConfigError(f"{key}={path} lies at or below mountpoint={mountpoint}, where the daemon would wait for itself")


def _is_within(path: str, folder: str) -> bool:
    return path == folder or path.startswith(os.path.join(folder, ""))


def _in_real_folder(path: str) -> str:
    folder, name = os.path.split(path)
    return os.path.join(os.path.realpath(folder), name)


def _http_files(backend: HttpOptions) -> Iterator[tuple[str, str]]:
    for i, path in enumerate(backend.ca_cert_files):
        yield f"backend.ca_cert_files[{i}]", path
    for key in ("client_cert_file", "client_key_file"):
        if getattr(backend, key):
            yield f"backend.{key}", getattr(backend, key)


def _nearest_existing(path: str) -> str:
    while not os.path.lexists(path):
        path = os.path.dirname(path)
    return path


def _check_file(key: str, path: str) -> None:
    try:
        with open(path, "rb") as f:
            if not stat.S_ISREG(os.fstat(f.fileno()).st_mode):
                raise ConfigFileError(f"{key} {path}: no regular file")
    except OSError as e:
        raise ConfigFileError(f"{key} {path}: {e.strerror}") from None


def _check_directory(key: str, path: str, *, dead_mount_is_fine: bool = False) -> None:
    try:
        if not stat.S_ISDIR(os.stat(path).st_mode):
            raise ConfigFileError(f"{key} {path}: no directory")
    except OSError as e:
        if not (dead_mount_is_fine and e.errno in (errno.ENOTCONN, errno.ECONNABORTED)):
            raise ConfigFileError(f"{key} {path}: {e.strerror}") from None


def _check_prefetch_files(path: str) -> None:
    _check_file("prefetch_files", path)
    with open(path, "rb") as f:
        for number, line in enumerate(f, 1):
            if line.strip() and not line.strip().startswith(b"/"):
                raise ConfigFileError(f"prefetch_files {path}: line {number} is no absolute path")
