"""Locks on device names. A lock shows that the gateway that created the device still runs.

A lock is an abstract unix socket (unix(7)). The kernel releases the lock when the process ends. Unlike a lock file,
the lock is visible only in the network namespace of the device, and there to every container.
"""

import errno
import socket


class DeviceLock:
    """A lock on a device name, held until it is closed or the process ends.

    Args:
        device: Name of the device.

    Raises:
        OSError: EADDRINUSE: another process holds the lock.
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
