"""sd_notify(3): tells a service manager what the service is doing."""

import os
import socket
import time


class Notifier:
    """Sends states to the socket in `$NOTIFY_SOCKET`; does nothing where there is none."""

    def __init__(self) -> None:
        address = os.environ.get("NOTIFY_SOCKET", "")
        self._address = "\0" + address[1:] if address.startswith("@") else address
        watchdog = os.environ.get("WATCHDOG_USEC", "")
        ours = os.environ.get("WATCHDOG_PID", str(os.getpid())) == str(os.getpid())
        self.watchdog_interval = int(watchdog) / 2e6 if watchdog.isdigit() and ours else None
        """Seconds between two `watchdog` calls, or None when nobody waits for them."""

    def ready(self) -> None:
        """Started, or done reloading."""
        self._send("READY=1")

    def reloading(self) -> None:
        """Reading the configuration again."""
        self._send(f"RELOADING=1\nMONOTONIC_USEC={time.clock_gettime_ns(time.CLOCK_MONOTONIC) // 1000}")

    def stopping(self) -> None:
        """Draining."""
        self._send("STOPPING=1")

    def watchdog(self) -> None:
        """The loop is alive."""
        self._send("WATCHDOG=1")

    def status(self, text: str) -> None:
        """One line for `systemctl status`."""
        self._send(f"STATUS={text}")

    def _send(self, message: str) -> None:
        if not self._address:
            return
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as sock:
            try:
                sock.sendto(message.encode(), self._address)
            except OSError:
                return  # the manager is gone: nobody is left to tell
