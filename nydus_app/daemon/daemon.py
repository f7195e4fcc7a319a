"""One FUSE daemon from mount to unmount, under trio.

    mount     the FUSE device appears at the mountpoint
    serve     requests are answered; then the API socket appears and READY=1 is sent
    stop      by signal, by the API, or because somebody unmounted
    unmount   lazily, so that busy files do not keep the daemon alive

Concurrency: all state belongs to the trio thread; the API's thread comes in through its bridge.
"""

from __future__ import annotations

import logging
import os
import signal
import time
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from contextlib import AbstractAsyncContextManager, AbstractContextManager, AsyncExitStack, closing, contextmanager

import trio

from nydus_app.daemon import notify
from nydus_app.daemon.attachment import Attachment, StillLeaving, clear_left_behind, is_left_behind, turn
from nydus_app.daemon.exposure import Exposure
from nydus_app.daemon.handover import Inherited, Keeper, Session
from nydus_app.daemon.info import BackendInfo, DaemonInfo, MountInfo, utc_now
from nydus_app.daemon.log import set_level
from nydus_app.daemon.readers_first import readers_first
from nydus_app.daemon.state import Event, State, StateMachine
from nydus_app.errors import NydusError
from nydus_app.filesystems.port import FileSystem
from nydus_app.linux.fuse_device import FuseDevice
from nydus_app.protocols.fuse.init import Settings
from nydus_app.storage.explain import Explanation
from nydus_app.transports.port import Transport

log = logging.getLogger("nydus.daemon")

UNMOUNT_DEADLINE_S = 10

LEAVING_S = 10
"""So long a start waits for a daemon whose mount somebody took away a moment ago; an API client may hold it up for some seconds."""

EXPOSURE_S = 1.0
"""So long the loop waits for the mountpoint, which is to show the tree before trio is imported; then it waits within."""

MakeTransport = Callable[[FileSystem, FuseDevice, Settings | None], Transport]
"""The settings are those of a session that is taken over."""

ServeApi = Callable[["FuseDaemon"], AbstractAsyncContextManager[object]]


def _ending_signals() -> list[signal.Signals]:
    """A terminal that is closed must not leave a dead mount; nohup's wish is respected."""
    hangup = [] if signal.getsignal(signal.SIGHUP) is signal.SIG_IGN else [signal.SIGHUP]
    return [signal.SIGINT, signal.SIGTERM, *hangup]


@contextmanager
def _noted(numbers: Sequence[signal.Signals]) -> Iterator[list[int]]:
    """What comes while nobody can act on it yet. (A mask would be one thread's; libraries have threads of their own.)"""
    came: list[int] = []
    before = {number: signal.signal(number, lambda number, frame: came.append(number)) for number in numbers}
    try:
        yield came
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _first(group: BaseExceptionGroup[NydusError]) -> NydusError:
    error: BaseException = group
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    assert isinstance(error, NydusError)
    return error


class FuseDaemon:
    """Serves an attachment's file system, and closes it.

    `inherited` is the session of a predecessor, `keeper` is told of ours, with the `fingerprint` of what is served. Who fails to
    go on with a session leaves it, and what is mounted, to the next one.

    `views` are the mounts to show by the API: their configurations are free of secrets.
    """

    def __init__(
        self,
        attachment: Attachment,
        *,
        make_transport: MakeTransport,
        serve_api: ServeApi | None,
        views: Sequence[MountInfo],
        id: str | None = None,
        supervisor: str | None = None,
        inherited: Inherited | None = None,
        keeper: Keeper | None = None,
        fingerprint: Callable[[], str] = str,
        explanation: Explanation | None = None,
        backend: BackendInfo | None = None,
    ) -> None:
        self._backend = backend
        self._explanation = explanation
        self._inherited = inherited
        self._keeper = keeper
        self._fingerprint = fingerprint
        self._is_ours = inherited is None
        self._attachment = attachment
        self._make_transport = make_transport
        self._serve_api = serve_api
        self._views = views
        self._id = id
        self._supervisor = supervisor
        self._machine = StateMachine()
        self._mounts: list[MountInfo] = []
        self._failure: Exception | None = None

    # ---- what the API asks (api/port) ---------------------------------------------------------

    def info(self) -> DaemonInfo:
        return DaemonInfo(
            id=self._id, supervisor=self._supervisor, state=self._machine.state, mounts=tuple(self._mounts)
        )

    def explanation(self) -> Explanation | None:
        return self._explanation

    def backend(self) -> BackendInfo | None:
        return self._backend

    def set_log_level(self, name: str) -> None:
        set_level(name)

    def exit(self) -> None:
        """Raises StateConflict where the state does not allow it; who has stopped may be told again."""
        if self._machine.state is State.STOPPED:
            return
        if self._machine.state is State.RUNNING:
            self._machine.fire(Event.STOP)
        self._machine.fire(Event.EXIT)
        self._stopping.set()

    # ---- life ---------------------------------------------------------------------------------

    @contextmanager
    def opened(self) -> Iterator[None]:
        """Mounted, and answering what need not wait; `run` is for inside. Raises MountError; leaves no mount.

        What ends a daemon waits meanwhile for `run`.
        """
        with _noted(_ending_signals()) as self._came, closing(self._attachment):
            self._device = device = self._mount()
            try:
                settings = self._inherited.session.settings if self._inherited else None
                self._transport = self._make_transport(self._attachment.filesystem, device, settings)
                try:
                    self._expose()
                    yield
                finally:
                    self._transport.close()
            finally:
                if self._is_ours:
                    self._attachment.withdraw()
                device.close()

    def _expose(self) -> None:
        def expose() -> None:
            # The first answer comes after INIT, which would set the read-ahead back to the kernel's default.
            self._device.wait_until_served()
            self._device.raise_read_ahead()
            self._attachment.expose()

        is_answering = self._transport.begin()
        self._exposure = Exposure(expose)
        if is_answering:
            self._exposure.wait(EXPOSURE_S)

    def readers_first(self) -> AbstractContextManager[None]:
        """Within `opened`, for what has to be imported before `run`."""
        return readers_first(self._transport.stand_back)

    async def run(self) -> None:
        """Until stopped. Raises MountError, or whatever ended the service."""
        self._stopping = trio.Event()
        try:
            with trio.open_signal_receiver(*_ending_signals()) as signals:
                for number in self._came:
                    self._stop_by(number)
                await self._serve(signals)
        except* NydusError as group:
            # One error ends the daemon; which nursery it passed is of no interest to a person.
            self._failure = _first(group)
        if self._failure is not None:
            raise self._failure

    def _mount(self) -> FuseDevice:
        if self._inherited is not None:
            device = self._attachment.adopt(*self._inherited)
            self._machine.fire(Event.TAKEOVER)
            return device
        give_up = time.monotonic() + LEAVING_S
        while True:
            try:
                device = self._mount_now()
                break
            except StillLeaving:
                if self._came or time.monotonic() > give_up:
                    raise
            time.sleep(0.01)
        self._machine.fire(Event.MOUNT)
        return device

    def _mount_now(self) -> FuseDevice:
        mountpoint = self._attachment.mountpoint
        is_left = is_left_behind(mountpoint)
        with turn():
            if is_left and clear_left_behind(mountpoint):
                log.warning("%s: removed the mount of a daemon that is gone", mountpoint)
            return self._attachment.mount()

    async def _serve(self, signals: AsyncIterator[int]) -> None:
        self._transport.end_early()  # what it tells of, such as a RELEASE, is for tasks from now on
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._stop_on_signal, signals)
            nursery.start_soon(self._run_transport)
            if self._inherited:
                self._transport.resend()
            try:
                await self._be_ready(nursery)
            finally:
                if self._is_ours:
                    await self._withdraw()
            nursery.cancel_scope.cancel()

    async def _be_ready(self, nursery: trio.Nursery) -> None:
        if not self._exposure.wait(0):
            await trio.to_thread.run_sync(self._exposure.wait)
        self._exposure.result()
        nursery.start_soon(self._attachment.work, self._unmounted)
        if self._keeper is not None and self._transport.settings is not None:
            attachment = self._attachment
            self._keeper.keep(
                self._device.fd,
                Session(
                    attachment.mountpoint, attachment.data_path, self._transport.settings, attachment.served,
                    await trio.to_thread.run_sync(self._fingerprint),
                ),
            )  # fmt: skip
        self._mounts = [view._replace(mounted_time=utc_now()) for view in self._views]
        self._machine.fire(Event.START)
        async with AsyncExitStack() as stack:
            if self._serve_api is not None:
                await stack.enter_async_context(self._serve_api(self))
            self._is_ours = True
            log.info("serving at %s", self._attachment.mountpoint)
            notify.ready()
            await self._stopping.wait()
            notify.stopping()
            self._fire_stop()

    def _fire_stop(self) -> None:
        """SIGTERM's way down, from whichever state the API left behind."""
        while self._machine.state in (State.RUNNING, State.READY):
            self._machine.fire(Event.STOP)

    async def _stop_on_signal(self, signals: AsyncIterator[int]) -> None:
        async for number in signals:
            self._stop_by(number)

    def _stop_by(self, number: int) -> None:
        log.info("%s: unmounting", signal.Signals(number).name)
        self._stopping.set()

    def _unmounted(self) -> None:
        if not self._stopping.is_set():
            log.info("%s was unmounted", self._attachment.mountpoint)
        self._stopping.set()

    async def _run_transport(self) -> None:
        """The end of the transport is the end of the daemon, whatever ended it."""
        try:
            await self._transport.serve()
        except Exception as e:
            self._failure = e
            log.exception("the FUSE session failed")
        self._unmounted()

    async def _withdraw(self) -> None:
        """In a thread and while requests are still answered: unmounting may ask for some."""
        with trio.CancelScope(shield=True, deadline=trio.current_time() + UNMOUNT_DEADLINE_S):
            await trio.to_thread.run_sync(self._attachment.withdraw, abandon_on_cancel=True)
