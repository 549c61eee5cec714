"""Measures how late a busy machine runs this process."""

import threading
import time
from typing import Self


class Lateness:
    """Measures the delays of a separate thread that repeatedly waits for 10 ms."""

    def __init__(self) -> None:
        self.worst = self.sum = 0.0
        self._done = threading.Event()
        self._thread = threading.Thread(target=self._watch)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._done.set()
        self._thread.join()

    def _watch(self) -> None:
        done = False
        while not done:
            due = time.monotonic() + 0.01
            done = self._done.wait(0.01)
            late = max(0.0, time.monotonic() - due)
            self.worst = max(self.worst, late)
            self.sum += late
