"""uvicorn beside trio: the API on a Unix socket, served by a thread of its own.

The web stack takes longer to import than a mount takes, and half of the daemon's memory, so it is imported when
the first client connects, who waits for that in the socket's backlog. The socket is bound under another name and
renamed when it listens, because a client that sees it connects at once (clients 1.6). Idle connections are never closed by us: containerd's
snapshotter keeps one to learn of the daemon's death. A socket's path may have all 107 bytes that the kernel
takes, so the other name is bound through a descriptor of the directory.
"""

import logging
import os
import socket
import threading
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from typing import TYPE_CHECKING

import trio

from nydus_app.api.bridge import Bridge
from nydus_app.api.port import DaemonPort
from nydus_app.errors import ConfigFileError

if TYPE_CHECKING:
    import uvicorn

log = logging.getLogger("nydus.api")

BACKLOG = 256
FOREVER_S = 1 << 30
SHUTDOWN_S = 2.0
RETRY_S = 1.0
MAX_HEADER_BYTES = 64 << 10


@asynccontextmanager
async def serve_api(daemon: DaemonPort, path: str) -> AsyncIterator[None]:
    """Serve until the block ends; then the socket file is gone. Raises ConfigFileError."""
    try:
        directory = os.open(os.path.dirname(os.path.abspath(path)), os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    except OSError as e:
        raise ConfigFileError(f"api.sock {path}: {e.strerror}") from None
    try:
        temporary = f"/proc/self/fd/{directory}/.api.{os.getpid()}.tmp"
        async with _serving(daemon, path, temporary):
            yield
    finally:
        os.close(directory)


@asynccontextmanager
async def _serving(daemon: DaemonPort, path: str, temporary: str) -> AsyncIterator[None]:
    listener = _listen(path, temporary)
    try:
        try:
            os.rename(temporary, path)
        except OSError as e:
            raise ConfigFileError(f"api.sock {path}: {e.strerror}") from None
        identity = _identity(path)
        try:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(_serve_when_asked, daemon, listener)
                yield
                nursery.cancel_scope.cancel()
        finally:
            if _identity(path) == identity:
                with suppress(OSError):
                    os.unlink(path)
    finally:
        listener.close()
        with suppress(OSError):
            os.unlink(temporary)


async def _serve_when_asked(daemon: DaemonPort, listener: socket.socket) -> None:
    """From the first connection on, until cancelled."""
    await trio.lowlevel.wait_readable(listener)
    while True:
        try:
            server = await trio.to_thread.run_sync(_make_server, daemon, Bridge(), abandon_on_cancel=True)
            thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]}, name="nydus-http-server", daemon=True)
            thread.start()
            break
        except RuntimeError as e:  # pids.max or RLIMIT_NPROC: the client waits, the mount is served
            log.error("the API cannot be served for now: %s", e)
            await trio.sleep(RETRY_S)
    try:
        await trio.sleep_forever()
    finally:
        server.should_exit = True
        with trio.CancelScope(shield=True):
            await trio.to_thread.run_sync(thread.join, SHUTDOWN_S)


def _listen(path: str, temporary: str) -> socket.socket:
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_CLOEXEC)
    try:
        listener.bind(temporary)
        listener.listen(BACKLOG)
    except OSError as e:
        listener.close()
        raise ConfigFileError(f"api.sock {path}: {e.strerror or e}") from None
    return listener


def _identity(path: str) -> tuple[int, int] | None:
    """Whose socket lies there: a successor may have put its own in our place."""
    try:
        st = os.lstat(path)
    except OSError:
        return None
    return st.st_dev, st.st_ino


def _make_server(daemon: DaemonPort, bridge: Bridge) -> "uvicorn.Server":
    import uvicorn

    from nydus_app.api.app import make_app

    config = uvicorn.Config(
        make_app(daemon, bridge),
        loop="asyncio",
        http="h11",
        ws="none",
        lifespan="off",
        log_config=None,
        access_log=False,
        server_header=False,
        date_header=False,
        headers=[("Server", "Nydus API")],
        timeout_keep_alive=FOREVER_S,
        timeout_graceful_shutdown=1,
        h11_max_incomplete_event_size=MAX_HEADER_BYTES,
    )
    return uvicorn.Server(config)

