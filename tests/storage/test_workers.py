"""Worker threads: what nobody waits for comes last, and never on all threads."""

import threading

import pytest

from nydus_app.storage.workers import Workers


def test_what_nobody_waits_for_comes_last() -> None:
    workers, gate, order, done = Workers(1), threading.Event(), [], threading.Event()
    workers.submit(lambda: gate.wait(10) and None)
    for name in ("later 1", "later 2"):
        workers.submit(lambda name=name: order.append(name), later=True)  # type: ignore[misc]
    workers.submit(lambda: order.append("now"))
    workers.submit(done.set, later=True)
    gate.set()
    assert done.wait(10)
    workers.close()
    assert order == ["now", "later 1", "later 2"]


def test_half_of_the_threads_are_left_to_readers() -> None:
    workers, gate = Workers(4), threading.Event()
    running, all_run = threading.Semaphore(0), threading.Semaphore(0)

    def later() -> None:
        running.release()
        gate.wait(10)
        all_run.release()

    for _ in range(8):
        workers.submit(later, later=True)
    assert running.acquire(timeout=10) and running.acquire(timeout=10)
    done = threading.Event()
    workers.submit(done.set)
    assert done.wait(10)
    assert not running.acquire(timeout=0.02)
    gate.set()
    for _ in range(8):
        assert all_run.acquire(timeout=10)
    workers.close()


def test_a_job_that_fails_takes_no_thread_with_it() -> None:
    workers, done = Workers(1), threading.Event()
    workers.submit(lambda: 1 / 0 and None, later=True)
    workers.submit(done.set, later=True)
    assert done.wait(10)
    workers.close()


def test_who_can_have_no_more_threads_does_with_those_that_are_there(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(thread: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    one, none = Workers(4), Workers(4)
    done = [threading.Event() for _ in range(3)]
    one.submit(done[0].set)
    monkeypatch.setattr(threading.Thread, "start", refuse)
    for event in done[1:]:
        one.submit(event.set)
    assert all(event.wait(10) for event in done)
    with pytest.raises(RuntimeError):
        none.submit(done[0].clear)
    monkeypatch.undo()
    last = threading.Event()
    none.submit(last.set)
    assert last.wait(10) and done[0].is_set()
    for workers in (one, none):
        workers.close()
