"""The tree as nydusd's command line and its legacy JSON file (contract 1.3, 4), for measuring beside it.

Only what nydusd knows gets through: one switch for all validation, and nothing of `mode.data_path`.
"""

import json
from dataclasses import asdict
from typing import Any

from nydus_app.config.tree import GROUPS, Dummycache, Fuse, HttpProxy, Localfs, Prefetch, Tree
from nydus_app.errors import Unsupported


def classic_config(tree: Tree, *, validate: bool) -> dict[str, Any]:
    """The legacy configuration. It holds secrets in clear. Raises Unsupported where nydusd has no such form."""
    if isinstance(tree.backend, HttpProxy):
        raise Unsupported("backend=http_proxy has no legacy configuration, so no peer can be measured beside it")
    kind = next(name for name, schema in GROUPS["backend"].items() if schema is type(tree.backend))
    return {
        "device": {
            "id": tree.rafs.id,
            "backend": {"type": kind, "config": _backend(tree)},
            "cache": _cache(tree),
        },
        "mode": tree.rafs.mode.value,
        "digest_validate": validate,
        "enable_xattr": tree.rafs.enable_xattr,
        "iostats_files": tree.rafs.iostats_files,
        "access_pattern": tree.rafs.access_pattern,
        "latest_read_files": tree.rafs.latest_read_files,
        "amplify_io": tree.rafs.batch_size,
        "fs_prefetch": _prefetch(tree.prefetch),
    }


def _backend(tree: Tree) -> dict[str, Any]:
    values = {k: v for k, v in asdict(tree.backend).items() if v is not None}
    if isinstance(tree.backend, Localfs):
        values = {k: v for k, v in values.items() if v}
    values.pop("addressing_style", None)  # unknown to nydusd, whose buckets are in the path
    return values


def _cache(tree: Tree) -> dict[str, Any]:
    if isinstance(tree.cache, Dummycache):
        return {"type": "dummycache"}
    values = asdict(tree.cache)
    wanted = ("work_dir", "disable_indexed_map", "enable_encryption", "enable_convergent_encryption", "encryption_key")
    return {
        "type": "blobcache",
        "compressed": tree.cache.compressed,
        "config": {k: values[k] for k in wanted if values.get(k)},
    }


def _prefetch(prefetch: Prefetch) -> dict[str, Any]:
    if not prefetch.enable:
        return {"enable": False}
    return {
        "enable": True,
        "threads_count": prefetch.threads,
        "merging_size": prefetch.batch_size,
        "bandwidth_rate": prefetch.bandwidth_limit,
        "prefetch_all": prefetch.prefetch_all,
    }


def classic_words(tree: Tree, config_path: str) -> list[str]:
    """Flags of `nydusd fuse` for a tree of mode=fuse; `config_path` holds `classic_config` of it."""
    assert isinstance(tree.mode, Fuse) and tree.bootstrap is not None and tree.mountpoint is not None
    words = [
        "fuse", "--config", config_path, "--bootstrap", tree.bootstrap, "--mountpoint", tree.mountpoint,
        "--thread-num", str(tree.mode.threads), "--log-level", tree.log.level.value,
        "--rlimit-nofile", "0",
    ]  # fmt: skip
    if tree.api.sock is not None:
        words += ["--apisock", tree.api.sock]
    if tree.mode.writable:
        words.append("--writable")
    if tree.prefetch_files is not None:
        words += ["--prefetch-files", tree.prefetch_files]
    return words


def classic_text(tree: Tree, *, validate: bool) -> str:
    return json.dumps(classic_config(tree, validate=validate), sort_keys=True)
