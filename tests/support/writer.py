"""Writes to a database through the gateway in a loop, and records which server has accepted each write."""

import threading
import time
from collections.abc import Callable
from typing import NamedTuple, Self


class Accepted(NamedTuple):
    """A write that a server has confirmed. `sent` and `confirmed` are monotonic times in seconds."""

    sent: float
    confirmed: float
    server: str


class Writer:
    """A database client that writes repeatedly in a thread, and reconnects after each error.

    Args:
        connect: A function that opens a connection and returns two functions. The first function writes once, and
            returns the name of the server. The second function closes the connection.
        errors: The types of exceptions after which the client reconnects.
        reconnects: Whether the client also reconnects after each write.
    """

    def __init__(
        self,
        connect: Callable[[], tuple[Callable[[], str], Callable[[], None]]],
        *errors: type[Exception],
        reconnects: bool = False,
    ) -> None:
        self.accepted: list[Accepted] = []
        self._connect = connect
        self._errors = errors
        self._reconnects = reconnects
        self._done = threading.Event()
        self._thread = threading.Thread(target=self._run)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._done.set()
        self._thread.join()

    def first(self, server: str, after: float, timeout: float) -> Accepted:
        """Wait for the first write that `server` confirms after the monotonic time `after`; return this write."""
        deadline = time.monotonic() + timeout
        while True:
            found = next((each for each in self.accepted if each.server == server and each.confirmed > after), None)
            if found is not None:
                return found
            assert time.monotonic() < deadline, self.accepted[-3:]
            time.sleep(0.01)

    def _run(self) -> None:
        while not self._done.wait(0.02):
            try:
                write, close = self._connect()
            except self._errors:
                continue
            try:
                while not self._done.wait(0.02):
                    sent = time.monotonic()
                    server = write()
                    self.accepted.append(Accepted(sent, time.monotonic(), server))
                    if self._reconnects:
                        break
            except self._errors:
                pass
            finally:
                close()
