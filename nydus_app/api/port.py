"""What the API needs of a daemon; every method runs on the daemon's own thread and never waits."""

from typing import Protocol

from nydus_app.daemon.info import DaemonInfo


class DaemonPort(Protocol):
    def info(self) -> DaemonInfo: ...

    def set_log_level(self, name: str) -> None:
        """Raises ConfigError."""
        ...

    def exit(self) -> None:
        """Begin to end; returns at once. Raises StateConflict."""
        ...
