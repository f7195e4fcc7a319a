"""sd_notify(3), to a path and to an abstract address."""

import socket
from pathlib import Path

import pytest

from nydus_app.daemon import notify


@pytest.mark.parametrize("abstract", [False, True])
def test_ready_and_stopping(abstract: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    address = f"@{tmp_path}" if abstract else f"{tmp_path}/s"
    monkeypatch.setenv("NOTIFY_SOCKET", address)
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager:
        manager.bind("\0" + address[1:] if abstract else address)
        notify.ready()
        notify.stopping()
        assert manager.recv(100).startswith(b"READY=1\n")
        assert manager.recv(100) == b"STOPPING=1"


@pytest.mark.parametrize("address", ["", "/nonexistent/s", "relative"])
def test_nobody_listens(address: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NOTIFY_SOCKET", address)
    notify.ready()
