"""Locks on device names. While a device name is locked, the gateway that created the device is running.

A lock is an abstract unix socket (unix(7)). The kernel releases the lock when the process exits. Unlike a
lock file, the lock is visible only in the network namespace of the device. There, every container sees it.
"""

import errno
import socket


class DeviceLock:
    """A lock on a device name, held until `close` or the exit of the process.

    Args:
        device: Name of the device.

    Raises:
        OSError: The lock is unavailable; EADDRINUSE if another process holds it.
    """

    def __init__(self, device: str) -> None:
        self._sock = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        try:
            self._sock.bind(f"\0gateway-device-{device}")
        except OSError:
            self._sock.close()
            raise

    def close(self) -> None:
        """Release the lock."""
        self._sock.close()


def is_locked(device: str) -> bool:
    """Return whether a running gateway holds the lock on a device."""
    try:
        DeviceLock(device).close()
    except OSError as error:
        if error.errno == errno.EADDRINUSE:
            return True
        raise
    return False
