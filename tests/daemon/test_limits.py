"""The limit of open files: raised as far as allowed, never a reason not to start."""

import logging
import resource

import pytest

from nydus_app.daemon import limits


def test_what_cannot_be_had_is_a_warning(caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch) -> None:
    caplog.set_level("INFO", "nydus")
    monkeypatch.setattr(resource, "getrlimit", lambda _: (1000, 2000))
    asked: list[tuple[int, int]] = []

    def setrlimit(_: int, limit: tuple[int, int]) -> None:
        asked.append(limit)
        if limit[1] > 2000:
            raise ValueError("not allowed to raise maximum limit")

    monkeypatch.setattr(resource, "setrlimit", setrlimit)
    limits.raise_nofile(3000)
    assert asked == [(3000, 3000), (2000, 2000)]
    assert [r.levelno for r in caplog.records] == [logging.WARNING]


def test_zero_leaves_it_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(resource, "setrlimit", None)
    limits.raise_nofile(0)


def test_a_sandbox_without_proc_sys(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "FILE_MAX", "/nonexistent")
    limits.raise_nofile(resource.getrlimit(resource.RLIMIT_NOFILE)[0])
