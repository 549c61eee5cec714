"""Parses the output of `wg show` (wg(8)). Does no I/O."""

from dataclasses import dataclass


@dataclass(frozen=True)
class WireGuardDeviceStatus:
    """The status of a WireGuard device, parsed from the output of `wg show`.

    Args:
        last_handshake: Time of the latest handshake with one of the peers, in seconds since the epoch; 0 before the
            first one.
        received: Number of bytes received from all peers.
        endpoints: The current endpoints of the peers, which change when a peer roams to another address.
    """

    last_handshake: int
    received: int
    endpoints: tuple[str, ...] = ()


def parse_dump(text: str) -> WireGuardDeviceStatus:
    """Parse the output of `wg show DEVICE dump`. Skip the first line, which contains the device's private key."""
    rows = [line.split("\t") for line in text.splitlines()[1:]]
    return WireGuardDeviceStatus(
        last_handshake=max((int(row[4]) for row in rows), default=0),
        received=sum(int(row[5]) for row in rows),
        endpoints=tuple(row[2] for row in rows if row[2] != "(none)"),
    )
