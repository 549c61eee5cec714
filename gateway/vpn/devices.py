"""Network devices, addresses and routes, by netlink (the only module with pyroute2). Everything here blocks."""

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
"""IFA_F_NOPREFIXROUTE: the address brings no route of its own."""
_OURS = 0x67
"""Marks our rules and routes (rt_protos): what a killed gateway left behind is found by it."""
_TABLES = (20_000, 10_000)
"""Our routing tables: the first number, and how many."""
_one_at_a_time = threading.Lock()
"""Each of our threads chooses a table by the rules that are there."""
_LAST = 4096
"""Metric of the route that refuses what the device does not take."""


@contextmanager
def _netlink() -> Iterator[IPRoute]:
    try:
        with IPRoute() as netlink:
            yield netlink
    except NetlinkError as error:
        if error.code == errno.EPERM:
            raise TunnelError(
                Reason.PERMISSION, "network devices cannot be set up: that needs CAP_NET_ADMIN", fatal=True
            ) from error
        raise TunnelError(Reason.PROTOCOL, f"the network device cannot be set up: {error}") from error


def _index(netlink: IPRoute, name: str) -> int:
    found = netlink.link_lookup(ifname=name)
    if not found:
        raise TunnelError(Reason.RESET, f"the network device {name} is gone")
    return int(found[0])


def move(name: str, namespace: int) -> None:
    """Put a device into another namespace, which it enters without addresses and switched off."""
    with _netlink() as netlink:
        netlink.link("set", index=_index(netlink, name), net_ns_fd=namespace)


def add_wireguard(name: str) -> bool:
    """Make a WireGuard device in the kernel; False where the kernel has none."""
    with _netlink() as netlink:
        try:
            netlink.link("add", ifname=name, kind="wireguard")
        except NetlinkError as error:
            if error.code == errno.EOPNOTSUPP:
                return False
            raise
    return True


def remove_abandoned(kind: str, prefix: str, is_claimed: Callable[[str], bool]) -> None:
    """Remove the devices of gateways that were killed: the kernel keeps one, with its keys, until somebody does.

    Args:
        kind: The kernel's name for their kind.
        prefix: What their names begin with; only we call any so.
        is_claimed: Tells whether a gateway that lives has one.
    """
    with _netlink() as netlink:
        for link in netlink.get_links():
            name = link.get_attr("IFLA_IFNAME")
            if name.startswith(prefix) and link.get_nested("IFLA_LINKINFO", "IFLA_INFO_KIND") == kind:
                if is_claimed(name):
                    continue
                with _gone_already():
                    netlink.link("del", index=link["index"])


def remove(name: str) -> None:
    """Remove a device, if it is there."""
    with _netlink() as netlink:
        for index in netlink.link_lookup(ifname=name):
            netlink.link("del", index=index)


def prepare_namespace() -> None:
    """In a new namespace: loopback, echo sockets, and recovery from packets that are too large for a path."""
    with _netlink() as netlink:
        netlink.link("set", index=_index(netlink, "lo"), state="up")
    for key, value in (
        ("ipv4/ping_group_range", "0 2147483647"),
        ("ipv4/tcp_mtu_probing", "1"),
    ):
        # In a container /proc/sys may be read-only; all works without, only less well.
        with contextlib.suppress(OSError):
            Path("/proc/sys/net", key).write_text(value)


def set_up(name: str, wanted: Addressing) -> None:
    """In a namespace of our own: give the device its addresses, and everything that is not local goes there."""
    with _netlink() as netlink:
        index = _index(netlink, name)
        _switch_on(netlink, index, wanted)
        for each in wanted.carried:
            netlink.addr("replace", index=index, address=str(each.ip), prefixlen=each.network.prefixlen)
        for family, gateway in _ways(wanted):
            netlink.route("replace", dst="default", oif=index, family=family, **gateway)


def set_up_beside(name: str, wanted: Addressing) -> None:
    """In the host's namespace: only sockets that are bound to the device use it, by a table of their own."""
    with _one_at_a_time, _netlink() as netlink:
        index = _index(netlink, name)
        table = _table_of(netlink, name) or _free_table(netlink, name)
        with contextlib.suppress(OSError):  # read-only in containers
            Path("/proc/sys/net/ipv4/conf", name, "rp_filter").write_text("2")
        _switch_on(netlink, index, wanted)
        for each in wanted.carried:
            netlink.addr(
                "replace", index=index, address=str(each.ip), prefixlen=each.max_prefixlen, flags=_NO_PREFIX_ROUTE
            )
        _forget(netlink, table)
        for family, gateway in _ways(wanted):
            if gateway:
                netlink.route(
                    "replace",
                    dst=gateway["gateway"],
                    oif=index,
                    table=table,
                    family=family,
                    scope="link",
                    proto=_OURS,
                )
            netlink.route("replace", dst="default", oif=index, table=table, family=family, proto=_OURS, **gateway)
            netlink.route(
                "replace", dst="default", type="unreachable", table=table, family=family, priority=_LAST, proto=_OURS
            )
            netlink.rule("add", oifname=name, table=table, family=family, protocol=_OURS, priority=table)
        for each in wanted.carried:
            # What the kernel itself answers to late packets is bound to no device.
            family = socket.AF_INET if each.version == 4 else socket.AF_INET6
            netlink.rule(
                "add", src=str(each.ip), src_len=each.max_prefixlen, table=table, family=family, protocol=_OURS,
                priority=table,
            )  # fmt: skip


def _table_of(netlink: IPRoute, name: str) -> int | None:
    """The table that a rule of ours leads the device to."""
    for rule in _rules(netlink):
        if rule.get_attr("FRA_OIFNAME") == name and rule.get_attr("FRA_PROTOCOL") == _OURS:
            return int(rule.get_attr("FRA_TABLE"))
    return None


def _free_table(netlink: IPRoute, name: str) -> int:
    """A table that no rule of anybody's leads to."""
    taken = {rule.get_attr("FRA_TABLE") for rule in _rules(netlink)}
    first, count = _TABLES
    start = zlib.crc32(name.encode())  # so that two gateways that look at once hardly choose the same
    return next(table for at in range(count) if (table := first + (start + at) % count) not in taken)


def _rules(netlink: IPRoute) -> list[Any]:
    return [rule for family in (socket.AF_INET, socket.AF_INET6) for rule in netlink.get_rules(family=family)]


def forget_beside(name: str) -> None:
    """Remove the device's table and the rules that lead to it, where there are any."""
    with _one_at_a_time, _netlink() as netlink:
        table = _table_of(netlink, name)
        if table is not None:
            _forget(netlink, table)


def _forget(netlink: IPRoute, table: int) -> None:
    """Remove the rules of this table, and those of tables whose device went with a gateway that was killed."""
    there = {link.get_attr("IFLA_IFNAME") for link in netlink.get_links()}
    for family in (socket.AF_INET, socket.AF_INET6):
        rules = [rule for rule in netlink.get_rules(family=family) if rule.get_attr("FRA_PROTOCOL") == _OURS]
        used = {rule.get_attr("FRA_TABLE") for rule in rules if rule.get_attr("FRA_OIFNAME") in there} - {table}
        for rule in rules:
            if (of := rule.get_attr("FRA_TABLE")) not in used:
                with _gone_already():
                    netlink.rule("del", family=family, protocol=_OURS, **_of_rule(rule))
                with _gone_already():
                    netlink.flush_routes(table=of, family=family)


@contextmanager
def _gone_already() -> Iterator[None]:
    """Another gateway, or the kernel with the device, was quicker."""
    try:
        yield
    except NetlinkError as error:
        if error.code not in (errno.ENOENT, errno.ESRCH, errno.ENODEV):
            raise


def _of_rule(rule: Any) -> dict[str, Any]:
    """What tells a rule apart, in the words that make it."""
    told = {
        "oifname": rule.get_attr("FRA_OIFNAME"), "src": rule.get_attr("FRA_SRC"),
        "table": rule.get_attr("FRA_TABLE"), "priority": rule.get_attr("FRA_PRIORITY"),
    }  # fmt: skip
    return {key: value for key, value in told.items() if value is not None} | {"src_len": rule["src_len"]}


def _switch_on(netlink: IPRoute, index: int, wanted: Addressing) -> None:
    if wanted.mtu:
        netlink.link("set", index=index, mtu=wanted.mtu)
    netlink.link("set", index=index, state="up")
    for old in netlink.get_addr(index=index):
        address = old.get_attr("IFA_ADDRESS")
        if all(address != str(each.ip) for each in wanted.carried) and not address.startswith("fe80:"):
            netlink.addr("del", index=index, address=address, prefixlen=old["prefixlen"])


def _ways(wanted: Addressing) -> Iterator[tuple[int, dict[str, str]]]:
    """For each family of which there is an address: how to leave by the device."""
    for version, family in ((4, socket.AF_INET), (6, socket.AF_INET6)):
        if any(each.version == version for each in wanted.carried):
            hops = [str(each) for each in wanted.gateways if each.version == version]
            yield family, {"gateway": hops[0]} if hops else {}
