"""Reports the state of the service to the service manager, such as systemd (sd_notify(3))."""

import logging
import os
import socket
import time

log = logging.getLogger(__name__)

_SEND_TIMEOUT = 0.2
"""Maximum number of seconds for sending one message. Sending blocks the event loop while the service manager does not
read."""


class SdNotifier:
    """Sends the state of the service to the socket in `$NOTIFY_SOCKET`. Does nothing if the variable is not set."""

    def __init__(self) -> None:
        address = os.environ.get("NOTIFY_SOCKET", "")
        self._address = "\0" + address[1:] if address.startswith("@") else address
        watchdog = os.environ.get("WATCHDOG_USEC", "")
        for_this_process = os.environ.get("WATCHDOG_PID", str(os.getpid())) == str(os.getpid())
        self._interval = int(watchdog) / 3e6 if watchdog.isdigit() and for_this_process else None
        """Seconds between two keep-alive messages; None if the service manager expects none."""
        self._due = 0.0
        self._unsent: str | None = None
        """The last state message, if it could not be sent; otherwise, None. `watchdog` sends it again, because
        systemd stops a service that does not report `READY=1`."""

    def ready(self) -> None:
        """Report that the service has started, or has finished a reload."""
        self._send_state("READY=1")

    def reloading(self) -> None:
        """Report the start of a reload."""
        self._send_state(f"RELOADING=1\nMONOTONIC_USEC={time.clock_gettime_ns(time.CLOCK_MONOTONIC) // 1000}")

    def stopping(self) -> None:
        """Report that the service is stopping."""
        self._send_state("STOPPING=1")

    def watchdog(self) -> None:
        """Send a keep-alive message if a third of `WATCHDOG_USEC` has passed since the previous one.

        Also send the last state message again if it could not be sent. The caller must call this method several times
        during each third of `WATCHDOG_USEC`.
        """
        if self._unsent is not None and self._send(self._unsent, timeout=0.0):
            self._unsent = None
        now = time.monotonic()
        if self._interval is not None and now >= self._due:
            self._due = now + self._interval
            self._send("WATCHDOG=1", timeout=0.0)

    def _send_state(self, state: str) -> None:
        self._unsent = None if self._send(state) else state

    def _send(self, message: str, timeout: float = _SEND_TIMEOUT) -> bool:
        if not self._address:
            return True
        try:
            with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as sock:
                sock.settimeout(timeout)
                sock.sendto(message.encode(), self._address)
        except OSError as error:  # the service must continue, even if the service manager does not respond
            log.debug("cannot notify the service manager", extra={"detail": str(error)})
            return False
        return True
