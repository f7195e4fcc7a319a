"""Worker threads: what nobody waits for comes last, and never on all threads."""

import threading

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
