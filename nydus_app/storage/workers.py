"""Threads that fetch from local files, decode, verify and store; what they do is told by what they are given.

A hop to a thread by trio costs a task, a limiter and two wake-ups, as much as decoding 100 KiB; these threads take
jobs from a queue, and a job tells trio itself, once, when its readers can go on.

Concurrency: `submit` and `close` are called on one thread. `close` lets running jobs end, and drops the rest.
"""

import logging
import threading
from collections.abc import Callable
from queue import Empty, SimpleQueue

log = logging.getLogger("nydus.storage")

Job = Callable[[], None]


class Workers:
    """Up to `count` threads, started when there is something to do."""

    def __init__(self, count: int) -> None:
        self._count = count
        self._jobs: SimpleQueue[Job | None] = SimpleQueue()
        self._threads: list[threading.Thread] = []

    def submit(self, job: Job) -> None:
        self._jobs.put(job)
        if len(self._threads) < self._count:
            thread = threading.Thread(target=self._run, name="nydus-worker", daemon=True)
            self._threads.append(thread)
            thread.start()

    def _run(self) -> None:
        while (job := self._jobs.get()) is not None:
            try:
                job()
            except Exception:
                log.exception("unexpected error in a worker")

    def close(self) -> None:
        try:
            while True:
                self._jobs.get_nowait()
        except Empty:
            pass
        for _ in self._threads:
            self._jobs.put(None)
        for thread in self._threads:
            thread.join()
        self._threads.clear()
