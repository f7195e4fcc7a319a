"""Something that waits for answers of this very daemon, in a thread of its own from before its loop runs."""

import threading
from collections.abc import Callable


class Exposure:
    """`expose` runs from now on."""

    def __init__(self, expose: Callable[[], None]) -> None:
        self._expose = expose
        self._failure: BaseException | None = None
        self._done = threading.Event()
        threading.Thread(target=self._run, name="exposure", daemon=True).start()

    def _run(self) -> None:
        try:
            self._expose()
        except BaseException as e:
            self._failure = e
        finally:
            self._done.set()

    def wait(self, timeout_s: float | None = None) -> bool:
        """True when it has ended."""
        return self._done.wait(timeout_s)

    def result(self) -> None:
        """After its end: raises what it raised."""
        if self._failure is not None:
            raise self._failure
