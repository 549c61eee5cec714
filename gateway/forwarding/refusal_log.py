"""Logs, at a limited rate, the clients that the gateway refuses or cannot connect to a target."""

import logging

from gateway.contracts.link import Stream
from gateway.errors import FailureReason
from gateway.forwarding.admission import RefusalReason
from gateway.forwarding.client_identity import ClientSourceAddress

log = logging.getLogger(__name__)

_REPEAT = 600.0
"""Minimum seconds between two log lines for refusals with the same source and reason."""
_WINDOW = 60.0
_MAX_LINES = 10
"""Maximum number of log lines in `_WINDOW` seconds. At the end of the window, one more line reports the number of
omitted clients."""


class RefusalLog:
    """Logs the clients that the gateway refuses or cannot connect to a target.

    Logs the same source and reason at most once in ten minutes, and at most `_MAX_LINES` lines in `_WINDOW` seconds.

    Args:
        backend: The backend's name.
    """

    def __init__(self, backend: str) -> None:
        self._backend = backend
        self._logged: dict[tuple[str, RefusalReason | FailureReason], float] = {}
        self._window_ends = 0.0
        self._lines = self._omitted = 0

    def refused(self, client: Stream, reason: RefusalReason | FailureReason, now: float, detail: str = "") -> None:
        """Log a client that was refused, or that could not be connected to a target.

        Do nothing if the same source and reason were logged in the last ten minutes. If the limit of `_MAX_LINES` is
        reached, only count the client.

        Args:
            client: The client's socket, which is not closed yet.
            reason: Why the client was not admitted (a `RefusalReason`), or why no target could be reached.
            now: The current monotonic time, in seconds.
            detail: A description of the failure in one line; empty if there is none.
        """
        if now >= self._window_ends:
            self._start_window(now)
        if self._lines >= _MAX_LINES:
            self._omitted += 1
            return
        source = ClientSourceAddress.of(client)
        key = ((source.address or source.path) if source is not None else "disconnected", reason)
        if key not in self._logged:
            self._logged[key] = now
            self._lines += 1
            extra = {"backend": self._backend, "source": key[0], "reason": str(reason)}
            text = "client refused" if isinstance(reason, RefusalReason) else "client not connected"
            log.info(text, extra=extra | ({"detail": detail} if detail else {}))

    def _start_window(self, now: float) -> None:
        if self._omitted:
            log.info("more clients refused", extra={"backend": self._backend, "count": self._omitted})
        self._window_ends, self._lines, self._omitted = now + _WINDOW, 0, 0
        self._logged = {key: at for key, at in self._logged.items() if at + _REPEAT > now}
