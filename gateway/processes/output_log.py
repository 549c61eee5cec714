"""Logs the output of child processes, at a limited rate."""

import logging
import time

log = logging.getLogger(__name__)

_MOST_LINES = 20
_WINDOW = 10.0


class OutputLog:
    """Logs the lines that child processes print, but at most 20 lines in 10 seconds.

    Args:
        program: The name of the program, for the log.
    """

    def __init__(self, program: str) -> None:
        self._program = program
        self._window_start = -_WINDOW
        self._logged = 0

    def on_line(self, line: str) -> None:
        """Log a line.

        Args:
            line: One line without control characters.
        """
        if not line:
            return
        now = time.monotonic()
        if now - self._window_start >= _WINDOW:
            self._window_start, self._logged = now, 0
        self._logged += 1
        if self._logged <= _MOST_LINES:
            log.info("program output", extra={"program": self._program, "line": line})
        elif self._logged == _MOST_LINES + 1:
            log.warning(
                "program prints too many lines: the next lines are not logged",
                extra={"program": self._program, "seconds": _WINDOW},
            )
