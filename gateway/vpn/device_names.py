"""Chooses the names of VPN devices. All devices of one kind of VPN have the same name prefix."""

import secrets


def new_device_name(letter: str) -> str:
    """Return a unique name for a new device.

    Args:
        letter: The kind of VPN: `o` for OpenVPN, `w` for WireGuard.
    """
    return device_prefix(letter) + secrets.token_hex(4)


def device_prefix(letter: str) -> str:
    """Return the prefix that all device names of one kind of VPN share.

    Args:
        letter: The kind of VPN: `o` for OpenVPN, `w` for WireGuard.
    """
    return f"gw{letter}-"
