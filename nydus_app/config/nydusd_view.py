"""The tree in the shape of nydusd's ConfigV2, as its API shows it (contract 3.4), without secrets."""

from dataclasses import asdict, is_dataclass
from enum import Enum
from typing import Any

from nydus_app.config.masking import holds_secret
from nydus_app.config.tree import (
    GROUPS,
    Blobcache,
    Dummycache,
    Fscache,
    Prefetch,
    Tree,
)

BACKENDS = ("localdisk", "localfs", "oss", "s3", "registry", "http-proxy")


def config_v2(tree: Tree) -> dict[str, Any]:
    return {
        "version": 2,
        "id": tree.rafs.id,
        "backend": _backend(tree.backend),
        "external_backends": [_shown(b, ("external_backends",)) for b in tree.external_backends],
        "cache": _cache(tree.cache),
        "rafs": _rafs(tree),
        "overlay": asdict(tree.overlay) if tree.overlay.upper_dir else None,
    }


def backend_kind(backend: Any) -> str:
    return next(name for name, cls in GROUPS["backend"].items() if cls is type(backend)).replace("_", "-")


def _backend(backend: Any) -> dict[str, Any] | None:
    if not is_dataclass(backend):
        return None
    kind = backend_kind(backend)
    return {"type": kind, **{b: _shown(backend, ("backend",)) if b == kind else None for b in BACKENDS}}


def _shown(value: Any, path: tuple[str, ...]) -> Any:
    """Plain values; a secret becomes null where it may be null, else empty, as nydusd does."""
    if is_dataclass(value) and not isinstance(value, type):
        value = {name: getattr(value, name) for name in value.__dataclass_fields__}
    if isinstance(value, dict):
        return {k: _shown(v, (*path, k)) for k, v in value.items()}
    if isinstance(value, list):
        return [_shown(v, path) for v in value]
    if holds_secret(path, value):
        return None if path[-1] in ("auth", "registry_token") else ""
    return value.value if isinstance(value, Enum) else value


def _prefetch(prefetch: Prefetch) -> dict[str, Any]:
    return asdict(prefetch)


def _cache(cache: Any) -> dict[str, Any]:
    shown: dict[str, Any] = {
        "type": {Blobcache: "blobcache", Fscache: "fscache", Dummycache: "dummycache"}[type(cache)],
        "compressed": getattr(cache, "compressed", False),
        "validate": cache.validate,
        "prefetch": _prefetch(cache.prefetch),
        "filecache": None,
        "fscache": None,
    }
    if isinstance(cache, Blobcache):
        shown["filecache"] = {
            "work_dir": cache.work_dir,
            "disable_indexed_map": cache.disable_indexed_map,
            "enable_encryption": cache.enable_encryption,
            "enable_convergent_encryption": cache.enable_convergent_encryption,
            "encryption_key": "",
        }
    if isinstance(cache, Fscache):
        shown["fscache"] = {"work_dir": cache.work_dir}
    return shown


def _rafs(tree: Tree) -> dict[str, Any]:
    shown = _shown(tree.rafs, ("rafs",))
    del shown["id"]
    return {**shown, "prefetch": _prefetch(tree.prefetch)}
