"""What a daemon tells about itself (contract 3.4)."""

import time
from collections.abc import Callable, Mapping
from typing import NamedTuple

from nydus_app.daemon.log import date_and_time
from nydus_app.daemon.state import State
from nydus_app.storage.backend.meter import BackendMetrics


class BackendInfo(NamedTuple):
    """What the API tells of a backend, and may change of it at any time.

    `settings`: by key what is called, on the daemon's thread, with the new value; it raises ConfigError.
    """

    id: str  # the mountpoint inside of the daemon's tree
    kind: str  # as nydusd calls it: localfs, localdisk, registry, oss (s3 as well) or http-proxy
    metrics: BackendMetrics
    settings: Mapping[str, Callable[[str], None]]


class MountInfo(NamedTuple):
    """One mounted file system; `config` is nydusd's ConfigV2 shape, without secrets."""

    backend_type: str  # Rafs or PassthroughFs
    mountpoint: str
    mounted_time: str
    config: Mapping[str, object] | None
    data_path: str  # erofs or fuse
    data_path_reason: str | None  # why the kernel's EROFS does not serve it


class DaemonInfo(NamedTuple):
    id: str | None
    supervisor: str | None
    state: State
    mounts: tuple[MountInfo, ...]


def utc_now() -> str:
    """Now, as nydusd prints it: 2026-01-02 03:04:05.678901 +00:00:00."""
    now = time.time()
    return f"{date_and_time(now, time.gmtime(now))} +00:00:00"
