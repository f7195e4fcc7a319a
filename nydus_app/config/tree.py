"""The configuration tree: every option of the appliance, its type and its one default.

Plain dataclasses, standard library only, so that `nydusd` can fill them without Hydra (`compose.py`)
and Hydra can take them as schemas (`registration.py`). The YAML files in `conf/` choose and explain;
they repeat a default only to change it.

No dataclass here has a `repr`: nobody prints a secret by accident, and a third of the time that they take to
be made is saved at every start.

Names and meanings are those of nydusd's ConfigV2; defaults are ours where that is safer
(`validate` is on) and nydusd's everywhere else. Sizes are bytes, times are seconds.
"""

import os
from dataclasses import dataclass, field
from enum import Enum
from typing import Any, Optional

MISSING: Any = "???"
"""OmegaConf's mark of a value that has no default and must be given."""


AUTO = "auto"


class LogLevel(Enum):
    trace = "trace"
    debug = "debug"
    info = "info"
    warn = "warn"
    error = "error"


class FailoverPolicy(Enum):
    """What a successor does with requests in flight; `none` gives up on them."""

    none = "none"
    resend = "resend"
    flush = "flush"


class DataPath(Enum):
    """Who answers reads: the kernel's EROFS over device files, or FUSE; auto takes EROFS where it can."""

    auto = "auto"
    erofs = "erofs"
    fuse = "fuse"


class Driver(Enum):
    """Who speaks FUSE: we ourselves on /dev/fuse, or libfuse."""

    fusedev = "fusedev"
    pyfuse3 = "pyfuse3"


class RafsMode(Enum):
    """Accepted for old files; metadata is always read from the mapped bootstrap."""

    direct = "direct"
    cached = "cached"


class AddressingStyle(Enum):
    """Where a bucket's name is: in the path, or in front of the host's name."""

    path = "path"
    virtual = "virtual"


def default_cache_dir() -> str:
    """/var/cache/nydus for root, else nydus in the user's own cache directory; a user without a home has none."""
    if os.geteuid() == 0:
        return "/var/cache/nydus"
    own = os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache")
    return os.path.join(own, "nydus") if os.path.isabs(own) else ""


# ---- mode -------------------------------------------------------------------------------------


@dataclass(kw_only=True, repr=False)
class Fuse:
    """mode=fuse: one FUSE mount on `mountpoint`."""

    threads: int = 4  # decode and I/O threads, 1..1024
    failover_policy: FailoverPolicy = FailoverPolicy.resend
    data_path: DataPath = DataPath.auto
    driver: Driver = Driver.fusedev
    writable: bool = False  # mount read-write (the image itself stays read-only)


@dataclass(kw_only=True, repr=False)
class Virtiofs:
    """mode=virtiofs: a vhost-user socket for one guest."""

    sock: str = MISSING
    hybrid_mode: bool = True


@dataclass(kw_only=True, repr=False)
class Singleton:
    """mode=singleton: many blobs and mounts, added through the API; EROFS over fscache."""

    fscache: Optional[str] = None  # cachefiles' working directory
    fscache_tag: Optional[str] = None
    fscache_threads: int = 4  # 1..1024
    blobs_file: Optional[str] = None  # JSON file with a list of blob entries to start with


# ---- backend ----------------------------------------------------------------------------------


@dataclass(kw_only=True, repr=False)
class Localfs:
    """backend=localfs: blobs are files named by their id in `dir`, or the one `blob_file`."""

    dir: str = ""
    blob_file: str = ""
    alt_dirs: list[str] = field(default_factory=list)  # searched after `dir`


@dataclass(kw_only=True, repr=False)
class Localdisk:
    """backend=localdisk: blobs are GPT partitions of a disk, or the whole disk."""

    device_path: str = MISSING
    disable_gpt: bool = False


@dataclass(kw_only=True, repr=False)
class Proxy:
    """An HTTP proxy (Dragonfly, Kraken …) in front of the backend; off while `url` is empty."""

    url: str = ""
    ping_url: str = ""
    fallback: bool = True
    check_interval: int = 5
    use_http: bool = False
    check_pause_elapsed: int = 300
    dragonfly_scheduler_endpoint: str = ""


@dataclass(kw_only=True, repr=False)
class Mirror:
    """A mirror of the origin, tried before it (nydusd 2.2)."""

    host: str = ""
    ping_url: str = ""
    headers: dict[str, str] = field(default_factory=dict)
    auth_through: bool = False
    health_check_interval: int = 5
    failure_limit: int = 5


@dataclass(kw_only=True, repr=False)
class HttpOptions:
    """What all HTTP backends share.

    A try ends when `timeout` passes without a byte, and in any case after the longer time-out and a second for each
    `min_rate` bytes that were asked for.
    """

    skip_verify: bool = False
    timeout: int = 5  # seconds without a byte, 0: none
    connect_timeout: int = 5  # with name and TLS, 0: none
    min_rate: int = 131072  # bytes a second, 0: any
    retry_limit: int = 3  # further tries, 0..255
    request_rate: int = 0  # requests a second, 0: no limit
    ca_cert_files: list[str] = field(default_factory=list)
    client_cert_file: str = ""  # mutual TLS: certificate (PEM), perhaps with its key
    client_key_file: str = ""
    proxy: Proxy = field(default_factory=Proxy)
    mirrors: list[Mirror] = field(default_factory=list)


@dataclass(kw_only=True, repr=False)
class Registry(HttpOptions):
    """backend=registry: layers of a repository of an OCI registry."""

    scheme: str = "https"
    host: str = MISSING
    repo: str = MISSING
    auth: Optional[str] = None  # base64 of user:password
    registry_token: Optional[str] = None
    docker_config: str = ""  # Docker's config.json, or its directory: where `auth` is not given
    blob_url_scheme: str = ""
    blob_redirected_host: str = ""


@dataclass(kw_only=True, repr=False)
class Oss(HttpOptions):
    """backend=oss: Aliyun OSS."""

    scheme: str = "https"
    endpoint: str = MISSING
    bucket_name: str = MISSING
    object_prefix: str = ""
    access_key_id: str = ""
    access_key_secret: str = ""


@dataclass(kw_only=True, repr=False)
class S3(HttpOptions):
    """backend=s3: Amazon S3 and what speaks like it."""

    scheme: str = "https"
    endpoint: str = "s3.amazonaws.com"
    region: str = MISSING
    bucket_name: str = MISSING
    addressing_style: AddressingStyle = AddressingStyle.path
    object_prefix: str = ""
    access_key_id: str = ""
    access_key_secret: str = ""


@dataclass(kw_only=True, repr=False)
class HttpProxy(HttpOptions):
    """backend=http_proxy: blobs by path from an HTTP server, also over a Unix socket."""

    addr: str = MISSING
    path: str = ""


# ---- cache ------------------------------------------------------------------------------------


@dataclass(kw_only=True, repr=False)
class Prefetch:
    """Fetching ahead of the readers."""

    enable: bool = False
    threads: int = 8  # 1..1024 while enabled
    batch_size: int = 0x100000  # at most 256 MiB
    bandwidth_limit: int = 0  # bytes a second, 0: none
    prefetch_all: bool = False
    stream_prefetch: bool = False


@dataclass(kw_only=True, repr=False)
class Blobcache:
    """cache=blobcache: fetched chunks stay in files of `work_dir`, in nydusd's layout."""

    work_dir: str = field(default_factory=default_cache_dir)
    validate: bool = True
    compressed: bool = False
    disable_indexed_map: bool = False
    enable_encryption: bool = False
    enable_convergent_encryption: bool = False
    encryption_key: str = ""  # hex of 32 bytes
    max_size: int = 0  # bytes that the directory may hold, 0: no bound; needs a directory of its own
    min_free: int = 0  # bytes that its file system shall keep free, 0: no bound
    prefetch: Prefetch = field(default_factory=Prefetch)


@dataclass(kw_only=True, repr=False)
class Dummycache:
    """cache=dummycache: nothing is kept."""

    validate: bool = True
    prefetch: Prefetch = field(default_factory=Prefetch)


@dataclass(kw_only=True, repr=False)
class Fscache:
    """cache=fscache: the kernel's cachefiles keeps the data (mode=singleton)."""

    work_dir: str = field(default_factory=default_cache_dir)
    validate: bool = True
    compressed: bool = False
    prefetch: Prefetch = field(default_factory=Prefetch)


# ---- sections of every mode -------------------------------------------------------------------


@dataclass(kw_only=True, repr=False)
class Rafs:
    id: str = ""
    mode: RafsMode = RafsMode.direct
    batch_size: int = 0x100000  # read amplification, at most 256 MiB; 0: off
    validate: bool = True  # verify v5 inodes against their digests as they are looked up
    enable_xattr: bool = True
    iostats_files: bool = False
    access_pattern: bool = False
    latest_read_files: bool = False


@dataclass(kw_only=True, repr=False)
class Overlay:
    """A writable layer over the image."""

    upper_dir: Optional[str] = None
    work_dir: Optional[str] = None


@dataclass(kw_only=True, repr=False)
class Recording:
    """What a start reads, for later starts."""

    save: Optional[str] = None  # file to write; null: nothing is recorded
    time: int = 60  # seconds from the start that are recorded, 0: all
    replay: Optional[str] = AUTO  # file to fetch by at once; auto: BOOTSTRAP.recording where there is one; null: none


@dataclass(kw_only=True, repr=False)
class Daemon:
    id: Optional[str] = None
    supervisor: Optional[str] = None
    upgrade: bool = False
    rlimit_nofile: int = 1_000_000  # 0: leave the limit alone
    dedup_db: Optional[str] = None


@dataclass(kw_only=True, repr=False)
class Api:
    sock: Optional[str] = None  # null: no API


@dataclass(kw_only=True, repr=False)
class Log:
    level: LogLevel = LogLevel.info
    file: Optional[str] = None  # null: standard error
    rotation_size: int = 0  # MiB, 0: no rotation


@dataclass(kw_only=True, repr=False)
class Tree:
    """The whole. `mode`, `backend` and `cache` are chosen from GROUPS."""

    bootstrap: Optional[str] = MISSING  # null: start without an image (it comes by the API)
    mountpoint: Optional[str] = MISSING  # null in modes that mount nothing
    virtual_mountpoint: str = "/"
    shared_dir: Optional[str] = None  # serve a host directory instead of an image
    prefetch_files: Optional[str] = None  # file with one absolute path a line
    mode: Any = field(default_factory=Fuse)
    backend: Any = field(default_factory=Localfs)
    cache: Any = field(default_factory=Blobcache)
    rafs: Rafs = field(default_factory=Rafs)
    prefetch: Prefetch = field(default_factory=Prefetch)
    recording: Recording = field(default_factory=Recording)
    overlay: Overlay = field(default_factory=Overlay)
    external_backends: list[Any] = field(default_factory=list)
    daemon: Daemon = field(default_factory=Daemon)
    api: Api = field(default_factory=Api)
    log: Log = field(default_factory=Log)


GROUPS: dict[str, dict[str, type]] = {
    "mode": {"fuse": Fuse, "virtiofs": Virtiofs, "singleton": Singleton},
    "backend": {
        "localfs": Localfs,
        "localdisk": Localdisk,
        "registry": Registry,
        "oss": Oss,
        "s3": S3,
        "http_proxy": HttpProxy,
    },
    "cache": {"blobcache": Blobcache, "dummycache": Dummycache, "fscache": Fscache},
}
