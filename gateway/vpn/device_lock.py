"""Locks the names of VPN devices, so that a gateway never removes a device that another running gateway uses.

A lock is an abstract unix socket (unix(7)), which the kernel removes when the process exits. Like a device, an
abstract socket belongs to a network namespace. Therefore, a gateway in another container with the same network
namespace detects the lock. A lock file would require a file system that both containers share.
"""

import errno
import socket


class DeviceLock:
    """Locks the name of one VPN device until `close` is called or the process exits.

    Args:
        device: Name of the device.

    Raises:
        OSError: The lock cannot be acquired; EADDRINUSE if another process holds it.
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
    """Return whether a running gateway holds the lock on the name of a device."""
    try:
        DeviceLock(device).close()
    except OSError as error:
        if error.errno == errno.EADDRINUSE:
            return True
        raise
    return False
