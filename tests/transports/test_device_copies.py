"""Advice about a device file never goes to another file that got its number."""

import os
import threading
from pathlib import Path

import pytest

from nydus_app.transports import device_copies
from nydus_app.transports.device_copies import DeviceCopies

DEADLINE_S = 20


def test_a_close_waits_for_the_advice_that_is_being_given(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "device").write_bytes(bytes(8192))
    advising, go_on = threading.Event(), threading.Event()
    advised: list[int] = []

    def advise(fd: int, offset: int, size: int, advice: int) -> None:
        advising.set()
        assert go_on.wait(DEADLINE_S)
        os.fstat(fd)
        advised.append(offset)

    monkeypatch.setattr(device_copies.os, "posix_fadvise", advise)
    copies = DeviceCopies(str(tmp_path / "device"))
    copies.take(copies.ask())
    dropping = threading.Thread(target=copies._drop, args=([(0, 4096), (4096, 4096)],))
    closing = threading.Thread(target=copies.close)
    dropping.start()
    assert advising.wait(DEADLINE_S)
    closing.start()
    go_on.set()
    dropping.join(DEADLINE_S)
    closing.join(DEADLINE_S)
    assert not dropping.is_alive() and not closing.is_alive()
    assert advised in ([0], [0, 4096])
