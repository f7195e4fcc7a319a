"""What the API needs of a daemon; every method runs on the daemon's own thread and never waits."""

from typing import Protocol

from nydus_app.daemon.info import BackendInfo, DaemonInfo
from nydus_app.storage.explain import Explanation


class DaemonPort(Protocol):
    def info(self) -> DaemonInfo: ...

    def set_log_level(self, name: str) -> None:
        """Raises ConfigError."""
        ...

    def explanation(self) -> Explanation | None:
        """What was fetched and why; its `files_of` is for other threads. None where nothing is known of that."""
        ...

    def backend(self) -> BackendInfo | None: ...

    def exit(self) -> None:
        """Begin to end; returns at once. Raises StateConflict."""
        ...
