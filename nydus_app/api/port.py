"""What the API needs of a daemon; every method runs on the daemon's own thread and never waits."""

from collections.abc import Callable, Mapping
from typing import Protocol

from nydus_app.daemon.info import DaemonInfo
from nydus_app.storage.backend.meter import BackendMetrics
from nydus_app.storage.explain import Explanation


class BackendPort(Protocol):
    """`settings` may be changed at any time: by key what is called, on the daemon's thread, with the new value; it raises
    ConfigError."""

    @property
    def id(self) -> str:
        """The mountpoint inside of the daemon's tree."""
        ...

    @property
    def kind(self) -> str:
        """As nydusd calls it: localfs, localdisk, registry, oss (s3 as well) or http-proxy."""
        ...

    @property
    def metrics(self) -> BackendMetrics: ...

    @property
    def settings(self) -> Mapping[str, Callable[[str], None]]: ...


class DaemonPort(Protocol):
    def info(self) -> DaemonInfo: ...

    def set_log_level(self, name: str) -> None:
        """Raises ConfigError."""
        ...

    def explanation(self) -> Explanation | None:
        """What was fetched and why; its `files_of` is for other threads. None where nothing is known of that."""
        ...

    def backend(self) -> BackendPort | None: ...

    def exit(self) -> None:
        """Begin to end; returns at once. Raises StateConflict."""
        ...
