"""Which devices belong to a gateway that lives: a name that the kernel frees with the process.

An abstract unix socket (unix(7)) is known in just the network namespace where the device is, whatever container the
gateway is in; a lock on a file would not be.
"""

import errno
import socket


class Claim:
    """Holds a device's name until it is closed, or the process ends.

    Args:
        device: The device's name.

    Raises:
        OSError: EADDRINUSE: somebody else does.
    """

    def __init__(self, device: str) -> None:
        self._sock = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        try:
            self._sock.bind(f"\0gateway-device-{device}")
        except OSError:
            self._sock.close()
            raise

    def close(self) -> None:
        """Give the name up."""
        self._sock.close()


def is_claimed(device: str) -> bool:
    """Whether a gateway that lives has the device."""
    try:
        Claim(device).close()
    except OSError as error:
        if error.errno == errno.EADDRINUSE:
            return True
        raise
    return False
