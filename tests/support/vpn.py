"""Runs OpenVPN servers in network namespaces, and checks that no packets bypass a VPN."""

import contextlib
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

from gateway.demo.server_process import ServerProcess
from tests.support.certificates import Authority
from tests.support.netns import BEHIND, BEHIND_V6, NAMES, OUTER_FAR, OUTER_OTHER, inside

_FAR = NAMES[1]


class OpenVpnServer:
    """An OpenVPN server in a network namespace.

    Args:
        folder: The directory for the server's files.
        authority: The certificate authority that issues the certificates of the server and the clients.
        port: The port on which the server listens.
        protocol: `udp` or `tcp`.
        network: The first three numbers of the IPv4 addresses in the VPN, such as `10.8.0`.
        login: The user and password that clients must send instead of a certificate; None to require a certificate.
        more: Additional lines for the server's configuration.
        namespace: The network namespace in which the server runs.
    """

    def __init__(
        self,
        folder: Path,
        authority: Authority,
        port: int = 1194,
        protocol: str = "udp",
        network: str = "10.8.0",
        login: tuple[str, str] | None = None,
        more: str = "",
        namespace: str = _FAR,
    ) -> None:
        folder.mkdir()
        self.namespace = namespace
        self.folder, self.port, self.protocol, self.authority = folder, port, protocol, authority
        self._login = login
        certificate, key = authority.issue(f"server-{folder.name}", server=True)
        config = folder / "server.conf"
        proto = "tcp-server" if protocol == "tcp" else "udp"
        config.write_text(f"""
            port {port}
            proto {proto}
            dev ovs{port}
            dev-type tun
            topology subnet
            server {network}.0 255.255.255.0
            server-ipv6 fd08:{port}::/64
            ca {authority.ca}
            cert {certificate}
            key {key}
            dh none
            keepalive 1 30
            push "route {BEHIND} 255.255.255.255"
            push "route-ipv6 {BEHIND_V6}/128"
            push "redirect-gateway def1"
            push "dhcp-option DNS {BEHIND}"
            push "dhcp-option DOMAIN far.example"
            {self._login_lines()}
            {more}
        """)
        self.process = ServerProcess(["/usr/sbin/openvpn", "--config", str(config), "--verb", "4"], folder / "log")

    def _login_lines(self) -> str:
        if self._login is None:
            return ""
        user, password = self._login
        script = self.folder / "login.sh"
        script.write_text(f'#!/bin/sh\n[ "$(sed -n 1p $1)" = {user} ] && [ "$(sed -n 2p $1)" = \'{password}\' ]\n')
        script.chmod(0o755)
        check = f"script-security 2\nauth-user-pass-verify {script} via-file"
        return f"verify-client-cert none\nusername-as-common-name\n{check}"

    def start(self) -> "OpenVpnServer":
        log = self.folder / "log"
        before = len(log.read_text()) if log.exists() else 0
        with inside(self.namespace):
            self.process.spawn()
        self._wait(before)
        return self

    def _wait(self, before: int) -> None:
        deadline = time.monotonic() + 10
        while "Initialization Sequence Completed" not in (self.folder / "log").read_text()[before:]:
            assert self.process.running, (self.folder / "log").read_text()
            assert time.monotonic() < deadline
            time.sleep(0.05)

    def stop(self) -> None:
        self.process.stop()

    def client(
        self, path: Path, *more: str, certificate: tuple[Path, Path] | None = None, host: str = OUTER_FAR
    ) -> Path:
        """Write a client's configuration file with embedded certificates, as VPN operators often provide it."""
        authority = self.authority
        identity = ""
        if self._login is None:
            pair = certificate or authority.issue(f"client-{path.stem}")
            identity = f"<cert>\n{pair[0].read_text()}</cert>\n<key>\n{pair[1].read_text()}</key>\n"
        else:
            identity = "auth-user-pass\n"
        proto = "tcp-client" if self.protocol == "tcp" else "udp"
        lines = "\n".join(more)
        path.write_text(
            f"client\ndev tun\nproto {proto}\nremote {host} {self.port}\nnobind\nremote-cert-tls server\n"
            f"<ca>\n{authority.ca.read_text()}</ca>\n{identity}{lines}\n"
        )
        path.chmod(0o600)
        return path


@contextlib.contextmanager
def nothing_outside(path: Path, *marks: str) -> Iterator[None]:
    """Check that no packets bypass the VPN until the `with` block ends.

    tcpdump prints the packets on the interface `outer`, which connects the network namespaces `near` and `far`. The
    output must contain packets of the VPN, and no addresses from behind the VPN.

    Args:
        path: The file for the output of tcpdump.
        marks: Additional strings that the output of tcpdump must not contain.
    """
    with path.open("w") as out, path.with_suffix(".err").open("w") as err:
        child = subprocess.Popen(["tcpdump", "-i", "outer", "-n", "-l", "ip or ip6"], stdout=out, stderr=err)
        try:
            deadline = time.monotonic() + 10
            while "listening on" not in path.with_suffix(".err").read_text():
                assert time.monotonic() < deadline
                time.sleep(0.05)
            yield
            time.sleep(0.2)
        finally:
            child.terminate()
            child.wait(10)
    lines = path.read_text().splitlines()
    assert any(OUTER_FAR in line or OUTER_OTHER in line for line in lines), (
        "the capture contains no packet of the VPN"
    )
    assert [line for line in lines if any(mark in line for mark in (*marks, f"{BEHIND}.", "fd20:"))] == []
