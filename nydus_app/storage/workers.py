"""Threads that fetch from local files, decode, verify and store; what they do is told by what they are given.

A hop to a thread by trio costs a task, a limiter and two wake-ups, as much as decoding 100 KiB; these threads take
jobs from a queue, and a job tells trio itself, once, when its readers can go on. Jobs that nobody waits for are
taken when no other is there, and by half of the threads at most.

Concurrency: `submit` and `close` are called on one thread. `close` lets running jobs end, and drops the rest. There
are as many tokens as jobs: who takes one finds a job, or leaves it to the end of a job that nobody waits for.
"""

import logging
import threading
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from queue import SimpleQueue

log = logging.getLogger("nydus.storage")

Job = Callable[[], None]


class Workers:
    """Up to `count` threads, started when there is something to do."""

    def __init__(self, count: int) -> None:
        self._count = count
        self._jobs: deque[Job] = deque()
        self._later: deque[Job] = deque()
        self._tokens: SimpleQueue[bool] = SimpleQueue()  # False is the end
        self._threads: list[threading.Thread] = []
        self._turn = threading.Lock()  # for the next two
        self._places = max(1, count // 2)
        self._left_tokens = 0

    def submit(self, job: Job, *, later: bool = False) -> None:
        """Raises RuntimeError where there is no thread, and none can be had."""
        if len(self._threads) < self._count:
            self._start()
        (self._later if later else self._jobs).append(job)
        self._tokens.put(True)

    def _start(self) -> None:
        thread = threading.Thread(target=self._run, name="nydus-worker", daemon=True)
        try:
            thread.start()
        except RuntimeError:  # pids.max or RLIMIT_NPROC; those that are there do it
            if not self._threads:
                raise
        else:
            self._threads.append(thread)

    def _run(self) -> None:
        while self._tokens.get():
            job: Job | None = None
            with suppress(IndexError):
                job = self._jobs.popleft()
            if job is None:
                self._run_later()
            else:
                _do(job)
            del job  # with what it has decoded, which may be many MiB

    def _run_later(self) -> None:
        with self._turn:
            if not self._places:
                self._left_tokens += 1
                return
            if not self._later:
                return
            job = self._later.popleft()
            self._places -= 1
        _do(job)
        with self._turn:
            self._places += 1
            if self._left_tokens:
                self._left_tokens -= 1
                self._tokens.put(True)

    def close(self) -> None:
        self._jobs.clear()
        self._later.clear()
        for _ in self._threads:
            self._tokens.put(False)
        for thread in self._threads:
            thread.join()
        self._threads.clear()


def _do(job: Job) -> None:
    try:
        job()
    except Exception:
        log.exception("unexpected error in a worker")
