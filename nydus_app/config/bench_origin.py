"""The tree whose backend asks the origin of nydus-bench, whatever kind of backend it is."""

from dataclasses import replace
from typing import Any

from nydus_app.config.bench_tree import BenchTree
from nydus_app.config.tree import HttpProxy, Localfs, Registry, S3
from nydus_app.errors import ConfigError

NAME = "bench"
"""Repository, bucket, region and folder: the origin looks at the end of a path only."""


def at_origin(tree: BenchTree) -> BenchTree:
    """As it is where `bench.blobs` names no directory. Raises ConfigError."""
    folder, address = tree.bench.blobs, f"127.0.0.1:{tree.bench.port}"
    if folder is None:
        return tree
    backend: Any = tree.backend
    match backend:
        case Localfs():
            backend = replace(backend, dir=folder)
        case Registry():
            backend = replace(backend, scheme="http", host=address, repo=NAME)
        case HttpProxy():
            backend = replace(backend, addr=f"http://{address}", path=f"/{NAME}")
        case S3():
            backend = replace(backend, scheme="http", endpoint=address, region=NAME, bucket_name=NAME)
        case _:
            raise ConfigError("bench.blobs: this backend asks no origin; it is for localfs, registry, http_proxy and s3")
    return replace(tree, backend=backend)
