"""Network devices, addresses, routes and rules, over netlink (the only module with pyroute2). All functions block."""

import contextlib
import errno
import socket
import threading
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from pyroute2 import IPRoute  # type: ignore[import-untyped]
from pyroute2.netlink.exceptions import NetlinkError  # type: ignore[import-untyped]

from gateway.errors import Reason, TunnelError
from gateway.vpn.addressing import Addressing

_NO_PREFIX_ROUTE = 0x200
"""IFA_F_NOPREFIXROUTE: the kernel adds no route for the prefix of the address."""
_PROTOCOL = 0x67
"""The protocol number (rt_protos) of the gateway's rules and routes. Cleanup after a killed gateway looks for it."""
_FIRST_TABLE, _TABLE_COUNT = 20_000, 10_000
"""The range of routing tables that the gateway uses."""
_table_lock = threading.Lock()
"""Held while a thread selects a table: the selection depends on the rules that exist."""
_UNREACHABLE_METRIC = 4096
"""Metric of the `unreachable` route, which must lose to the route through the device."""


@contextmanager
def _netlink_socket() -> Iterator[IPRoute]:
    try:
        with IPRoute() as netlink:
            yield netlink
    except NetlinkError as error:
        if error.code == errno.EPERM:
            raise TunnelError(
                Reason.PERMISSION, "cannot configure network devices: CAP_NET_ADMIN is required", fatal=True
            ) from error
        raise TunnelError(Reason.PROTOCOL, f"cannot configure the network device: {error}") from error


def _index(netlink: IPRoute, name: str) -> int:
    found = netlink.link_lookup(ifname=name)
    if not found:
        raise TunnelError(Reason.RESET, f"the network device {name} no longer exists")
    return int(found[0])


def move(name: str, namespace: int) -> None:
    """Move a device to another network namespace; the kernel removes its addresses and brings it down.

    Args:
        name: Name of the device.
        namespace: File descriptor of the network namespace.

    Raises:
        TunnelError: The device does not exist or cannot be moved.
    """
    with _netlink_socket() as netlink:
        netlink.link("set", index=_index(netlink, name), net_ns_fd=namespace)


def add_wireguard(name: str) -> bool:
    """Create a WireGuard device in the kernel.

    Args:
        name: Name of the device.

    Returns:
        False if the kernel does not support WireGuard.

    Raises:
        TunnelError: The kernel refuses to create the device.
    """
    with _netlink_socket() as netlink:
        try:
            netlink.link("add", ifname=name, kind="wireguard")
        except NetlinkError as error:
            if error.code == errno.EOPNOTSUPP:
                return False
            raise
    return True


def remove_stale(kind: str, prefix: str, is_locked: Callable[[str], bool]) -> None:
    """Remove the devices of gateways that were killed: the kernel keeps a device, with its keys, until it is removed.

    Args:
        kind: The kernel's name for the kind of device.
        prefix: Prefix of the device names. Only the gateway uses it.
        is_locked: Returns whether a running gateway uses the device with this name.

    Raises:
        TunnelError: A device cannot be removed.
    """
    with _netlink_socket() as netlink:
        for link in netlink.get_links():
            name = link.get_attr("IFLA_IFNAME")
            if name.startswith(prefix) and link.get_nested("IFLA_LINKINFO", "IFLA_INFO_KIND") == kind:
                if is_locked(name):
                    continue
                with _ignore_missing():
                    netlink.link("del", index=link["index"])


def remove(name: str) -> None:
    """Remove a device if it exists.

    Args:
        name: Name of the device.

    Raises:
        TunnelError: The device cannot be removed.
    """
    with _netlink_socket() as netlink:
        for index in netlink.link_lookup(ifname=name):
            netlink.link("del", index=index)


def prepare_namespace() -> None:
    """Prepare a new network namespace: bring up loopback, permit echo sockets, and probe the path MTU.

    Raises:
        TunnelError: The loopback device cannot be brought up.
    """
    with _netlink_socket() as netlink:
        netlink.link("set", index=_index(netlink, "lo"), state="up")
    for key, value in (
        ("ipv4/ping_group_range", "0 2147483647"),
        ("ipv4/tcp_mtu_probing", "1"),
    ):
        # In a container /proc/sys may be read-only. The VPN then works without echo requests and MTU probing.
        with contextlib.suppress(OSError):
            Path("/proc/sys/net", key).write_text(value)


def configure_in_namespace(name: str, addressing: Addressing) -> None:
    """Configure a device in its own network namespace: set its addresses and route all traffic through it.

    Args:
        name: Name of the device.
        addressing: Its settings.

    Raises:
        TunnelError: The device does not exist or cannot be configured.
    """
    with _netlink_socket() as netlink:
        index = _index(netlink, name)
        _bring_up(netlink, index, addressing)
        for each in addressing.usable_addresses:
            netlink.addr("replace", index=index, address=str(each.ip), prefixlen=each.network.prefixlen)
        for family, gateway in _default_routes(addressing):
            netlink.route("replace", dst="default", oif=index, family=family, **gateway)


def configure_in_host(name: str, addressing: Addressing) -> None:
    """Configure a device in the host's network namespace, with a routing table for sockets that are bound to it.

    Args:
        name: Name of the device.
        addressing: Its settings.

    Raises:
        TunnelError: The device does not exist or cannot be configured.
    """
    with _table_lock, _netlink_socket() as netlink:
        index = _index(netlink, name)
        table = _table_of(netlink, name) or _free_table(netlink, name)
        with contextlib.suppress(OSError):  # /proc/sys is read-only in containers
            Path("/proc/sys/net/ipv4/conf", name, "rp_filter").write_text("2")
        _bring_up(netlink, index, addressing)
        for each in addressing.usable_addresses:
            netlink.addr(
                "replace", index=index, address=str(each.ip), prefixlen=each.max_prefixlen, flags=_NO_PREFIX_ROUTE
            )
        _remove_table(netlink, table)
        for family, gateway in _default_routes(addressing):
            if gateway:
                netlink.route(
                    "replace",
                    dst=gateway["gateway"],
                    oif=index,
                    table=table,
                    family=family,
                    scope="link",
                    proto=_PROTOCOL,
                )
            netlink.route("replace", dst="default", oif=index, table=table, family=family, proto=_PROTOCOL, **gateway)
            netlink.route(
                "replace", dst="default", type="unreachable", table=table, family=family,
                priority=_UNREACHABLE_METRIC, proto=_PROTOCOL,
            )  # fmt: skip
            netlink.rule("add", oifname=name, table=table, family=family, protocol=_PROTOCOL, priority=table)
        for each in addressing.usable_addresses:
            # The kernel's own replies to late packets are bound to no device.
            family = socket.AF_INET if each.version == 4 else socket.AF_INET6
            netlink.rule(
                "add", src=str(each.ip), src_len=each.max_prefixlen, table=table, family=family, protocol=_PROTOCOL,
                priority=table,
            )  # fmt: skip


def _table_of(netlink: IPRoute, name: str) -> int | None:
    """Return the routing table that the gateway's rules assign to the device."""
    for rule in _rules(netlink):
        if rule.get_attr("FRA_OIFNAME") == name and rule.get_attr("FRA_PROTOCOL") == _PROTOCOL:
            return int(rule.get_attr("FRA_TABLE"))
    return None


def _free_table(netlink: IPRoute, name: str) -> int:
    """Return a routing table that no rule uses."""
    used = {rule.get_attr("FRA_TABLE") for rule in _rules(netlink)}
    start = zlib.crc32(name.encode())  # two gateways that start together are unlikely to select the same table
    return next(
        table
        for offset in range(_TABLE_COUNT)
        if (table := _FIRST_TABLE + (start + offset) % _TABLE_COUNT) not in used
    )


def _rules(netlink: IPRoute) -> list[Any]:
    return [rule for family in (socket.AF_INET, socket.AF_INET6) for rule in netlink.get_rules(family=family)]


def remove_policy_routing(name: str) -> None:
    """Remove the routing table and the rules of a device, if there are any.

    Args:
        name: Name of the device.

    Raises:
        TunnelError: They cannot be removed.
    """
    with _table_lock, _netlink_socket() as netlink:
        table = _table_of(netlink, name)
        if table is not None:
            _remove_table(netlink, table)


def _remove_table(netlink: IPRoute, table: int) -> None:
    """Remove a table and its rules, and those of killed gateways, whose devices no longer exist."""
    device_names = {link.get_attr("IFLA_IFNAME") for link in netlink.get_links()}
    for family in (socket.AF_INET, socket.AF_INET6):
        rules = [rule for rule in netlink.get_rules(family=family) if rule.get_attr("FRA_PROTOCOL") == _PROTOCOL]
        in_use = {rule.get_attr("FRA_TABLE") for rule in rules if rule.get_attr("FRA_OIFNAME") in device_names}
        in_use -= {table}
        for rule in rules:
            if (rule_table := rule.get_attr("FRA_TABLE")) not in in_use:
                with _ignore_missing():
                    netlink.rule("del", family=family, protocol=_PROTOCOL, **_rule_key(rule))
                with _ignore_missing():
                    netlink.flush_routes(table=rule_table, family=family)


@contextmanager
def _ignore_missing() -> Iterator[None]:
    """Ignore that another gateway, or the kernel together with the device, has removed the object already."""
    try:
        yield
    except NetlinkError as error:
        if error.code not in (errno.ENOENT, errno.ESRCH, errno.ENODEV):
            raise


def _rule_key(rule: Any) -> dict[str, Any]:
    """Return the arguments of `IPRoute.rule` that identify a rule."""
    key = {
        "oifname": rule.get_attr("FRA_OIFNAME"), "src": rule.get_attr("FRA_SRC"),
        "table": rule.get_attr("FRA_TABLE"), "priority": rule.get_attr("FRA_PRIORITY"),
    }  # fmt: skip
    return {name: value for name, value in key.items() if value is not None} | {"src_len": rule["src_len"]}


def _bring_up(netlink: IPRoute, index: int, addressing: Addressing) -> None:
    """Set the MTU, bring the device up, and remove the addresses that it no longer has."""
    if addressing.mtu:
        netlink.link("set", index=index, mtu=addressing.mtu)
    netlink.link("set", index=index, state="up")
    for old in netlink.get_addr(index=index):
        address = old.get_attr("IFA_ADDRESS")
        if all(address != str(each.ip) for each in addressing.usable_addresses) and not address.startswith("fe80:"):
            netlink.addr("del", index=index, address=address, prefixlen=old["prefixlen"])


def _default_routes(addressing: Addressing) -> Iterator[tuple[int, dict[str, str]]]:
    """Yield the address family and the `gateway` argument of each default route through the device."""
    for version, family in ((4, socket.AF_INET), (6, socket.AF_INET6)):
        if any(each.version == version for each in addressing.usable_addresses):
            hops = [str(each) for each in addressing.gateways if each.version == version]
            yield family, {"gateway": hops[0]} if hops else {}
