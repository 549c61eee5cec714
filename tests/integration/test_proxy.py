"""Tests tunnels through proxies: microsocks, tinyproxy, and tinyproxy behind TLS."""

import asyncio
import contextlib
import signal
import socket
import ssl
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from gateway.contracts.config_types import HostPort
from gateway.contracts.states import CloseReason
from gateway.demo.mariadb import MariaDB
from gateway.demo.nfs import NfsServer
from gateway.demo.postgres import Postgres
from gateway.demo.server_process import ServerProcess, find, free_port
from gateway.demo.sshd import Bastion
from gateway.metric_types import Histogram
from gateway.proxy.link import ProxyLink
from gateway.proxy.options import ProxyOptions
from gateway.relay.direct_link import DirectLink
from gateway.relay.sockets import reset
from tests.support.certificates import Authority
from tests.support.clients import connect, mysql, query_mysql, query_postgres, read_nfs
from tests.support.configs import database_check
from tests.support.gateway_process import Gateway
from tests.support.requirements import need
from tests.support.servers import serving, silent, talking
from tests.support.tls_proxy import ANSWER, tls_proxy

pytestmark = pytest.mark.integration

USER, PASSWORD = "clerk", "p.ss_w0rd-x"
SCHEMES = ("socks5", "http", "https")


class Proxy:
    """A running proxy.

    Args:
        folder: The directory for the files of the proxy.
        scheme: `socks5`, `http`, or `https` (an `http` proxy behind TLS).
        login: Whether the proxy requires a user and a password.
        more: Additional lines for tinyproxy's configuration.
    """

    def __init__(self, folder: Path, scheme: str, *, login: bool = False, more: str = "") -> None:
        folder.mkdir()
        self.folder, self.scheme = folder, scheme
        self.inner_port = self.port = free_port()
        if scheme == "socks5":
            program = find("microsocks")
            need(program is not None, "microsocks (package microsocks)")
            command = [str(program), "-i", "127.0.0.1", "-p", str(self.port)]
            command += ["-u", USER, "-P", PASSWORD] if login else []
        else:
            program = find("tinyproxy")
            need(program is not None, "tinyproxy (package tinyproxy)")
            config = folder / "tinyproxy.conf"
            config.write_text(
                f"Port {self.port}\nListen 127.0.0.1\nTimeout 600\nMaxClients 100\nAllow 127.0.0.1\n"
                f"{f'BasicAuth {USER} {PASSWORD}' if login else ''}\n{more}\n"
            )
            command = [str(program), "-d", "-c", str(config)]
        self.process = ServerProcess(command, folder / "log")
        self.ca = folder / "certificates/ca.pem"
        if scheme == "https":
            self.port = free_port()

    @contextlib.contextmanager
    def running(self) -> Iterator["Proxy"]:
        with contextlib.ExitStack() as stack:
            stack.callback(self.process.stop)
            self.process.start(self.inner_port)
            if self.scheme == "https":
                tls = self._tls()
                stack.callback(tls.stop)
                tls.start(self.port)
            yield self

    def _tls(self) -> ServerProcess:
        """Return an HAProxy process that terminates TLS and forwards to the proxy."""
        need(find("haproxy") is not None, "haproxy (package haproxy)")
        certificate, key = Authority(self.folder / "certificates").issue("127.0.0.1", server=True, host="127.0.0.1")
        both = self.folder / "both.pem"
        both.write_text(certificate.read_text() + key.read_text())
        config = self.folder / "haproxy.cfg"
        config.write_text(
            "defaults\n mode tcp\n timeout connect 5s\n timeout client 1h\n timeout server 1h\n"
            f"listen tls\n bind 127.0.0.1:{self.port} ssl crt {both}\n server proxy 127.0.0.1:{self.inner_port}\n"
        )
        return ServerProcess([find("haproxy") or "", "-db", "-f", str(config)], self.folder / "haproxy.log")

    def keys(self, more: str = "") -> str:
        """Return the configuration keys of a tunnel through this proxy, as a YAML flow mapping."""
        ca = f", ca_file: {self.ca}" if self.scheme == "https" else ""
        return f'{{kind: proxy, url: "{self.scheme}://127.0.0.1:{self.port}"{ca}{more}}}'


@pytest.fixture
def secret(tmp_path: Path) -> Path:
    path = tmp_path / "proxy.secret"
    path.write_text(PASSWORD + "\n")
    return path


@pytest.mark.parametrize("login", [False, True], ids=["open", "login"])
@pytest.mark.parametrize("scheme", SCHEMES)
def test_every_kind_of_backend_through_a_proxy(
    gateway: Gateway, secret: Path, scheme: str, login: bool,
    shared_mariadb: MariaDB, shared_postgres: Postgres, shared_nfs: NfsServer,
) -> None:  # fmt: skip
    with Proxy(gateway.folder / "proxy", scheme, login=login).running() as proxy:
        ports = {name: free_port() for name in ("orders", "reports", "media")}
        # The proxy resolves the target's name, so the gateway's host does not have to.
        gateway.write(f"""
            tunnels:
              egress: {proxy.keys(f", user: {USER}, password_file: {secret}" if login else "")}
            backends:
              orders:
                {{kind: mysql, via: egress, targets: ["localhost:{shared_mariadb.port}"],
                 listen: "127.0.0.1:{ports["orders"]}", check: {database_check(shared_mariadb, gateway.folder)}}}
              reports:
                {{kind: postgres, via: egress, targets: ["127.0.0.1:{shared_postgres.port}"],
                 listen: "127.0.0.1:{ports["reports"]}", check: {database_check(shared_postgres, gateway.folder)}}}
              media:
                {{kind: nfs, via: egress, targets: ["127.0.0.1:{shared_nfs.port}"], export: /media,
                 listen: "127.0.0.1:{ports["media"]}", check: {{interval: 1s}}}}
        """)
        gateway.start().wait_up(*ports)
        assert query_mysql(shared_mariadb, ports["orders"]) > 0
        assert query_postgres(shared_postgres, ports["reports"]) > 0
        assert read_nfs(ports["media"]) == "hello over NFS\n"
        with mysql(shared_mariadb, ports["orders"]) as connection, connection.cursor() as cursor:
            cursor.execute("SELECT LENGTH(%s), REPEAT('x', 3000000)", ("y" * 900_000,))
            assert cursor.fetchone() == (900_000, "x" * 3_000_000)
        gateway.stop()
        assert PASSWORD not in gateway.log


def test_user_and_password_in_one_file(gateway: Gateway, secret: Path, shared_mariadb: MariaDB) -> None:
    secret.write_text(f"{USER}:{PASSWORD}")
    with Proxy(gateway.folder / "proxy", "socks5", login=True).running() as proxy:
        gateway.write(f"""
            tunnels:
              egress: {proxy.keys(f", password_file: {secret}")}
            backends:
              orders: {{kind: tcp, via: egress, targets: ["127.0.0.1:{shared_mariadb.port}"],
                        listen: "127.0.0.1:{free_port()}"}}
        """)
        gateway.start().wait_up("orders")


@pytest.mark.parametrize("scheme", SCHEMES)
def test_a_bastion_behind_a_proxy(
    gateway: Gateway, scheme: str, shared_bastion: Bastion, shared_mariadb: MariaDB
) -> None:
    listen = free_port()
    with Proxy(gateway.folder / "proxy", scheme).running() as proxy:
        gateway.write(f"""
            tunnels:
              egress: {proxy.keys()}
              bastion: {{kind: ssh, via: egress, host: 127.0.0.1, port: {shared_bastion.port},
                         user: {shared_bastion.user}, identity_files: [{shared_bastion.client_key}],
                         known_hosts: [{shared_bastion.known_hosts}]}}
            backends:
              orders:
                {{kind: mysql, via: bastion, targets: ["127.0.0.1:{shared_mariadb.port}"],
                 listen: "127.0.0.1:{listen}", check: {database_check(shared_mariadb, gateway.folder)}}}
        """)
        gateway.start().wait_up("orders")
        assert query_mysql(shared_mariadb, listen) > 0


@pytest.mark.parametrize("scheme", ["socks5", "http"])
def test_a_wrong_password_for_the_proxy_is_reported(
    gateway: Gateway, secret: Path, scheme: str, shared_mariadb: MariaDB
) -> None:
    secret.write_text("not-it")
    with Proxy(gateway.folder / "proxy", scheme, login=True).running() as proxy:
        gateway.write(f"""
            tunnels:
              egress: {proxy.keys(f", user: {USER}, password_file: {secret}")}
            backends:
              orders: {{kind: tcp, via: egress, targets: ["127.0.0.1:{shared_mariadb.port}"],
                        listen: "127.0.0.1:{free_port()}"}}
        """)
        gateway.start()
        # A SOCKS5 proxy refuses the login of the tunnel; an HTTP proxy refuses the request for the target.
        gateway.wait(lambda: "auth" in (gateway.tunnel("egress")["reason"], gateway.state("orders")[1]))
        assert "not-it" not in gateway.log


def test_a_port_that_the_proxy_forbids_is_reported(gateway: Gateway, shared_mariadb: MariaDB) -> None:
    with Proxy(gateway.folder / "proxy", "http", more="ConnectPort 443").running() as proxy:
        gateway.write(f"""
            tunnels:
              egress: {proxy.keys()}
            backends:
              orders: {{kind: tcp, via: egress, targets: ["127.0.0.1:{shared_mariadb.port}"],
                        listen: "127.0.0.1:{free_port()}"}}
        """)
        gateway.start().wait_state("orders", "down", "channel_prohibited")


def test_a_refused_target_does_not_take_the_proxy_down(gateway: Gateway, shared_mariadb: MariaDB) -> None:
    with Proxy(gateway.folder / "proxy", "socks5").running() as proxy:
        gateway.write(f"""
            tunnels:
              egress: {proxy.keys()}
            backends:
              dead: {{kind: tcp, via: egress, targets: ["127.0.0.1:{free_port()}"],
                      listen: "127.0.0.1:{free_port()}"}}
              orders: {{kind: tcp, via: egress, targets: ["127.0.0.1:{shared_mariadb.port}"],
                        listen: "127.0.0.1:{free_port()}"}}
        """)
        gateway.start().wait_up("orders")
        gateway.wait_state("dead", "down", "refused")
        assert gateway.tunnel("egress")["state"] == "up"


def test_a_proxy_may_stop_and_start_again(gateway: Gateway, shared_mariadb: MariaDB) -> None:
    listen = free_port()
    proxy = Proxy(gateway.folder / "proxy", "socks5")
    gateway.write(f"""
        tunnels:
          egress: {proxy.keys(", interval: 1s")}
        backends:
          orders: {{kind: mysql, via: egress, targets: ["127.0.0.1:{shared_mariadb.port}"],
                    listen: "127.0.0.1:{listen}",
                    check: {database_check(shared_mariadb, gateway.folder)}}}
    """)
    with proxy.running():
        gateway.start().wait_up("orders")
    gateway.wait(lambda: gateway.tunnel("egress")["reason"] == "refused")
    with proxy.running():
        gateway.wait_up("orders")
        assert query_mysql(shared_mariadb, listen) > 0


@pytest.mark.parametrize(
    ("behavior", "reason"),
    [(silent, "timeout"), (talking(b"SSH-2.0-OpenSSH_9.9\r\n"), "protocol")],
    ids=["silent", "another protocol"],
)
def test_a_server_that_is_not_a_proxy_is_reported(gateway: Gateway, behavior: object, reason: str) -> None:
    with serving(behavior) as port:  # type: ignore[arg-type]
        gateway.write(f"""
            tunnels:
              egress: {{kind: proxy, url: "socks5://127.0.0.1:{port}", connect_timeout: 1s}}
            backends:
              orders: {{kind: tcp, via: egress, targets: ["127.0.0.1:1"], listen: "127.0.0.1:{free_port()}"}}
        """)
        gateway.start().wait(lambda: gateway.tunnel("egress")["reason"] == reason)


def test_a_certificate_of_another_authority_is_refused(gateway: Gateway, shared_mariadb: MariaDB) -> None:
    with Proxy(gateway.folder / "proxy", "https").running() as proxy:
        other = Authority(gateway.folder / "other")
        gateway.write(f"""
            tunnels:
              egress: {{kind: proxy, url: "https://127.0.0.1:{proxy.port}", ca_file: {other.ca}}}
            backends:
              orders: {{kind: tcp, via: egress, targets: ["127.0.0.1:{shared_mariadb.port}"],
                        listen: "127.0.0.1:{free_port()}"}}
        """)
        gateway.start().wait(lambda: gateway.tunnel("egress")["reason"] == "tls")


@pytest.mark.parametrize("scheme", SCHEMES)
def test_a_killed_proxy_resets_its_connections(gateway: Gateway, scheme: str, shared_mariadb: MariaDB) -> None:
    listen = free_port()
    proxy = Proxy(gateway.folder / "proxy", scheme)
    with proxy.running():
        gateway.write(f"""
            tunnels:
              egress: {proxy.keys()}
            backends:
              orders: {{kind: tcp, via: egress, targets: ["127.0.0.1:{shared_mariadb.port}"],
                        listen: "127.0.0.1:{listen}"}}
        """)
        gateway.start().wait_up("orders")
        with connect(listen) as client:
            assert client.recv(65536)
            proxy.process.send(signal.SIGKILL)
            client.settimeout(5)
            # When the proxy is killed, the kernel sends a reset only if the proxy has unread data.
            with contextlib.suppress(ConnectionResetError):
                assert client.recv(65536) == b""


def test_connections_through_tls_end_with_their_client(gateway: Gateway) -> None:
    """If a target sends nothing, neither a check nor a closed client leaves an open connection."""
    listen = free_port()
    with serving(silent) as port, Proxy(gateway.folder / "proxy", "https").running() as proxy:
        gateway.write(f"""
            tunnels:
              egress: {proxy.keys()}
            backends:
              waits: {{kind: tcp, via: egress, targets: ["127.0.0.1:{port}"], listen: "127.0.0.1:{listen}",
                       check: {{interval: 200ms}}}}
        """)
        gateway.start().wait_up("waits")
        before = gateway.descriptors()
        for _ in range(20):
            with connect(listen) as client:
                client.sendall(b"hello")
        # After a client closes without a reset, the gateway waits stream_bridge._SILENCE_TIMEOUT for a response.
        gateway.wait(lambda: gateway.descriptors() <= before + 6, 30)


def test_credentials_that_cannot_be_encoded_are_an_error(gateway: Gateway, secret: Path) -> None:
    secret.write_text("pässword")
    with Proxy(gateway.folder / "proxy", "socks5", login=True).running() as proxy:
        gateway.write(f"""
            tunnels:
              egress: {proxy.keys(f", user: {USER}, password_file: {secret}")}
            backends:
              a: {{kind: tcp, via: egress, targets: ["127.0.0.1:1"], listen: "127.0.0.1:{free_port()}"}}
        """)
        gateway.start().wait(lambda: gateway.tunnel("egress")["reason"] == "auth")
        assert "ASCII" in gateway.tunnel("egress")["detail"]
        assert "ssword" not in gateway.log.replace("password", "")


def _whole(client: ssl.SSLSocket) -> None:
    client.sendall(ANSWER)
    with contextlib.suppress(OSError):
        client.unwrap()


def _cut(client: ssl.SSLSocket) -> None:
    client.sendall(ANSWER[:1000])
    socket.socket(fileno=client.detach()).close()  # close the connection without close_notify


def _reset(client: ssl.SSLSocket) -> None:
    client.sendall(ANSWER[:1000])
    time.sleep(0.2)
    reset(socket.socket(fileno=client.detach()))


@pytest.mark.parametrize(
    ("behavior", "whole"), [(_whole, True), (_cut, False), (_reset, False)], ids=["whole", "cut", "reset"]
)
async def test_a_response_through_tls_is_complete_or_reset(
    tmp_path: Path, behavior: Callable[[ssl.SSLSocket], None], whole: bool
) -> None:
    """If the response is truncated (RFC 8446, section 6.1), the client sees a reset.

    Otherwise, the client gets the whole response, even if the client reads slowly.
    """
    loop = asyncio.get_running_loop()
    with tls_proxy(tmp_path / "ca", behavior) as (port, authority):
        link = ProxyLink(ProxyOptions(url=f"https://127.0.0.1:{port}", ca_file=authority), DirectLink())
        with socket.create_server(("127.0.0.1", 0)) as door, socket.create_connection(door.getsockname()) as client:
            inner, _ = door.accept()
            for sock in (client, inner):
                sock.setblocking(False)
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 65536)
            relay = await link.join(inner, HostPort("db", 1), Histogram())
            got = bytearray()
            async with asyncio.timeout(20):
                await asyncio.sleep(0.5)
                if whole:
                    while data := await loop.sock_recv(client, 65536):
                        got += data
                        await asyncio.sleep(0.001)
                    client.close()
                    assert got == ANSWER
                else:
                    with pytest.raises(ConnectionResetError):
                        while await loop.sock_recv(client, 65536):
                            """Discard the data before the reset."""
                assert await relay.ended is (CloseReason.FINISHED if whole else CloseReason.BACKEND_RESET)


async def test_a_half_close_costs_no_response_before_tls_13(tmp_path: Path) -> None:
    """The gateway does not send close_notify before the response.

    In TLS 1.2, the receiver of close_notify must stop sending (RFC 5246, section 7.2.1).
    """
    ends: list[str] = []

    def answer(client: ssl.SSLSocket) -> None:
        assert client.recv(100) == b"question"
        client.settimeout(0.5)
        try:
            ends.append("early" if client.recv(1) == b"" else "more")
        except TimeoutError:
            ends.append("none")
        client.settimeout(20)
        _whole(client)

    loop = asyncio.get_running_loop()
    with tls_proxy(tmp_path / "ca", answer, ssl.TLSVersion.TLSv1_2) as (port, authority):
        link = ProxyLink(ProxyOptions(url=f"https://127.0.0.1:{port}", ca_file=authority), DirectLink())
        with socket.create_server(("127.0.0.1", 0)) as door, socket.create_connection(door.getsockname()) as client:
            inner, _ = door.accept()
            inner.setblocking(False)
            relay = await link.join(inner, HostPort("db", 1), Histogram())
            client.sendall(b"question")
            client.shutdown(socket.SHUT_WR)
            client.setblocking(False)
            got = bytearray()
            async with asyncio.timeout(20):
                while data := await loop.sock_recv(client, 65536):
                    got += data
                assert await relay.ended is CloseReason.FINISHED
    assert got == ANSWER
    assert ends == ["none"]


async def test_a_reset_client_does_not_end_its_upload_cleanly(tmp_path: Path) -> None:
    ended: list[str] = []

    def listen(client: ssl.SSLSocket) -> None:
        try:
            while client.recv(65536):
                """Discard the data of the upload."""
            ended.append("clean")
        except (ssl.SSLError, OSError):
            ended.append("broken")

    with tls_proxy(tmp_path / "ca", listen) as (port, authority):
        link = ProxyLink(ProxyOptions(url=f"https://127.0.0.1:{port}", ca_file=authority), DirectLink())
        with socket.create_server(("127.0.0.1", 0)) as door:
            client = socket.create_connection(door.getsockname())
            inner, _ = door.accept()
            inner.setblocking(False)
            relay = await link.join(inner, HostPort("db", 1), Histogram())
            client.sendall(bytes(100_000))
            await asyncio.sleep(0.2)
            reset(client)
            async with asyncio.timeout(10):
                assert await relay.ended is CloseReason.CLIENT_RESET
                while not ended:
                    await asyncio.sleep(0.05)
    assert ended == ["broken"]
