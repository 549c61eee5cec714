"""Tests tunnels through programs: ssh -W, socat, openssl s_client, and a stand-in for kubectl."""

import contextlib
import os
import secrets
import signal
import socket
import ssl
import stat
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from gateway.demo.server_process import find, free_port
from gateway.demo.sshd import Bastion
from tests.support import kubectl
from tests.support.certificates import Authority
from tests.support.clients import connect, echo, is_reset
from tests.support.configs import CHECK, ssh_tunnel
from tests.support.gateway_process import Gateway
from tests.support.requirements import need
from tests.support.servers import serving

pytestmark = pytest.mark.integration

UPLOAD = bytes(range(256)) * 12_000
LOGIN_FAILED = 77
MODES = {
    "port": "kind: command, mode: port, suspect: 1s, lost: 5s, command: [{program}, socat,"
    ' "TCP-LISTEN:{{local_port}},bind=127.0.0.1,fork", "TCP:{{host}}:{{port}}"]',
    "stdio": "kind: command, mode: stdio, suspect: 1s, lost: 5s, command: [{program}, socat, -t, 3600, STDIO,"
    ' "TCP:{{host}}:{{port}}"]',
    "proxy_command": "login_timeout: 5s, keepalive: {{interval: 200ms, suspect: 3s, replace: 3s, lost: 10s}},"
    ' proxy_command: [{program}, socat, STDIO, "TCP:{{host}}:{{port}}"]',
}


class CommandTunnelSetup:
    """A gateway with one backend behind a program that a test controls.

    Args:
        gateway: The gateway.
        bastion: The SSH server for `proxy_command`.
        port: The port of the echo server.
        mode: A key of `MODES`.
    """

    def __init__(self, gateway: Gateway, bastion: Bastion, port: int, mode: str) -> None:
        need(find("socat") is not None, "socat (package socat)")
        self.gateway, self.listen, self._mode = gateway, free_port(), mode
        self._folder = gateway.folder
        program = self._folder / "program"
        program.write_text(
            f"#!/bin/sh\ncd {self._folder}\n"
            f"[ ! -e login ] || exit {LOGIN_FAILED}\n"
            "[ ! -e broken ] || { echo 'no route to the cloud' >&2; exit 3; }\n"
            "[ ! -e killed ] || kill -9 $$\n"
            # a shell evaluates the condition of `[ ... ] || command &` in the background, which can be too late
            "if [ -e noisy ]; then { yes 'the cloud is not reachable' | head -c 100000000 >&2; touch quiet; } & fi\n"
            "sleep 1000 > grandchild 2>&1 < /dev/null &\n"
            'echo $$ >> pids\nexec "$@"\n'
        )
        program.chmod(stat.S_IRWXU)
        keys = MODES[mode].format(program=program) + f", login_exit_codes: [{LOGIN_FAILED}], environment: [TOKEN]"
        tunnel = ssh_tunnel(bastion, more=f", {keys}") if mode == "proxy_command" else f"{{{keys}}}"
        gateway.write(f"""
            tunnels:
              cloud: {tunnel}
            backends:
              a: {{kind: tcp, via: cloud, targets: ["127.0.0.1:{port}"], listen: 127.0.0.1:{self.listen}, {CHECK}}}
        """)

    def switch(self, name: str, *, on: bool) -> None:
        """Switch a fault of the program on or off: `login`, `broken`, `killed` or `noisy`."""
        file = self._folder / name
        if on:
            file.touch()
        else:
            file.unlink()

    def groups(self) -> list[int]:
        """Return the process groups of the programs that have started and still run."""
        file = self._folder / "pids"
        found = [int(line) for line in file.read_text().split()] if file.exists() else []
        return [group for group in found if members(group)]

    def exposed(self, groups: list[int]) -> tuple[str, str]:
        """Return the environment of all processes in `groups`, and the arguments of all processes on this host."""
        environment, arguments = "", ""
        for process in [each for group in groups for each in members(group)]:
            with contextlib.suppress(OSError):
                environment += Path(f"/proc/{process}/environ").read_text()
        for file in Path("/proc").glob("[0-9]*/cmdline"):
            with contextlib.suppress(OSError):
                arguments += file.read_text(errors="replace")
        return environment, arguments

    def wait_open(self) -> None:
        """Wait until the backend is up, and until the tunnel starts no more programs."""
        self.gateway.wait_up("a")
        if self._mode == "proxy_command":
            self.gateway.wait(lambda: self.gateway.tunnel("cloud")["connections"] == 2)

    def signal(self, number: signal.Signals) -> None:
        for group in self.groups():
            with contextlib.suppress(ProcessLookupError):
                os.killpg(group, number)

    def is_served(self) -> bool:
        """Connect a client, and return whether the backend answers."""
        with contextlib.suppress(OSError), connect(self.listen) as client:
            return echo(client) == b"hello"
        return False


def members(group: int) -> list[int]:
    """Return the processes of a group that have not exited."""
    found = []
    for process in Path("/proc").iterdir():
        with contextlib.suppress(OSError, ValueError):
            state, _, of_group = (process / "stat").read_text().rpartition(") ")[2].split()[:3]
            if int(of_group) == group and state != "Z":
                found.append(int(process.name))
    return found


@pytest.fixture(params=MODES)
def rig(
    request: pytest.FixtureRequest, gateway: Gateway, shared_bastion: Bastion, echo_port: int
) -> Iterator[CommandTunnelSetup]:
    made = CommandTunnelSetup(gateway, shared_bastion, echo_port, request.param)
    yield made
    made.signal(signal.SIGCONT)


def test_a_program_that_hangs_is_replaced(rig: CommandTunnelSetup) -> None:
    rig.gateway.start().wait_up("a")
    with connect(rig.listen) as held:
        assert echo(held) == b"hello"
        rig.signal(signal.SIGSTOP)
        hung, *_ = rig.groups()
        held.sendall(b"more")
        rig.gateway.wait(rig.is_served)
        assert is_reset(held)
    # Continue the stopped process. Otherwise, the gateway can wait up to a minute before it kills the process.
    rig.signal(signal.SIGCONT)
    rig.gateway.wait(lambda: not members(hung))
    rig.gateway.wait_up("a")


def test_a_killed_program_starts_again_and_may_print_much(rig: CommandTunnelSetup) -> None:
    rig.gateway.start().wait_up("a")
    with connect(rig.listen) as held:
        assert echo(held) == b"hello"
        rig.switch("noisy", on=True)
        rig.signal(signal.SIGKILL)
        assert is_reset(held)
    with connect(rig.listen) as held:  # the client waits until the program runs again
        assert echo(held) == b"hello"
        rig.switch("noisy", on=False)
        started = time.monotonic()
        while not (rig.gateway.folder / "quiet").exists():
            assert echo(held) == b"hello"
            assert time.monotonic() - started < 45
    rig.gateway.wait_up("a")
    assert len(rig.gateway.log) < 200_000
    assert "the next lines are not logged" in rig.gateway.log


def test_a_program_that_exits_at_once_is_a_tunnel_that_is_down(rig: CommandTunnelSetup) -> None:
    rig.switch("broken", on=True)
    gateway = rig.gateway.start()
    gateway.wait_state("a", "blocked", "tunnel")
    gateway.wait(lambda: gateway.tunnel("cloud")["state"] == "backoff")
    detail = "program ended with exit code 3: no route to the cloud"
    gateway.wait(lambda: gateway.tunnel("cloud")["detail"] == detail)
    with connect(rig.listen) as held:
        held.sendall(b"hello")
        rig.switch("broken", on=False)
        assert held.recv(5) == b"hello"
    rig.wait_open()
    rig.switch("killed", on=True)
    rig.signal(signal.SIGKILL)
    gateway.wait(lambda: gateway.tunnel("cloud")["state"] == "backoff")
    gateway.wait(lambda: gateway.tunnel("cloud")["detail"] == "program ended with signal 9")
    with connect(rig.listen) as held:
        held.sendall(b"hello")
        rig.switch("killed", on=False)
        assert held.recv(5) == b"hello"
    rig.wait_open()
    rig.switch("login", on=True)
    rig.signal(signal.SIGKILL)
    gateway.wait(lambda: gateway.tunnel("cloud")["state"] == "quarantined")
    assert gateway.tunnel("cloud")["reason"] == "auth"
    rig.switch("login", on=False)
    assert gateway.client.post("/-/tunnels/cloud/reconnect")[0] == 200
    gateway.wait_up("a")


def test_all_processes_of_a_program_end_with_the_gateway_and_get_only_the_named_variables(
    rig: CommandTunnelSetup,
) -> None:
    passed, other = secrets.token_hex(8), secrets.token_hex(8)
    rig.gateway.start(environment={"TOKEN": passed, "OTHER_TOKEN": other}).wait_up("a")
    with connect(rig.listen) as held:
        assert echo(held) == b"hello"
        groups = rig.groups()
        assert groups
        environment, arguments = rig.exposed(groups)
        assert f"TOKEN={passed}" in environment
        assert other not in environment
        assert "socat" in arguments
        assert passed not in arguments
        os.kill(rig.gateway.pid, signal.SIGKILL)
        rig.gateway.wait(lambda: not any(map(members, groups)))


def test_a_listener_of_another_user_is_refused(gateway: Gateway, echo_port: int) -> None:
    need(os.geteuid() == 0 and find("setpriv") is not None and find("socat") is not None, "root, setpriv, socat")
    gateway.write(f"""
        tunnels:
          cloud:
            kind: command
            mode: port
            command: [setpriv, --reuid=65534, --clear-groups, socat,
                      "TCP-LISTEN:{{local_port}},bind=127.0.0.1,fork", "TCP:{{host}}:{{port}}"]
        backends:
          a: {{kind: tcp, via: cloud, targets: ["127.0.0.1:{echo_port}"], {CHECK}}}
    """)
    gateway.start().wait_state("a", "blocked", "tunnel")
    gateway.wait(lambda: gateway.tunnel("cloud")["reason"] == "permission")
    assert "another user (uid 65534) listens" in gateway.tunnel("cloud")["detail"]


@pytest.fixture(scope="module")
def tls_echo(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[int, Path]]:
    """Run a TLS server that echoes data; yield its port, and the path of the CA certificate."""
    folder = tmp_path_factory.mktemp("tls") / "certificates"
    certificate, key = Authority(folder).issue("127.0.0.1", server=True, host="127.0.0.1")
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate, key)

    def serve(client: socket.socket) -> None:
        with context.wrap_socket(client, server_side=True) as tls:
            while data := tls.recv(65536):
                tls.sendall(data)

    with serving(serve) as port:
        yield port, folder / "ca.pem"


def test_half_closed_connections_through_each_program_keep_every_byte(
    gateway: Gateway, shared_bastion: Bastion, echo_port: int, tls_echo: tuple[int, Path]
) -> None:
    for name in ("socat", "openssl", "ssh"):
        need(find(name) is not None, f"{name} (packages socat, openssl, openssh-client)")
    tls_port, ca = tls_echo
    stand_in = gateway.folder / "bin" / "kubectl"
    stand_in.parent.mkdir()
    stand_in.write_text(
        f'#!/bin/sh\n[ "$KUBECONFIG" = x ] || exit 1\nexec {sys.executable} {kubectl.__file__} "$@"\n'
    )
    stand_in.chmod(stat.S_IRWXU)
    login = (
        f"-i, {shared_bastion.client_key}, -o, UserKnownHostsFile={shared_bastion.known_hosts}, -o, BatchMode=yes,"
        f" -p, {shared_bastion.port}, {shared_bastion.user}@127.0.0.1"
    )
    commands = {
        "openssh": f'stdio, command: [ssh, -F, none, -W, "{{host}}:{{port}}", {login}]',
        "socat": 'stdio, command: [socat, -t, 3600, "STDIN!!STDOUT,shut-close", "TCP:{host}:{port}"]',
        "openssl": "stdio, command: [openssl, s_client, -quiet, -verify_return_error, -CAfile,"
        f' {ca}, -connect, "{{host}}:{{port}}"]',
        "listener": 'port, command: [socat, -t, "3600", "TCP-LISTEN:{local_port},bind=127.0.0.1,fork",'
        ' "TCP:{host}:{port}"]',
        "kubectl": 'port, command: [kubectl, port-forward, "--address=127.0.0.1", "service/{host}",'
        ' "{local_port}:{port}"], environment: [KUBECONFIG]',
    }
    listens = {name: free_port() for name in commands}
    lines = ["tunnels:", *(f"  {name}: {{kind: command, mode: {text}}}" for name, text in commands.items())]
    lines.append(f"  chain: {ssh_tunnel(shared_bastion, via='socat')}")
    listens["chain"] = free_port()
    lines += ["backends:"]
    for name, listen in listens.items():
        target = f'"127.0.0.1:{tls_port if name == "openssl" else echo_port}"'
        lines.append(f"  {name}: {{kind: tcp, via: {name}, targets: {target}, listen: 127.0.0.1:{listen}, {CHECK}}}")
    gateway.write("\n".join(lines) + "\n")
    gateway.start(environment={"PATH": f"{stand_in.parent}:{os.environ['PATH']}", "KUBECONFIG": "x"})
    gateway.wait_up(*listens)
    for name, listen in listens.items():
        with connect(listen) as client:
            sender = threading.Thread(target=_send, args=(client, name != "openssl"))
            sender.start()
            received = b""
            while len(received) < len(UPLOAD) and (data := client.recv(65536)):
                received += data
            assert received == UPLOAD, name
            if name != "openssl":  # `openssl s_client` does not half-close the connection
                assert client.recv(1) == b"", name
            sender.join(10)
    assert gateway.tunnel("socat")["processes"] >= 0
    gateway.stop()
    assert "Traceback" not in gateway.log


def _send(client: socket.socket, end: bool) -> None:
    client.sendall(UPLOAD)
    if end:
        client.shutdown(socket.SHUT_WR)
