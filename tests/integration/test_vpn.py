"""Tests OpenVPN and WireGuard tunnels, and their failures, with real servers in a network namespace."""

import contextlib
import ipaddress
import itertools
import os
import re
import signal
import socket
import stat
import subprocess
import sys
import textwrap
import time
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pymysql
import pytest

from gateway.demo import mariadb, nfs, postgres
from gateway.demo.server_process import ServerProcess, find, free_port
from gateway.demo.sshd import Bastion
from gateway.vpn import network_devices, openvpn_privileges, policy_routing
from gateway.vpn.device_lock import DeviceLock, is_locked
from gateway.vpn.device_settings import DeviceSettings
from gateway.vpn.network_namespace import NetworkNamespace
from tests.support.certificates import Authority
from tests.support.clients import mysql, query_mysql, query_postgres, read_nfs, read_smb
from tests.support.configs import database_check
from tests.support.files import PYTHON_PATH
from tests.support.gateway_process import Gateway, command
from tests.support.lateness import Lateness
from tests.support.netns import BEHIND, BEHIND_V6, NAMES, OUTER_FAR, OUTER_OTHER, give_addresses, inside, run, two
from tests.support.requirements import need
from tests.support.servers import Samba
from tests.support.vpn import OpenVpnServer, nothing_outside
from tests.support.wireguard_peer import WireGuardPeer

pytestmark = [pytest.mark.integration, pytest.mark.timeout(120)]

NEAR, FAR = NAMES
UP = 20
KINDS = ("openvpn", "wireguard")
Record = Callable[[str, object], None]

NAME_SERVER = """
import socket, sys, dns.message, dns.rrset
names = {"orders.far.example.": sys.argv[1]}
sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
sock.bind((sys.argv[1], 53))
while True:
    text, sender = sock.recvfrom(4096)
    question = dns.message.from_wire(text)
    answer = dns.message.make_response(question)
    asked = question.question[0]
    if asked.name.to_text().lower() not in names:
        answer.set_rcode(3)
    elif asked.rdtype == 1:
        answer.answer.append(dns.rrset.from_text(asked.name, 60, "IN", "A", names[asked.name.to_text().lower()]))
    sock.sendto(answer.to_wire(), sender)
"""


@dataclass
class World:
    """The VPN servers, and the servers behind the VPNs. All run in the network namespace `FAR`."""

    folder: Path
    authority: Authority
    mariadb: mariadb.MariaDB
    postgres: postgres.Postgres
    nfs: nfs.NfsServer
    samba: Samba
    bastion: Bastion
    openvpn: OpenVpnServer
    wireguard: WireGuardPeer

    def server(self, kind: str) -> OpenVpnServer | WireGuardPeer:
        return self.openvpn if kind == "openvpn" else self.wireguard


@pytest.fixture
def far(world: World) -> World:
    """Return `world`, and start the VPN servers that an earlier failed test has stopped."""
    for vpn in (world.openvpn, world.wireguard):
        if not vpn.process.running:
            vpn.start()
    return world


@pytest.fixture(scope="module")
def world(server_folder: Path) -> Iterator[World]:
    need(os.geteuid() == 0 and Path("/dev/net/tun").exists(), "root, and /dev/net/tun")
    for program, package in (
        ("openvpn", "openvpn"), ("wireguard-go", "wireguard-go"), ("wg", "wireguard-tools"),
        ("tcpdump", "tcpdump"), ("iptables", "iptables"), ("ip", "iproute2"),
    ):  # fmt: skip
        need(find(program) is not None, f"{program} (package {package})")
    need(find("smbd") is not None and find("smbclient") is not None, "smbd and smbclient (packages samba smbclient)")
    need(mariadb.available() and postgres.available() and nfs.available(), "mariadbd, postgres, ganesha.nfsd")
    folder = server_folder / "vpn"
    folder.mkdir()
    with contextlib.ExitStack() as stack:
        stack.enter_context(two())
        authority = Authority(folder / "certificates")
        world = World(
            folder,
            authority,
            mariadb.MariaDB(folder / "mariadb"),
            postgres.Postgres(folder / "postgres"),
            nfs.NfsServer(folder / "nfs"),
            Samba(folder / "samba"),
            Bastion(folder / "bastion"),
            OpenVpnServer(folder / "openvpn", authority),
            WireGuardPeer(folder / "wireguard"),
        )
        names = ServerProcess([sys.executable, "-c", NAME_SERVER, BEHIND], folder / "names.log")
        stack.callback(names.stop)
        with inside(FAR):
            names.spawn()
            for server in (world.mariadb, world.postgres, world.nfs, world.samba, world.bastion):
                stack.callback(server.stop)
                server.start()
        for vpn in (world.openvpn, world.wireguard):
            stack.callback(vpn.stop)
            vpn.start()
        with (world.postgres.folder / "data/pg_hba.conf").open("a") as access:
            access.write("host all all all scram-sha-256\n")
        world.postgres.send(signal.SIGHUP)
        (world.nfs.export / "hello.txt").write_text("hello over NFS\n")
        with inside(NEAR):
            yield world


def tunnel(world: World, kind: str, gateway: Gateway, more: str = "") -> str:
    """Return the configuration of a tunnel of kind `kind`, as a YAML flow mapping."""
    config = world.server(kind).client(gateway.folder / f"{kind}.conf")
    return f"{{kind: {kind}, config: {config}{more}}}"


def backends(world: World, gateway: Gateway, via: str, host: str = BEHIND) -> tuple[str, dict[str, int]]:
    """Return the configuration of five backends through the tunnel `via`, and the port of each listener."""
    ports = {name: free_port() for name in ("orders", "reports", "media", "share", "raw")}
    text = f"""
      orders:
        {{kind: mysql, via: {via}, targets: ["{host}:{world.mariadb.port}"], listen: "127.0.0.1:{ports["orders"]}",
         check: {database_check(world.mariadb, gateway.folder)}}}
      reports:
        {{kind: postgres, via: {via}, targets: ["{host}:{world.postgres.port}"],
         listen: "127.0.0.1:{ports["reports"]}", check: {database_check(world.postgres, gateway.folder)}}}
      media:
        {{kind: nfs, via: {via}, targets: ["{host}:{world.nfs.port}"], listen: "127.0.0.1:{ports["media"]}",
         export: /media, check: {{interval: 1s}}}}
      share:
        {{kind: smb, via: {via}, targets: ["{host}:{world.samba.port}"], listen: "127.0.0.1:{ports["share"]}",
         share: media, check: {{interval: 1s}}}}
      raw:
        {{kind: tcp, via: {via}, targets: ["{host}:{world.mariadb.port}"], listen: "127.0.0.1:{ports["raw"]}",
         check: {{interval: 1s}}}}
    """
    return text, ports


def write(gateway: Gateway, tunnels: str, of_backends: str) -> None:
    sections = {"tunnels": tunnels, "backends": of_backends}
    indented = {name: textwrap.indent(textwrap.dedent(text), "  ") for name, text in sections.items()}
    gateway.write("".join(f"{name}:\n{text}\n" for name, text in indented.items()))


def tcp_backend(world: World, name: str = "orders", via: str = "office") -> str:
    """Return the configuration of a TCP backend."""
    target, listen = f"{BEHIND}:{world.mariadb.port}", f"127.0.0.1:{free_port()}"
    return f'{name}: {{kind: tcp, via: {via}, targets: ["{target}"], listen: "{listen}"}}'


def mysql_backend(world: World, gateway: Gateway, listen: int) -> str:
    """Return the configuration of a MySQL backend with a check every second."""
    check = database_check(world.mariadb, gateway.folder, "interval: 1s, timeout: 1s")
    target = f"{BEHIND}:{world.mariadb.port}"
    keys = f'kind: mysql, via: office, targets: ["{target}"], listen: "127.0.0.1:{listen}", check: {check}'
    return f"orders: {{{keys}}}"


def host_network() -> str:
    """Return the routes, routing rules and name servers of the host. Many VPN clients change these."""
    commands = "ip -4 route show table all; ip -6 route show table all; ip rule; ip -6 rule; cat /etc/resolv.conf"
    # The kernel adds link-local addresses to a device at an unpredictable time.
    return "".join(line for line in run(commands).splitlines(keepends=True) if "fe80:" not in line)


def use_all(world: World, ports: dict[str, int], folder: Path) -> None:
    assert query_mysql(world.mariadb, ports["orders"]) > 0
    assert query_postgres(world.postgres, ports["reports"]) > 0
    assert read_nfs(ports["media"]) == "hello over NFS\n"
    assert read_smb(ports["share"], folder) == "hello over SMB\n"
    (folder / "got.txt").unlink()
    assert query_mysql(world.mariadb, ports["raw"]) > 0


@pytest.mark.parametrize("isolation", ["namespace", "device"])
@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_of_backend_is_reached_and_the_host_stays_as_it_is(
    far: World, gateway: Gateway, kind: str, isolation: str
) -> None:
    before = host_network()
    text, ports = backends(far, gateway, "office")
    write(gateway, f"office: {tunnel(far, kind, gateway, f', isolation: {isolation}')}", text)
    with nothing_outside(gateway.folder / "outer.txt"):
        gateway.start().wait_up(*ports, timeout=UP)
        use_all(far, ports, gateway.folder)
        if isolation == "namespace":
            assert host_network() == before
    gateway.stop()
    assert host_network() == before


def raw(far: World, gateway: Gateway, kind: str, more: str = "") -> int:
    """Start a gateway with one MySQL backend and one tunnel of kind `kind`; return the port of the listener."""
    listen = free_port()
    write(
        gateway,
        f"office: {tunnel(far, kind, gateway, more)}",
        mysql_backend(far, gateway, listen),
    )
    gateway.start().wait_up("orders", timeout=UP)
    return listen


@pytest.mark.parametrize("kind", KINDS)
def test_a_bastion_behind_a_vpn(far: World, gateway: Gateway, kind: str) -> None:
    known = gateway.folder / "known_hosts"
    known.write_text(far.bastion.known_hosts.read_text().replace("127.0.0.1", BEHIND))
    text, ports = backends(far, gateway, "bastion", host="127.0.0.1")
    bastion = (
        f"{{kind: ssh, via: office, host: {BEHIND}, port: {far.bastion.port}, user: {far.bastion.user}, "
        f"identity_files: [{far.bastion.client_key}], known_hosts: [{known}]}}"
    )
    write(gateway, f"office: {tunnel(far, kind, gateway)}\nbastion: {bastion}", text)
    with nothing_outside(gateway.folder / "outer.txt", f".{far.bastion.port}:"):
        gateway.start().wait_up(*ports, timeout=UP)
        use_all(far, ports, gateway.folder)


def test_a_vpn_and_a_bastion_are_two_paths_to_the_same_servers(far: World, gateway: Gateway) -> None:
    known = gateway.folder / "known_hosts"
    known.write_text(far.bastion.known_hosts.read_text().replace("127.0.0.1", OUTER_OTHER))
    bastion = (
        f"{{kind: ssh, host: {OUTER_OTHER}, port: {far.bastion.port}, user: {far.bastion.user}, "
        f"identity_files: [{far.bastion.client_key}], known_hosts: [{known}]}}"
    )
    text, ports = backends(far, gateway, "[office, bastion]")
    write(gateway, f"office: {tunnel(far, 'openvpn', gateway)}\nbastion: {bastion}", text)

    def in_use(tunnel: str) -> bool:
        paths = [path for name in ports for path in gateway.backend(name)["paths"] if path["tunnel"] == tunnel]
        return all(path["up"] and path["in_use"] for path in paths)

    gateway.start().wait_up(*ports, timeout=UP)
    gateway.wait(lambda: in_use("office"), UP)
    use_all(far, ports, gateway.folder)
    assert gateway.tunnel("office")["connects"] == 1  # queries and transfers use one VPN connection
    far.openvpn.stop()
    gateway.wait(lambda: in_use("bastion"), UP)
    use_all(far, ports, gateway.folder)


def test_openvpn_through_an_ssh_tunnel(far: World, gateway: Gateway) -> None:
    server = OpenVpnServer(gateway.folder / "server", far.authority, port=1195, protocol="tcp", network="10.18.0")
    server.start()
    try:
        known = gateway.folder / "known_hosts"
        known.write_text(far.bastion.known_hosts.read_text().replace("127.0.0.1", OUTER_OTHER))
        bastion = (
            f"{{kind: ssh, host: {OUTER_OTHER}, port: {far.bastion.port}, user: {far.bastion.user}, "
            f"identity_files: [{far.bastion.client_key}], known_hosts: [{known}]}}"
        )
        config = server.client(gateway.folder / "office.ovpn", host="127.0.0.1")
        text, ports = backends(far, gateway, "office")
        tunnels = f"bastion: {bastion}\noffice: {{kind: openvpn, via: bastion, config: {config}}}"
        write(gateway, tunnels, text)
        with nothing_outside(gateway.folder / "outer.txt", ".1195:"):
            gateway.start().wait_up(*ports, timeout=UP)
            use_all(far, ports, gateway.folder)
    finally:
        server.stop()


def test_openvpn_over_udp_through_an_ssh_tunnel_is_an_error(far: World, gateway: Gateway) -> None:
    known = gateway.folder / "known_hosts"
    known.write_text(far.bastion.known_hosts.read_text().replace("127.0.0.1", OUTER_OTHER))
    write(
        gateway,
        f"""
        bastion: {{kind: ssh, host: {OUTER_OTHER}, port: {far.bastion.port}, user: {far.bastion.user},
                   identity_files: [{far.bastion.client_key}], known_hosts: [{known}]}}
        office: {tunnel(far, "openvpn", gateway, ", via: bastion")}
    """,
        tcp_backend(far),
    )
    gateway.start().wait(lambda: gateway.tunnel("office")["reason"] == "protocol")
    assert "proto tcp" in gateway.tunnel("office")["detail"]


@pytest.mark.parametrize("kind", KINDS)
def test_names_are_looked_up_behind_the_vpn(far: World, gateway: Gateway, kind: str) -> None:
    text, ports = backends(far, gateway, "office", host="orders.far.example")
    short, more_ports = backends(far, gateway, "office", host="orders")
    for name, other in (("orders", "o"), ("reports", "r"), ("media", "m"), ("share", "s"), ("raw", "w")):
        short = short.replace(f"{name}:", f"{other}:", 1)
    text += short
    write(gateway, f"office: {tunnel(far, kind, gateway)}", text)
    gateway.start().wait_up("o", "r", "m", "s", "w", *ports, timeout=UP)
    use_all(far, ports, gateway.folder)
    use_all(far, more_ports, gateway.folder)


def test_openvpn_with_a_user_and_a_password(far: World, gateway: Gateway) -> None:
    login = ("office", 'se"cr\\et')
    server = OpenVpnServer(gateway.folder / "server", far.authority, port=1196, network="10.19.0", login=login)
    server.start()
    try:
        config = server.client(gateway.folder / "office.ovpn")
        secret = gateway.folder / "secret"
        secret.write_text(login[1] + "\n")
        text, ports = backends(far, gateway, "office")
        keys = f"kind: openvpn, config: {config}, user: {login[0]}, password_file: {secret}"
        write(gateway, f"office: {{{keys}}}", text)
        gateway.start().wait_up(*ports, timeout=UP)
        use_all(far, ports, gateway.folder)
        gateway.stop()
        assert login[1] not in gateway.log

        secret.write_text("wrong")
        gateway.start().wait(lambda: gateway.tunnel("office")["reason"] == "auth", UP)
        assert "wrong" not in gateway.log
    finally:
        server.stop()


ECHO = """
import socket, sys
with socket.create_server((sys.argv[1], 4000), family=socket.AF_INET6) as server:
    while True:
        client, _ = server.accept()
        client.sendall(b"by v6\\n")
        client.close()
"""


@pytest.mark.parametrize("isolation", ["namespace", "device"])
@pytest.mark.parametrize("kind", KINDS)
def test_ipv6_traffic_never_bypasses_the_vpn(far: World, gateway: Gateway, kind: str, isolation: str) -> None:
    listen = free_port()
    server = ServerProcess([sys.executable, "-c", ECHO, BEHIND_V6], gateway.folder / "echo.log")
    with inside(FAR):
        server.start(4000)
    try:
        write(
            gateway,
            f"office: {tunnel(far, kind, gateway, f', isolation: {isolation}')}",
            f'six: {{kind: tcp, via: office, targets: ["[{BEHIND_V6}]:4000"], listen: "127.0.0.1:{listen}"}}',
        )
        # The server can also be reached without the VPN, so the test can detect traffic that bypasses the VPN.
        with socket.create_connection((BEHIND_V6, 4000), timeout=5) as direct:
            assert direct.recv(10) == b"by v6\n"
            assert direct.recv(10) == b""  # receive the FIN before the packet capture starts
        with nothing_outside(gateway.folder / "outer.txt"):
            gateway.start().wait_up("six", timeout=UP)
            with socket.create_connection(("127.0.0.1", listen), timeout=5) as client:
                assert client.recv(10) == b"by v6\n"
            with dropping(far), socket.create_connection(("127.0.0.1", listen), timeout=5) as client:
                client.settimeout(4)
                with contextlib.suppress(TimeoutError, ConnectionResetError):
                    assert client.recv(10) == b""
    finally:
        server.stop()


@pytest.mark.parametrize("kind", KINDS)
def test_a_changed_vpn_is_closed_before_its_successor_opens(far: World, gateway: Gateway, kind: str) -> None:
    """The gateway never runs two VPN clients with the same identity at the same time."""
    listen = raw(far, gateway, kind)
    before = vpn_children(gateway)
    gateway.config.write_text(gateway.config.read_text().replace("kind: " + kind, f"kind: {kind}, mtu: 1300"))
    assert gateway.command("reload").returncode == 0
    gateway.wait(lambda: len(found := vpn_children(gateway)) == 1 and found != before, 25)
    until_a_query_succeeds(far, listen, 25)
    with inside(NEAR):
        assert len(vpn_children(gateway)) == 1
    descriptors = gateway.descriptors()
    for mtu in (1310, 1320, 1330, 1340):
        text = re.sub(r"mtu: \d+", f"mtu: {mtu}", gateway.config.read_text())
        gateway.config.write_text(text)
        assert gateway.client.post("/-/reload")[0] == 200
        for _ in range(10):
            assert len(vpn_children(gateway)) <= 1
    until_a_query_succeeds(far, listen, 25)
    gateway.wait(lambda: gateway.descriptors() <= descriptors + 4, 10)


def test_replacing_a_child_process_leaves_the_management_of_the_others(far: World, gateway: Gateway) -> None:
    """Before OpenVPN starts, the gateway removes the directories of killed gateways.

    The gateway must not remove directories that other OpenVPN processes still use.
    """
    other = OpenVpnServer(gateway.folder / "other", far.authority, port=1350, network="10.38.0").start()
    listen = free_port()
    try:
        config = other.client(gateway.folder / "other.ovpn")
        write(
            gateway,
            f"office: {tunnel(far, 'openvpn', gateway)}\nother: {{kind: openvpn, config: {config}}}",
            mysql_backend(far, gateway, listen) + "\n" + tcp_backend(far, "b", "other"),
        )
        gateway.start().wait_up("orders", "b", timeout=UP)
        victims = vpn_children(gateway)
        os.kill(int(victims[-1].split()[0]), signal.SIGKILL)
        gateway.wait(lambda: len(vpn_children(gateway)) == 2 and vpn_children(gateway) != victims, 10)
        gateway.wait(lambda: gateway.tunnel("office")["connects"] + gateway.tunnel("other")["connects"] == 3, UP)
        gateway.wait_up("orders", "b", timeout=UP)
        far.openvpn.process.stop(signal.SIGKILL)
        other.process.stop(signal.SIGKILL)
        gateway.wait(lambda: gateway.tunnel("office")["state"] == gateway.tunnel("other")["state"] == "suspect", 20)
        far.openvpn.start()
        other.start()
        gateway.wait_up("orders", "b", timeout=30)
    finally:
        other.stop()


def test_four_vpns_bound_to_devices_end_with_the_gateway(far: World, gateway: Gateway) -> None:
    """Each VPN adds routing rules to the host. When the gateway stops, it must remove the rules of all VPNs."""
    before = host_network()
    others = [
        OpenVpnServer(
            gateway.folder / f"server{number}", far.authority, port=1300 + number, network=f"10.3{number}.0"
        )
        for number in range(4)
    ]
    try:
        tunnels = []
        for number, server in enumerate(others):
            config = server.start().client(gateway.folder / f"{number}.ovpn")
            tunnels.append(f"t{number}: {{kind: openvpn, isolation: device, config: {config}}}")
        names = [f"b{number}" for number in range(4)]
        text = "\n".join(tcp_backend(far, name, f"t{number}") for number, name in enumerate(names))
        write(gateway, "\n".join(tunnels), text)
        for _ in range(3):
            gateway.start().wait_up(*names, timeout=UP)
            assert gateway.process is not None
            child = gateway.process
            child.send(signal.SIGTERM)
            deadline = time.monotonic() + 10
            while child.running:
                assert time.monotonic() < deadline, gateway.log
                time.sleep(0.05)
            assert host_network() == before
    finally:
        for server in others:
            server.stop()


def test_two_devices_with_the_same_routing_table_hash_get_different_tables(far: World) -> None:
    """Each device needs its own routing table, because the removal of a device removes all routes in its table."""
    one, two = _of_one_table()
    wanted = DeviceSettings((ipaddress.ip_interface("10.90.0.1/24"),))
    with inside(NEAR):
        for name in (one, two):
            run(f"ip link add {name} type veth peer name {name}-p; ip link set {name}-p up")
        try:
            before = run("ip rule; ip route show table all")
            for name in (one, two, one):
                policy_routing.configure_in_host(name, wanted)
            tables = re.findall(r"oif (\S+) lookup (\d+)", run("ip rule"))
            assert sorted(name for name, _ in tables) == sorted((one, two))
            assert len({table for _, table in tables}) == 2
            for name, table in tables:
                assert f"default dev {name}" in run(f"ip route show table {table}")
            for _ in range(2):  # the second removal finds no routes, and must not fail
                policy_routing.remove_policy_routing(one)
            assert f"default dev {two}" in run(f"ip route show table {dict(tables)[two]}")
            policy_routing.remove_policy_routing(two)
        finally:
            run(f"ip link del {one}; ip link del {two}")
        assert run("ip rule") in before


def test_a_device_has_its_rules_before_it_has_addresses(far: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without rules for the address, the kernel would reply to a late packet through another device."""
    seen: list[tuple[str, str, str]] = []

    def bring_up(*arguments: Any) -> None:
        seen.append(
            (
                run("ip addr show dev gwt-new"),
                run("ip rule; ip -6 rule"),
                run("ip -4 route show table all; ip -6 route show table all"),
            )
        )
        network_devices.bring_up(*arguments)

    monkeypatch.setattr(policy_routing, "bring_up", bring_up)
    with inside(NEAR):
        before = run("ip rule; ip -6 rule")
        run("ip link add gwt-new type veth peer name gwt-new-p; ip link set gwt-new-p up")
        try:
            for number in (1, 2):
                own = (f"10.90.0.{number}", f"fd90::{number}")
                policy_routing.configure_in_host(
                    "gwt-new", DeviceSettings(tuple(ipaddress.ip_interface(f"{each}/24") for each in own))
                )
                addresses, rules, routes = seen[-1]
                (table,) = {table for each in own for table in re.findall(rf"from {each} lookup (\d+)", rules)}
                assert not any(each in addresses for each in own)
                assert rules.count(f"from all oif gwt-new lookup {table}") == 2
                # The output for IPv6 also names the device `lo`.
                assert len(re.findall(rf"unreachable default (?:dev lo )?table {table} ", routes)) == 2
                assert "default dev gwt-new" in run(f"ip route show table {table}")
            assert "10.90.0.1" not in run("ip rule; ip addr show dev gwt-new")
            policy_routing.remove_policy_routing("gwt-new")
        finally:
            run("ip link del gwt-new")
        assert run("ip rule; ip -6 rule") == before


def _of_one_table() -> tuple[str, str]:
    seen: dict[int, str] = {}
    for number in itertools.count():
        name = f"gwt-{number:x}"
        first = seen.setdefault(zlib.crc32(name.encode()) % 10_000, name)
        if first != name:
            return first, name
    raise AssertionError


def test_the_device_of_a_gateway_that_was_killed_is_removed_and_no_other() -> None:
    """The test uses veth devices, because the kernel can lack WireGuard."""
    place = NetworkNamespace()
    try:

        def prepare() -> list[DeviceLock]:
            for name in ("gww-dead", "gww-alive", "other"):
                run(f"ip link add {name} type veth peer name p-{name}")
            run("ip tuntap add gww-kind mode tun")
            return [DeviceLock("gww-alive")]

        def there() -> set[str]:
            network_devices.remove_stale("veth", "gww-", is_locked)
            return {line.split()[0].partition("@")[0] for line in run("ip -br link").splitlines()}

        (lock,) = place.submit(prepare).result(20)
        with pytest.raises(OSError, match="in use"):
            place.submit(lambda: DeviceLock("gww-alive")).result(20)
        assert place.submit(there).result(20) >= {"gww-alive", "other", "gww-kind"}
        assert "gww-dead" not in place.submit(there).result(20)
        lock.close()
        assert "gww-alive" not in place.submit(there).result(20)
    finally:
        place.close()


@pytest.mark.parametrize("kind", KINDS)
def test_a_restarted_server_is_reconnected(far: World, gateway: Gateway, kind: str, record_property: Record) -> None:
    listen = raw(far, gateway, kind)
    server = far.server(kind)
    child = vpn_children(gateway)
    with nothing_outside(gateway.folder / "outer.txt"):
        server.process.stop(signal.SIGKILL)
        gateway.wait(lambda: gateway.tunnel("office")["state"] != "up", 30)
        time.sleep(3)
        server.start()
        back = until_a_query_succeeds(far, listen, 20)
    assert vpn_children(gateway) == child, "the reconnect must not start a new process"
    record_property("took", f"{kind}: traffic again {back:.1f} s after the server is back")


@pytest.mark.parametrize("kind", KINDS)
def test_dropped_packets_are_noticed(far: World, gateway: Gateway, kind: str, record_property: Record) -> None:
    listen = raw(far, gateway, kind)
    gateway.wait(lambda: gateway.tunnel("office")["rtt_seconds"] is not None)
    child = vpn_children(gateway)
    with nothing_outside(gateway.folder / "outer.txt"):
        began = time.monotonic()
        with dropping(far), Lateness() as machine:
            gateway.wait(lambda: gateway.tunnel("office")["state"] == "suspect", 30)
            suspect = time.monotonic() - began
            gateway.wait(lambda: gateway.tunnel("office")["state"] == "backoff", 60)
            down = time.monotonic() - began
            with pytest.raises(Exception, match=r"refused|Lost connection|timed out|reset"):
                query_mysql(far.mariadb, listen)
        back = until_a_query_succeeds(far, listen, 20)
    # After a delay of its process, the gateway restarts its timers. If the failure is not detected, connections end
    # only after 60 s.
    assert down <= 57
    if machine.worst < 1:
        assert (suspect <= 15, down <= 30) == (True, True), (suspect, down)
    assert vpn_children(gateway) == child
    record_property("took", f"suspect after {suspect:.1f} s, down after {down:.1f} s, back after {back:.1f} s")


@pytest.mark.parametrize("kind", KINDS)
def test_a_short_silence_closes_no_session(far: World, gateway: Gateway, kind: str) -> None:
    listen = raw(far, gateway, kind)
    # Packets are dropped for 12 s, because TCP retransmits after 12.6 s, and then only after 25 s.
    with mysql(far.mariadb, listen, timeout=60) as connection, connection.cursor() as cursor:
        cursor.execute("SELECT CONNECTION_ID()")
        before = cursor.fetchone()
        with dropping(far):
            time.sleep(12)
        cursor.execute("SELECT CONNECTION_ID()")
        assert cursor.fetchone() == before


@contextlib.contextmanager
def dropping(far: World) -> Iterator[None]:
    """Drop all UDP packets between the namespaces until the block ends."""
    del far
    with inside(FAR):
        run("for chain in INPUT OUTPUT; do iptables -I $chain -p udp ! -d 127.0.0.0/8 -j DROP; done")
    try:
        yield
    finally:
        with inside(FAR):
            run("for chain in INPUT OUTPUT; do iptables -D $chain -p udp ! -d 127.0.0.0/8 -j DROP; done")


def vpn_children(gateway: Gateway) -> list[str]:
    """Return the process ID and the name of each VPN client that is a child process of the gateway."""
    found = run(f"pgrep -P {gateway.pid} -l", check=False).splitlines()
    return [line for line in found if "openvpn" in line or "wireguard" in line]


def until_a_query_succeeds(far: World, listen: int, within: float) -> float:
    began = time.monotonic()
    while True:
        try:
            query_mysql(far.mariadb, listen)
        except (pymysql.err.Error, OSError):
            assert time.monotonic() - began < within
            time.sleep(0.1)
        else:
            break
    took = time.monotonic() - began
    assert took < within
    return took


def test_a_new_address_from_openvpn_resets_the_clients_and_the_tunnel_continues(far: World, gateway: Gateway) -> None:
    first = OpenVpnServer(gateway.folder / "first", far.authority, port=1197, network="10.21.0").start()
    listen = free_port()
    config = first.client(gateway.folder / "office.ovpn")
    write(
        gateway,
        f"office: {{kind: openvpn, config: {config}}}",
        mysql_backend(far, gateway, listen),
    )
    gateway.start().wait_up("orders", timeout=UP)
    with mysql(far.mariadb, listen) as connection, connection.cursor() as cursor:
        cursor.execute("SELECT 1")
        first.stop()
        second = OpenVpnServer(gateway.folder / "second", far.authority, port=1197, network="10.22.0").start()
        try:
            gateway.wait(lambda: "10.22.0.2" in gateway.tunnel("office").get("addresses", []), 40)
            with pytest.raises(Exception, match=r"reset|Lost connection|gone away"):
                cursor.execute("SELECT 1")
            until_a_query_succeeds(far, listen, 25)
        finally:
            second.stop()


def test_a_wireguard_peer_with_a_changed_address_is_resolved_again(far: World, gateway: Gateway) -> None:
    """The WireGuard server gets a new address. Its name then resolves to the new address, as with dynamic DNS."""
    peer = WireGuardPeer(gateway.folder / "peer", port=51821, network="10.23.0").start()
    hosts = gateway.folder / "hosts"
    hosts.write_text(f"{OUTER_FAR} vpn.example\n127.0.0.1 localhost\n")
    config = peer.client(gateway.folder / "office.conf", host="vpn.example")
    listen = free_port()
    write(
        gateway,
        f"office: {{kind: wireguard, config: {config}}}",
        mysql_backend(far, gateway, listen),
    )
    gateway.wrapper = ["unshare", "-m", "sh", "-c", f'mount --bind {hosts} /etc/hosts && exec "$@"', "sh"]
    try:
        gateway.start().wait_up("orders", timeout=UP)
        hosts.write_text(f"{OUTER_OTHER} vpn.example\n127.0.0.1 localhost\n")
        with inside(FAR):
            run(f"ip addr del {OUTER_FAR}/24 dev outer")
        try:
            gateway.wait(lambda: gateway.tunnel("office").get("server") == f"{OUTER_OTHER}:51821", 40)
            until_a_query_succeeds(far, listen, 25)
        finally:
            with inside(FAR):
                give_addresses(FAR)
    finally:
        peer.stop()


@pytest.mark.parametrize("kind", KINDS)
def test_packets_too_large_for_the_path_are_handled(far: World, gateway: Gateway, kind: str) -> None:
    """The network drops large packets without an ICMP error. A smaller `mtu` solves this problem."""
    rule = "INPUT -p udp -m length --length 1350: -j DROP"
    try:
        for place in NAMES:
            with inside(place):
                run(f"iptables -I {rule}")
        listen = raw(far, gateway, kind, ", mtu: 1150")
        with mysql(far.mariadb, listen) as connection, connection.cursor() as cursor:
            cursor.execute("SELECT LENGTH(%s), REPEAT('x', 1000000)", ("y" * 500_000,))
            assert cursor.fetchone() == (500_000, "x" * 1_000_000)
    finally:
        for place in NAMES:
            with inside(place):
                run(f"iptables -D {rule}")


REASONS = {
    "expired": ("openvpn", "tls"),
    "stranger": ("openvpn", "tls"),
    "closed port": ("openvpn", "refused"),
    "no-name": ("openvpn", "dns"),
    "nonsense": ("openvpn", "protocol"),
    "wrong-key": ("wireguard", "timeout"),
    "unfinished": ("wireguard", "protocol"),
}


@pytest.mark.parametrize("case", REASONS)
def test_errors_of_a_vpn_have_their_reason_and_detail(
    far: World, gateway: Gateway, case: str, record_property: Record
) -> None:
    kind, reason = REASONS[case]
    path = gateway.folder / "office.conf"
    match case:
        case "expired":
            far.openvpn.client(path, certificate=far.authority.issue("expired", days=-1))
        case "stranger":
            far.openvpn.client(path)
            other = Authority(gateway.folder / "other")
            path.write_text(path.read_text().replace(far.authority.ca.read_text(), other.ca.read_text()))
        case "closed port":
            far.openvpn.client(path)
            path.write_text(path.read_text().replace(f"{OUTER_FAR} 1194", f"{OUTER_FAR} 9"))
        case "no-name":
            far.openvpn.client(path, host="no-such-host.invalid")
        case "nonsense":
            far.openvpn.client(path, "ciphre AES-256-GCM")
        case "wrong-key":
            far.wireguard.client(path, key=run("wg genkey").strip())
        case "unfinished":
            path.write_text("[Interface]\nAddress = 10.9.0.2/24\n")
    write(
        gateway,
        f"office: {{kind: {kind}, config: {path}, connect_timeout: 4s}}",
        tcp_backend(far),
    )
    gateway.start()
    with Lateness() as machine:
        gateway.wait(lambda: gateway.tunnel("office")["reason"] is not None, 30)
    if machine.sum < 1:  # on a busy machine, the gateway can first report a less specific reason
        assert gateway.tunnel("office")["reason"] == reason
    gateway.wait(lambda: gateway.tunnel("office")["reason"] == reason, 30)
    found = gateway.tunnel("office")
    record_property("took", f"{case}: {found['state']}, {found['reason']}: {found['detail']}")
    assert gateway.state("orders")[0] in ("blocked", "unknown")


def test_a_child_ends_with_the_gateway_even_when_it_is_killed(far: World, gateway: Gateway) -> None:
    office = tunnel(far, "openvpn", gateway)
    branch = tunnel(far, "wireguard", gateway)
    write(
        gateway,
        f"office: {office}\nbranch: {branch}",
        "\n".join((tcp_backend(far), tcp_backend(far, "bills", "branch"))),
    )
    before = host_network()
    gateway.start().wait_up("orders", "bills", timeout=UP)
    children = [line.split()[0] for line in vpn_children(gateway)]
    assert len(children) == 2
    assert gateway.process is not None
    gateway.process.send(signal.SIGKILL)
    deadline = time.monotonic() + 5
    while any(Path("/proc", pid).exists() for pid in children):
        assert time.monotonic() < deadline
        time.sleep(0.05)
    assert host_network() == before


@pytest.mark.parametrize("kind", KINDS)
def test_a_missing_capability_is_reported(far: World, gateway: Gateway, kind: str) -> None:
    write(
        gateway,
        f"office: {tunnel(far, kind, gateway)}",
        tcp_backend(far),
    )
    gateway.wrapper = ["setpriv", "--bounding-set", "-sys_admin,-net_admin", "--"]
    gateway.start().wait(lambda: gateway.tunnel("office")["reason"] == "permission")
    assert "NET_ADMIN" in gateway.tunnel("office")["detail"]


NET_ADMIN = 1 << 12


def with_tun(folder: Path, mode: int) -> list[str]:
    """Return a prefix for a command. The command then sees a /dev/net/tun with the permission bits `mode`."""
    node = folder / "tun"
    os.mknod(node, stat.S_IFCHR, os.makedev(10, 200))
    node.chmod(mode)
    return ["unshare", "-m", "sh", "-c", f'mount --bind {node} /dev/net/tun && exec "$@"', "sh"]


def process_status(pid: str) -> dict[str, str]:
    lines = Path("/proc", pid, "status").read_text().splitlines()
    return {name: value.strip() for name, _, value in (line.partition(":") for line in lines)}


@pytest.mark.parametrize("case", ["alone", "tun", "capabilities", "folder"])
def test_openvpn_has_one_capability_and_its_own_user_if_possible(
    far: World, gateway: Gateway, server_folder: Path, case: str
) -> None:
    gateway.wrapper = with_tun(gateway.folder, 0o600 if case == "tun" else 0o666)
    environment = {}
    if case == "capabilities":
        gateway.wrapper += ["setpriv", "--bounding-set", "-chown,-kill", "--"]
    if case == "folder":
        closed = server_folder / "closed"  # the path is short, because it becomes part of the path of a unix socket
        closed.mkdir(mode=0o700)
        environment = {"TMPDIR": str(closed)}
    write(gateway, f"office: {tunnel(far, 'openvpn', gateway)}", tcp_backend(far))
    gateway.start(environment=environment).wait_up("orders", timeout=UP)
    (child,) = (line.split()[0] for line in vpn_children(gateway))
    found = process_status(child)
    user = str(openvpn_privileges.USER) if case == "alone" else "0"
    assert found["Uid"].split() == found["Gid"].split() == [user] * 4
    assert [int(found[f"Cap{each}"], 16) for each in ("Eff", "Prm", "Inh", "Amb", "Bnd")] == [NET_ADMIN] * 5
    assert (found["NoNewPrivs"], found["Groups"]) == (
        "1",
        "" if case == "alone" else process_status("self")["Groups"],
    )
    warning = {
        "tun": "other users cannot open /dev/net/tun: run chmod 666 /dev/net/tun",
        "capabilities": "the gateway lacks CAP_CHOWN, CAP_KILL",
        "folder": "closed: set TMPDIR",
    }
    assert ("openvpn runs as root" in gateway.log) is (case != "alone")
    assert warning.get(case, "") in gateway.log


def test_a_user_outside_the_user_namespace_is_not_used() -> None:
    script = (
        "from pathlib import Path; from gateway.vpn.openvpn_privileges import unprivileged_user; "
        "unprivileged_user(Path('/tmp'))"
    )
    done = subprocess.run(
        ["unshare", "--user", "--map-root-user", sys.executable, "-c", script],
        env={"PYTHONPATH": PYTHON_PATH}, capture_output=True, text=True, timeout=20, check=True,
    )  # fmt: skip
    assert done.stderr.rstrip().endswith("the user namespace does not map this user")


def test_openvpn_as_another_user_reconnects_recreates_its_device_and_ends_with_the_gateway(
    far: World, gateway: Gateway
) -> None:
    # With this option, the server notifies the client when it stops. The client then does not wait for a timeout.
    notify = "explicit-exit-notify 1"
    first = OpenVpnServer(gateway.folder / "first", far.authority, 1198, network="10.25.0", more=notify).start()
    config = first.client(gateway.folder / "office.ovpn")
    listen = free_port()
    gateway.wrapper = with_tun(gateway.folder, 0o666)
    write(gateway, f"office: {{kind: openvpn, config: {config}}}", mysql_backend(far, gateway, listen))
    gateway.start().wait_up("orders", timeout=UP)
    child = vpn_children(gateway)
    first.stop()
    first.start()
    until_a_query_succeeds(far, listen, 40)
    first.stop()
    second = OpenVpnServer(gateway.folder / "second", far.authority, 1198, network="10.26.0").start()
    try:
        gateway.wait(lambda: "10.26.0.2" in gateway.tunnel("office").get("addresses", []), 40)
        until_a_query_succeeds(far, listen, 25)
        assert vpn_children(gateway) == child, "the reconnect must not start a new process"
        pid = int(child[0].split()[0])
        assert process_status(str(pid))["Uid"].split()[0] == str(openvpn_privileges.USER)
        os.kill(pid, signal.SIGSTOP)  # a suspended process cannot detect that the gateway has exited
        assert gateway.process is not None
        gateway.process.send(signal.SIGKILL)
        deadline = time.monotonic() + 20
        while Path("/proc", str(pid)).exists():
            assert time.monotonic() < deadline
            time.sleep(0.05)
    finally:
        second.stop()


@pytest.mark.parametrize("kind", KINDS)
def test_a_child_process_does_not_inherit_the_environment(far: World, gateway: Gateway, kind: str) -> None:
    write(gateway, f"office: {tunnel(far, kind, gateway)}", tcp_backend(far))
    secret = {
        "GATEWAY_BACKEND_BILLS": "mysql://192.0.2.1:3306?check.user=u&check.password=hunter2",
        "LANG": "C.UTF-8",
    }
    gateway.start(environment=secret).wait_up("orders", timeout=UP)
    (child,) = (line.split()[0] for line in vpn_children(gateway))
    pairs = [each.partition("=") for each in Path("/proc", child, "environ").read_text().rstrip("\0").split("\0")]
    assert {name for name, _, _ in pairs} <= {"PATH", "LANG", "LC_ALL", "TZ", "LOG_LEVEL"}
    assert ("LANG", "=", "C.UTF-8") in pairs


def test_openvpn_uses_a_changed_key_file(far: World, gateway: Gateway) -> None:
    folder = gateway.folder / "office"
    folder.mkdir()
    key, login = folder / "ta.key", ("office", "secret")
    run(f"/usr/sbin/openvpn --genkey secret {key}")
    more = f"tls-auth {key} 0\npush-peer-info"
    server = OpenVpnServer(gateway.folder / "server", far.authority, 1199, network="10.27.0", login=login, more=more)
    server.start()
    try:
        certificate, private = far.authority.issue("files")
        run(
            f"openssl pkcs12 -export -in {certificate} -inkey {private} -passout pass: -out {folder}/client.p12;"
            f"cp {far.authority.ca} {folder}/ca.pem; printf '%s\\n%s\\n' {' '.join(login)} > {folder}/login;"
            f"chmod 600 {folder}/*"
        )
        config = folder / "office.ovpn"
        config.write_text(
            f"client\ndev tun\nremote {OUTER_FAR} 1199 udp\nca ca.pem\npkcs12 client.p12\ntls-auth {key} 1\n"
            "auth-user-pass login\nremote-cert-tls server\n"
        )
        write(gateway, f"office: {{kind: openvpn, config: {config}}}", tcp_backend(far))
        gateway.start().wait_up("orders", timeout=UP)
        certificate, private = far.authority.issue("renewed")
        run(f"openssl pkcs12 -export -in {certificate} -inkey {private} -passout pass: -out {folder}/new.p12")
        (folder / "new.p12").chmod(0o600)
        (folder / "new.p12").replace(folder / "client.p12")
        gateway.wait(lambda: gateway.log.count('"tunnel up"') == 2, UP)
        assert "the configuration file, or a file that it refers to, has changed" in gateway.log
        gateway.wait_up("orders", timeout=UP)
    finally:
        server.stop()


def test_a_server_that_pushes_compression_is_reported(far: World, gateway: Gateway) -> None:
    more = 'push "compress lz4-v2"\nallow-compression yes'
    server = OpenVpnServer(gateway.folder / "server", far.authority, 1200, network="10.28.0", more=more).start()
    try:
        config = server.client(gateway.folder / "office.ovpn")
        write(gateway, f"office: {{kind: openvpn, config: {config}, connect_timeout: 4s}}", tcp_backend(far))
        gateway.start().wait(lambda: gateway.tunnel("office")["reason"] == "protocol")
        assert "server pushed compression" in gateway.tunnel("office")["detail"]
    finally:
        server.stop()


PROXY = """
import socket, sys
with socket.create_server(("127.0.0.1", int(sys.argv[1]))) as server:
    while True:
        client, _ = server.accept()
        with client, client.makefile("rwb") as stream:
            while line := stream.readline().strip():
                print(line.decode(), flush=True)
            stream.write(b'HTTP/1.0 407 Login\\r\\nProxy-Authenticate: Basic realm="x"\\r\\n\\r\\n')
"""


def test_a_proxy_named_by_the_server_does_not_get_the_password(far: World, gateway: Gateway) -> None:
    port = free_port()
    proxy = ServerProcess([sys.executable, "-c", PROXY, str(port)], gateway.folder / "proxy.log")
    proxy.start(port)
    try:
        config = far.openvpn.client(gateway.folder / "office.ovpn", f"http-proxy 127.0.0.1 {port} auto")
        config.write_text(config.read_text().replace("proto udp", "proto tcp"))
        secret = gateway.folder / "secret"
        secret.write_text("hunter2")
        keys = f"kind: openvpn, config: {config}, user: office, password_file: {secret}"
        write(gateway, f"office: {{{keys}}}", tcp_backend(far))
        gateway.start().wait(lambda: gateway.tunnel("office")["reason"] == "auth")
        assert "HTTP Proxy" in gateway.tunnel("office")["detail"]
        seen = (gateway.folder / "proxy.log").read_text()
        assert "CONNECT" in seen
        assert "Authorization" not in seen
    finally:
        proxy.stop()


def test_an_openvpn_file_that_would_run_code_is_refused_with_its_line(far: World, gateway: Gateway) -> None:
    config = far.openvpn.client(gateway.folder / "office.ovpn")
    config.write_text(f"client\n--setenv opt plugin /nonexistent/evil.so\n{config.read_text()}")
    write(gateway, f"office: {{kind: openvpn, config: {config}}}", tcp_backend(far))
    gateway.start().wait(lambda: gateway.tunnel("office")["reason"] == "protocol")
    refusal = "setenv opt before a directive is not allowed: write only the directive, or remove the line"
    detail = f"config: {config}: line 2: {refusal}"
    assert gateway.tunnel("office")["detail"] == detail
    assert vpn_children(gateway) == []
    validated = command("validate", "-c", str(gateway.config))
    assert validated.returncode != 0
    assert detail in validated.stderr
