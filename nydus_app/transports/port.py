"""The Transport port: brings requests from a kernel or a guest, takes the replies."""

from typing import Protocol

from nydus_app.protocols.fuse.init import Settings


class Transport(Protocol):
    def begin(self) -> bool:
        """Answer from now on, in a thread, what need not wait: once, before `serve`. False where only `serve` answers."""
        ...

    def stand_back(self) -> None:
        """Between `begin` and `serve`: returns when nobody reads, or is kept waiting by the caller."""
        ...

    def end_early(self) -> None:
        """From now on `serve`, which is to be called, answers alone. On the loop's thread."""
        ...

    async def serve(self) -> None:
        """Answer requests until there are no more (unmounted) or `stop` is called."""
        ...

    def stop(self) -> None: ...

    @property
    def settings(self) -> Settings | None:
        """What INIT agreed upon, for a successor; None before, and where no successor can go on."""
        ...

    def resend(self) -> None:
        """Have what was in flight when a predecessor ended sent again."""
        ...

    def close(self) -> None:
        """Free the session after `serve` has ended; the mount is not touched."""
        ...
