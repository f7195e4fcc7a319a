"""The Transport port: brings requests from a kernel or a guest, takes the replies."""

from typing import Protocol


class Transport(Protocol):
    async def serve(self) -> None:
        """Answer requests until there are no more (unmounted) or `stop` is called."""
        ...

    def stop(self) -> None: ...

    def close(self) -> None:
        """Free the session after `serve` has ended; the mount is not touched."""
        ...
