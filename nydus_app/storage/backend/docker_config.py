"""Credentials from Docker's config.json and its helpers, asked anew whenever the registry wants some.

So a password that is changed there, or one that a helper makes for some hours only, is used with the next challenge.
"""

from __future__ import annotations

import os

import trio

from nydus_app.errors import BackendDenied, ProtocolViolation
from nydus_app.protocols.docker_config import Helper, decode_docker_config, decode_helper_answer
from nydus_app.protocols.registry import Credentials

HELPER_TIMEOUT_S = 15
MAX_BYTES = 1 << 20


class DockerConfig:
    """`path` is the file, or the directory that holds config.json."""

    def __init__(self, path: str, host: str) -> None:
        path = os.path.expanduser(path)
        self._path = os.path.join(path, "config.json") if os.path.isdir(path) else path
        self._host = host

    async def credentials(self) -> Credentials:
        """Empty where the file has none for this registry. Raises BackendDenied."""
        return await trio.to_thread.run_sync(self._read, abandon_on_cancel=True)

    def _read(self) -> Credentials:
        try:
            with open(self._path, "rb") as f:
                found = decode_docker_config(f.read(MAX_BYTES), self._host)
        except OSError as e:
            raise BackendDenied(f"{self._path}: {e.strerror}") from None
        except ProtocolViolation as e:
            raise BackendDenied(f"{self._path}: {e}") from None
        return _ask(found) if isinstance(found, Helper) else found or Credentials()


def _ask(helper: Helper) -> Credentials:
    """What it prints may be a secret even where it fails: nothing of it is shown."""
    import subprocess

    program = f"docker-credential-{helper.name}"
    try:
        done = subprocess.run(
            [program, "get"],
            input=helper.server.encode(),
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            timeout=HELPER_TIMEOUT_S,
            check=False,
        )
    except subprocess.TimeoutExpired:
        raise BackendDenied(f"{program} has not answered for {HELPER_TIMEOUT_S} s") from None
    except OSError as e:
        raise BackendDenied(f"{program}: {e.strerror}") from None
    if done.returncode:
        if b"credentials not found" in done.stdout:
            return Credentials()
        raise BackendDenied(f"{program} ended with {done.returncode} when it was asked for {helper.server}")
    try:
        return decode_helper_answer(done.stdout[:MAX_BYTES])
    except ProtocolViolation as e:
        raise BackendDenied(f"{program} gave an answer that is none: {e}") from None
