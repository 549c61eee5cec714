"""Configures policy routing for VPN devices in the host's network namespace.

Sockets bound to a device use the device's own routing table. All functions block.
"""

import contextlib
import socket
import threading
import zlib
from pathlib import Path
from typing import Any

from pyroute2 import IPRoute  # type: ignore[import-untyped]

from gateway.vpn.device_settings import DeviceSettings
from gateway.vpn.netlink import device_index, ignore_missing, netlink_socket
from gateway.vpn.network_devices import bring_up, default_routes

_NO_PREFIX_ROUTE = 0x200
"""IFA_F_NOPREFIXROUTE: the kernel adds no route for the prefix of the address."""
_PROTOCOL = 0x67
"""The protocol number (rt_protos) of the gateway's rules and routes. With this number, a gateway finds the rules and
routes of killed gateways."""
_FIRST_TABLE, _TABLE_COUNT = 20_000, 10_000
"""The range of routing tables that the gateway uses."""
_table_lock = threading.Lock()
"""Lock that prevents two threads from selecting the same unused table at the same time."""
_UNREACHABLE_METRIC = 4096
"""Metric of the `unreachable` route, which rejects packets while the device does not exist or has no routes. The
route through the device has a lower metric, and therefore has precedence."""


def configure_in_host(name: str, settings: DeviceSettings) -> None:
    """Configure a device in the host's network namespace. Create its routing table and rules, or replace them.

    Args:
        name: Name of the device.
        settings: The settings of the device.

    Raises:
        TunnelError: The device does not exist or cannot be configured.
    """
    with _table_lock, netlink_socket() as netlink:
        index = device_index(netlink, name)
        table = _free_table(netlink, name)
        # In a container, /proc/sys can be read-only. The device then keeps the default rp_filter.
        with contextlib.suppress(OSError):
            Path("/proc/sys/net/ipv4/conf", name, "rp_filter").write_text("2")
        # Add the rules before the addresses. Otherwise, if a packet arrived for an address that has no rule yet, the
        # kernel would reply through another device.
        _add_rules(netlink, name, settings, table)
        bring_up(netlink, index, settings)
        for each in settings.usable_addresses:
            netlink.addr(
                "replace", index=index, address=str(each.ip), prefixlen=each.max_prefixlen, flags=_NO_PREFIX_ROUTE
            )
        for family, gateway in default_routes(settings):
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
        _remove_tables(netlink, name, keep=table)


def _add_rules(netlink: IPRoute, name: str, settings: DeviceSettings, table: int) -> None:
    """Add the rules of a device, and the routes that reject packets while the device has no routes."""
    for family, _ in default_routes(settings):
        netlink.route(
            "replace", dst="default", type="unreachable", table=table, family=family,
            priority=_UNREACHABLE_METRIC, proto=_PROTOCOL,
        )  # fmt: skip
        netlink.rule("add", oifname=name, table=table, family=family, protocol=_PROTOCOL, priority=table)
    for each in settings.usable_addresses:
        # The rule above matches only packets of sockets that are bound to the device. If a late packet arrives for a
        # closed socket, the kernel replies without a socket. This rule matches such a reply by its source address.
        family = socket.AF_INET if each.version == 4 else socket.AF_INET6
        netlink.rule(
            "add", src=str(each.ip), src_len=each.max_prefixlen, table=table, family=family, protocol=_PROTOCOL,
            priority=table,
        )  # fmt: skip


def remove_policy_routing(name: str) -> None:
    """Remove the routing tables and the rules of a device, if they exist.

    Args:
        name: Name of the device.

    Raises:
        TunnelError: A table or a rule cannot be removed.
    """
    with _table_lock, netlink_socket() as netlink:
        _remove_tables(netlink, name)


def _free_table(netlink: IPRoute, name: str) -> int:
    """Return the number of a routing table that no rule uses. The search starts at a number derived from `name`."""
    used = {rule.get_attr("FRA_TABLE") for rule in _rules(netlink)}
    # Start the search for an unused table at a number derived from the device's name. Gateways that search
    # simultaneously then usually find different tables.
    start = zlib.crc32(name.encode())
    return next(
        table
        for offset in range(_TABLE_COUNT)
        if (table := _FIRST_TABLE + (start + offset) % _TABLE_COUNT) not in used
    )


def _rules(netlink: IPRoute) -> list[Any]:
    return [rule for family in (socket.AF_INET, socket.AF_INET6) for rule in netlink.get_rules(family=family)]


def _remove_tables(netlink: IPRoute, name: str, keep: int | None = None) -> None:
    """Remove the routing tables and the rules of a device, and those of devices that no longer exist.

    Args:
        netlink: An open netlink socket.
        name: Name of the device.
        keep: The number of the routing table to keep.
    """
    rules = [rule for rule in _rules(netlink) if rule.get_attr("FRA_PROTOCOL") == _PROTOCOL]
    # List the devices after the rules. Otherwise, the rules of a device that another gateway has just created would
    # look like rules without a device.
    others = {link.get_attr("IFLA_IFNAME") for link in netlink.get_links()} - {name}
    in_use = {rule.get_attr("FRA_TABLE") for rule in rules if rule.get_attr("FRA_OIFNAME") in others} | {keep}
    for rule in rules:
        if (table := rule.get_attr("FRA_TABLE")) not in in_use:
            with ignore_missing():
                netlink.rule("del", family=rule["family"], protocol=_PROTOCOL, **_rule_key(rule))
            with ignore_missing():
                netlink.flush_routes(table=table, family=rule["family"])


def _rule_key(rule: Any) -> dict[str, Any]:
    key = {
        "oifname": rule.get_attr("FRA_OIFNAME"), "src": rule.get_attr("FRA_SRC"),
        "table": rule.get_attr("FRA_TABLE"), "priority": rule.get_attr("FRA_PRIORITY"),
    }  # fmt: skip
    return {name: value for name, value in key.items() if value is not None} | {"src_len": rule["src_len"]}
