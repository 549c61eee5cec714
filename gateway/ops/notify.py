"""sd_notify(3): tells a service manager what the service is doing."""

import logging
import os
import socket
import time

log = logging.getLogger(__name__)

_PATIENCE = 0.2
"""Seconds for a manager that does not read: nothing else happens meanwhile."""


class Notifier:
    """Sends states to the socket in `$NOTIFY_SOCKET`; does nothing where there is none."""

    def __init__(self) -> None:
        address = os.environ.get("NOTIFY_SOCKET", "")
        self._address = "\0" + address[1:] if address.startswith("@") else address
        watchdog = os.environ.get("WATCHDOG_USEC", "")
        ours = os.environ.get("WATCHDOG_PID", str(os.getpid())) == str(os.getpid())
        self._interval = int(watchdog) / 3e6 if watchdog.isdigit() and ours else None
        """Seconds between two signs of life; None: nobody waits for them."""
        self._due = 0.0
        self._untold: str | None = None
        """The last state that it could not be told: it waits for some of them, and ends us if none comes."""

    def ready(self) -> None:
        """Started, or done reloading."""
        self._tell("READY=1")

    def reloading(self) -> None:
        """Reading the configuration again."""
        self._tell(f"RELOADING=1\nMONOTONIC_USEC={time.clock_gettime_ns(time.CLOCK_MONOTONIC) // 1000}")

    def stopping(self) -> None:
        """Draining."""
        self._tell("STOPPING=1")

    def watchdog(self) -> None:
        """The loop is alive: to be called often, and told as often as somebody waits for it."""
        if self._untold is not None and self._send(self._untold, patience=0.0):
            self._untold = None
        now = time.monotonic()
        if self._interval is not None and now >= self._due:
            self._due = now + self._interval
            self._send("WATCHDOG=1", patience=0.0)

    def status(self, text: str) -> None:
        """One line for `systemctl status`."""
        self._send(f"STATUS={text}")

    def _tell(self, state: str) -> None:
        self._untold = None if self._send(state) else state

    def _send(self, message: str, patience: float = _PATIENCE) -> bool:
        if not self._address:
            return True
        try:
            with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as sock:
                sock.settimeout(patience)
                sock.sendto(message.encode(), self._address)
        except OSError as error:  # it is gone, or reads nothing, or we are out of descriptors: traffic goes on
            log.debug("the service manager was not told", extra={"detail": str(error)})
            return False
        return True
