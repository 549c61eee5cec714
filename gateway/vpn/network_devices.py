"""Creates, configures and removes network devices over netlink. All functions block."""

import contextlib
import errno
import socket
from collections.abc import Callable, Iterator
from pathlib import Path

from pyroute2 import IPRoute  # type: ignore[import-untyped]
from pyroute2.netlink.exceptions import NetlinkError  # type: ignore[import-untyped]

from gateway.vpn.device_settings import DeviceSettings
from gateway.vpn.netlink import device_index, ignore_missing, netlink_socket


def move(name: str, namespace: int) -> None:
    """Move a device to another network namespace. The kernel removes the device's addresses, and brings it down.

    Args:
        name: Name of the device.
        namespace: File descriptor of the network namespace.

    Raises:
        TunnelError: The device does not exist or cannot be moved.
    """
    with netlink_socket() as netlink:
        netlink.link("set", index=device_index(netlink, name), net_ns_fd=namespace)


def add_wireguard(name: str) -> bool:
    """Create a WireGuard device in the kernel.

    Args:
        name: Name of the device.

    Returns:
        False if the kernel does not support WireGuard.

    Raises:
        TunnelError: The kernel refuses to create the device.
    """
    with netlink_socket() as netlink:
        try:
            netlink.link("add", ifname=name, kind="wireguard")
        except NetlinkError as error:
            if error.code == errno.EOPNOTSUPP:
                return False
            raise
    return True


def remove_stale(kind: str, prefix: str, is_locked: Callable[[str], bool]) -> None:
    """Remove the devices of killed gateways. Otherwise, the kernel would keep these devices and their keys.

    Args:
        kind: The kernel's name for the device type, such as `wireguard`.
        prefix: Prefix of the device names. No other program uses this prefix.
        is_locked: Returns whether a running gateway uses the device with this name.

    Raises:
        TunnelError: A device cannot be removed.
    """
    with netlink_socket() as netlink:
        for link in netlink.get_links():
            name = link.get_attr("IFLA_IFNAME")
            if name.startswith(prefix) and link.get_nested("IFLA_LINKINFO", "IFLA_INFO_KIND") == kind:
                if is_locked(name):
                    continue
                with ignore_missing():
                    netlink.link("del", index=link["index"])


def remove(name: str) -> None:
    """Remove a device if it exists.

    Args:
        name: Name of the device.

    Raises:
        TunnelError: The device cannot be removed.
    """
    with netlink_socket() as netlink:
        for index in netlink.link_lookup(ifname=name):
            netlink.link("del", index=index)


def prepare_namespace() -> None:
    """Prepare the new network namespace in which this thread runs.

    Bring up the loopback device, permit ping sockets, and enable path MTU probing.

    Raises:
        TunnelError: The loopback device cannot be brought up.
    """
    with netlink_socket() as netlink:
        netlink.link("set", index=device_index(netlink, "lo"), state="up")
    for key, value in (
        ("ipv4/ping_group_range", "0 2147483647"),
        ("ipv4/tcp_mtu_probing", "1"),
    ):
        # In a container, /proc/sys can be read-only. The VPN then works without MTU probing, and echo requests
        # require CAP_NET_RAW.
        with contextlib.suppress(OSError):
            Path("/proc/sys/net", key).write_text(value)


def configure_in_namespace(name: str, settings: DeviceSettings) -> None:
    """Configure a device in a separate network namespace. Call this function in a thread in this namespace.

    Set the addresses of the device, and route all traffic of the namespace through the device.

    Args:
        name: Name of the device.
        settings: The settings of the device.

    Raises:
        TunnelError: The device does not exist or cannot be configured.
    """
    with netlink_socket() as netlink:
        index = device_index(netlink, name)
        bring_up(netlink, index, settings)
        for each in settings.usable_addresses:
            netlink.addr("replace", index=index, address=str(each.ip), prefixlen=each.network.prefixlen)
        for family, gateway in default_routes(settings):
            netlink.route("replace", dst="default", oif=index, family=family, **gateway)


def bring_up(netlink: IPRoute, index: int, settings: DeviceSettings) -> None:
    """Set the MTU of a device, bring the device up, and remove addresses that `settings` does not contain.

    Link-local IPv6 addresses remain.

    Args:
        netlink: An open netlink socket.
        index: Index of the device.
        settings: The settings of the device.
    """
    if settings.mtu:
        netlink.link("set", index=index, mtu=settings.mtu)
    netlink.link("set", index=index, state="up")
    for old in netlink.get_addr(index=index):
        address = old.get_attr("IFA_ADDRESS")
        if all(address != str(each.ip) for each in settings.usable_addresses) and not address.startswith("fe80:"):
            netlink.addr("del", index=index, address=address, prefixlen=old["prefixlen"])


def default_routes(settings: DeviceSettings) -> Iterator[tuple[int, dict[str, str]]]:
    """Yield the address family and the next hop of each default route of a device.

    The next hop is a dictionary of arguments for `IPRoute.route`. Without a next hop, the dictionary is empty.

    Args:
        settings: The settings of the device.
    """
    for version, family in ((4, socket.AF_INET), (6, socket.AF_INET6)):
        if any(each.version == version for each in settings.usable_addresses):
            hops = [str(each) for each in settings.gateways if each.version == version]
            yield family, {"gateway": hops[0]} if hops else {}
