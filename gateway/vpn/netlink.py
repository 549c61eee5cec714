"""Opens netlink sockets, through which the gateway configures network devices. All functions block."""

import errno
from collections.abc import Iterator
from contextlib import contextmanager

from pyroute2 import IPRoute  # type: ignore[import-untyped]
from pyroute2.netlink.exceptions import NetlinkError  # type: ignore[import-untyped]

from gateway.errors import FailureReason, TunnelError


@contextmanager
def netlink_socket() -> Iterator[IPRoute]:
    """Open a netlink socket for the network namespace of this thread.

    Raises:
        TunnelError: A netlink request in the `with` block failed; fatal if the process lacks CAP_NET_ADMIN.
    """
    try:
        with IPRoute() as netlink:
            yield netlink
    except NetlinkError as error:
        if error.code == errno.EPERM:
            raise TunnelError(
                FailureReason.PERMISSION, "cannot configure network devices: CAP_NET_ADMIN is required", fatal=True
            ) from error
        raise TunnelError(FailureReason.PROTOCOL, f"cannot configure the network device: {error}") from error


def device_index(netlink: IPRoute, name: str) -> int:
    """Return the index of a network device.

    Args:
        netlink: An open netlink socket.
        name: Name of the device.

    Raises:
        TunnelError: The device does not exist.
    """
    found = netlink.link_lookup(ifname=name)
    if not found:
        raise TunnelError(FailureReason.RESET, f"the network device {name} no longer exists")
    return int(found[0])


@contextmanager
def ignore_missing() -> Iterator[None]:
    """Ignore netlink errors in the `with` block if a rule, route or device no longer exists."""
    try:
        yield
    except NetlinkError as error:
        if error.code not in (errno.ENOENT, errno.ESRCH, errno.ENODEV):
            raise
