"""What is wrong with a tree of nydus-bench; the tree itself is checked as nydus-run does."""

import os
import shlex
from collections.abc import Iterator
from dataclasses import replace

from nydus_app.config.bench_origin import at_origin
from nydus_app.config.bench_tree import Bench, BenchTree, Row
from nydus_app.config.check import check, check_paths, check_supported
from nydus_app.config.tree import Blobcache
from nydus_app.errors import ConfigError, ConfigFileError


def check_bench(tree: BenchTree) -> None:
    """Raises ConfigError, Unsupported, or ConfigFileError, changing nothing."""
    for problem in _problems(tree):
        raise ConfigError(problem)
    mountable = replace(at_origin(tree), mountpoint="/")
    check(mountable)
    check_supported(mountable)
    bench: Bench = tree.bench
    for key, path in (("bench.work_dir", bench.work_dir), ("bench.tree", bench.tree), ("bench.blobs", bench.blobs)):
        if path is not None and not os.path.isdir(path):
            raise ConfigFileError(f"{key} {path}: no directory")
    if bench.erofs is not None and not os.path.isfile(bench.erofs):
        raise ConfigFileError(f"bench.erofs {bench.erofs}: no file")
    if bench.peer is not None and not (os.path.isfile(bench.peer) and os.access(bench.peer, os.X_OK)):
        raise ConfigFileError(f"bench.peer {bench.peer}: no program")
    for key, path in (("bench.report", bench.report), ("bench.output", bench.output)):
        if path is not None:
            _check_creatable(key, path, is_directory=key == "bench.output")
    check_paths(mountable, strict=True)


def _problems(tree: BenchTree) -> Iterator[str]:
    bench: Bench = tree.bench
    if tree.mountpoint is not None:
        yield "mountpoint: nydus-bench mounts in directories of its own, made in bench.work_dir"
    if isinstance(tree.cache, Blobcache) and tree.cache.work_dir != Blobcache().work_dir:
        yield "cache.work_dir: every mount gets an empty cache of its own, made in bench.work_dir"
    if Row.health in bench.rows and bench.check is None:
        yield "bench.check: the health row runs a command in the image, such as '/usr/bin/python3 -c 1'"
    if bench.check is not None and not _words(bench.check):
        yield f"bench.check={bench.check}: a command with its words, quoted as for a shell, is wanted"
    if bench.check is not None and os.geteuid() != 0:
        yield "bench.check: only root can run a command in the image"
    if not 1 <= bench.port <= 65535:
        yield f"bench.port={bench.port}: 1 to 65535 are legal"
    if not bench.rows:
        yield "bench.rows: at least one row is wanted, such as bench=cold_small"
    if not 1 <= bench.rounds <= 1000:
        yield f"bench.rounds={bench.rounds}: 1 to 1000 are legal"
    if not 0 < bench.seconds <= 3600:
        yield f"bench.seconds={bench.seconds}: more than 0 and at most 3600 are legal"
    if not 1 <= bench.timeout <= 86400:
        yield f"bench.timeout={bench.timeout}: 1 to 86400 seconds are legal"
    if not 0 <= bench.small_limit < 1 << 63:
        yield f"bench.small_limit={bench.small_limit}: bytes, 0 or more"
    if bench.erofs is not None and os.geteuid() != 0:
        yield "bench.erofs: only root can mount it"


def _words(command: str) -> list[str]:
    try:
        return shlex.split(command)
    except ValueError:
        return []


def _check_creatable(key: str, path: str, *, is_directory: bool) -> None:
    if os.path.exists(path) and os.path.isdir(path) is not is_directory:
        raise ConfigFileError(f"{key} {path}: {'no directory' if is_directory else 'is a directory'}")
    parent = os.path.abspath(path)
    while not os.path.exists(parent):
        parent = os.path.dirname(parent)
    if not os.access(parent, os.W_OK):
        raise ConfigFileError(f"{key} {path}: no permission to write there")
