"""Tests the output of `render authorized-keys` on a real sshd that has no other restrictions."""

import contextlib
import itertools
import os
import socket
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from gateway.demo.server_process import find, free_port
from gateway.demo.sshd import Bastion
from tests.support.gateway_process import command
from tests.support.requirements import need
from tests.support.servers import echoing, serving

pytestmark = pytest.mark.integration


class Permissive:
    """An sshd that permits every request, and a client with one key."""

    def __init__(self, folder: Path) -> None:
        self.bastion = Bastion(folder)
        self.shell_user = self.bastion.user
        # The client logs in as an unprivileged user, because sshd permits root to listen on every port.
        self.plain_user = "nobody" if os.geteuid() == 0 else self.shell_user
        config = folder / "sshd_config"
        text = config.read_text().replace("AllowTcpForwarding local", "AllowTcpForwarding yes")
        text = text.replace("AllowAgentForwarding no", "AllowAgentForwarding yes")
        text = text.replace("PermitTTY no", "PermitTTY yes")
        config.write_text(f"{text}\nGatewayPorts clientspecified\nSubsystem sftp internal-sftp\n")
        sockets = folder / "agent"
        sockets.mkdir()
        sockets.chmod(0o777)

    def authorize(self, rendered: str) -> None:
        """Authorize the client's key with the rendered line; an empty line means no restrictions."""
        public = self.bastion.client_key.with_suffix(".pub").read_text()
        (self.bastion.folder / "authorized_keys").write_text(rendered or public)

    @contextlib.contextmanager
    def settings(self, rendered: str) -> Iterator[None]:
        """Add the sshd settings in the comments of `rendered` to sshd_config, and remove them when the block ends."""
        config = self.bastion.folder / "sshd_config"
        before = config.read_text()
        lines = [line.removeprefix("#   ") for line in rendered.splitlines() if line.startswith("#   ")]
        assert lines[0] == f"Match User {self.plain_user}"
        config.write_text("\n".join([before, *lines, ""]))
        self._again()
        try:
            yield
        finally:
            config.write_text(before)
            self._again()

    def _again(self) -> None:
        self.bastion.stop()
        self.bastion.start()

    def render(self, target: str, *arguments: str, user: str = "u") -> "subprocess.CompletedProcess[str]":
        b = self.bastion
        file = b.folder / "c.yaml"
        file.write_text(
            f"tunnels: {{b: {{kind: ssh, host: 127.0.0.1, user: {user}, identity_files: {b.client_key}}}}}\n"
            f"backends: {{a: {{kind: tcp, via: b, targets: ['{target}']}}}}\n"
        )
        return command("render", "authorized-keys", "-c", str(file), *arguments)

    def rendered(self, target: str, *arguments: str, user: str = "u") -> str:
        done = self.render(target, *arguments, user=user)
        assert done.returncode == 0, done.stderr
        return done.stdout

    def command(self, user: str, options: tuple[str, ...]) -> list[str]:
        b = self.bastion
        return [
            "ssh", "-F", "none", "-p", str(b.port), "-i", str(b.client_key),
            "-o", "IdentitiesOnly=yes", "-o", f"UserKnownHostsFile={b.known_hosts}", "-o", "BatchMode=yes",
            "-o", "ConnectTimeout=10", "-l", user, "127.0.0.1", *options,
        ]  # fmt: skip

    def ssh(self, user: str, *options: str, stdin: bytes = b"") -> "subprocess.CompletedProcess[bytes]":
        return subprocess.run(self.command(user, options), input=stdin, capture_output=True, timeout=30, check=False)


def wait_for(path: Path) -> None:
    deadline = time.monotonic() + 10
    while not path.exists():
        assert time.monotonic() < deadline
        time.sleep(0.02)


@pytest.fixture(scope="module")
def server(server_folder: Path) -> Iterator[Permissive]:
    need(find("sshd") is not None and find("ssh") is not None, "sshd and ssh (openssh-server, openssh-client)")
    made = Permissive(server_folder / "authorized")
    made.bastion.start()
    yield made
    made.bastion.stop()


def listens(server: Permissive, *where: str) -> bool:
    """Return whether a client can open a listener on the server."""
    options = ("-N", "-v", "-o", "ExitOnForwardFailure=yes", *where)
    with subprocess.Popen(server.command(server.plain_user, options), stderr=subprocess.PIPE) as client:
        assert client.stderr is not None
        try:
            return any(b"remote forward success" in line for line in client.stderr)
        finally:
            client.kill()


def forwarded(server: Permissive, port: int, *more: str) -> bool:
    done = server.ssh(server.plain_user, "-W", f"127.0.0.1:{port}", *more, stdin=b"hello")
    return done.stdout == b"hello"


def test_a_rendered_key_opens_its_targets_and_no_others(server: Permissive, echo_port: int) -> None:
    server.authorize(server.rendered(f"127.0.0.1:{echo_port}"))
    assert forwarded(server, echo_port)
    with serving(echoing) as other:
        assert not forwarded(server, other)
        server.authorize("")
        assert forwarded(server, other)


def test_a_rendered_key_opens_no_listener_on_tcp(server: Permissive, echo_port: int) -> None:
    wanted = (
        f"{free_port()}:127.0.0.1:{echo_port}", f"127.0.0.1:{free_port()}:127.0.0.1:{echo_port}",
        f"*:0:127.0.0.1:{echo_port}", f"none.invalid:1:127.0.0.1:{echo_port}",
    )  # fmt: skip
    server.authorize("")
    assert [listens(server, "-R", each) for each in wanted] == [True, True, True, False]
    server.authorize(server.rendered(f"127.0.0.1:{echo_port}"))
    assert [listens(server, "-R", each) for each in wanted] == [False] * 4
    assert not listens(server, "-R", "0")  # `-R PORT` alone requests a SOCKS proxy (ssh(1))


def test_the_rendered_settings_forbid_listeners_on_unix_sockets(server: Permissive, echo_port: int) -> None:
    names = itertools.count()

    def wanted() -> tuple[str, str]:
        """Return the ssh options for a listener on a new unix socket. sshd cannot bind an existing socket file."""
        return "-R", f"{server.bastion.folder}/agent/{next(names)}:127.0.0.1:{echo_port}"

    rendered = server.rendered(f"127.0.0.1:{echo_port}", user=server.plain_user)
    server.authorize(rendered)
    assert listens(server, *wanted())  # no option of authorized_keys can forbid this listener
    with server.settings(rendered):
        assert not listens(server, *wanted())
        assert not listens(server, "-R", f"{free_port()}:127.0.0.1:{echo_port}")
        assert forwarded(server, echo_port)


def test_a_rendered_key_runs_no_command_and_no_shell(server: Permissive, echo_port: int) -> None:
    server.authorize("")
    assert server.ssh(server.shell_user, "echo", "hello").stdout == b"hello\n"
    server.authorize(server.rendered(f"127.0.0.1:{echo_port}"))
    for arguments, stdin in ((("echo", "hello"), b""), ((), b"echo hello\n"), (("-s", "sftp"), b"")):
        done = server.ssh(server.shell_user, *arguments, stdin=stdin)
        assert done.returncode != 0
        assert done.stdout == b""


def test_a_rendered_key_forwards_no_agent_and_gets_no_terminal(
    server: Permissive, echo_port: int, tmp_path: Path
) -> None:
    agent = tmp_path / "agent"
    with subprocess.Popen(["ssh-agent", "-D", "-a", str(agent)], stdout=subprocess.DEVNULL) as keeper:
        try:
            wait_for(agent)
            options = ("-A", "-o", f"IdentityAgent={agent}")
            server.authorize("")
            environment = server.ssh(server.shell_user, *options, "-tt", "env").stdout
            assert b"SSH_AUTH_SOCK=" in environment
            assert b"SSH_TTY=" in environment
            line = server.rendered(f"127.0.0.1:{echo_port}")
            server.authorize(line.replace('command="false"', 'command="env"'))
            environment = server.ssh(server.shell_user, *options).stdout
            assert b"SSH_CONNECTION=" in environment
            assert b"SSH_AUTH_SOCK=" not in environment
            assert b"PTY allocation request failed" in server.ssh(server.shell_user, *options, "-tt").stderr
        finally:
            keeper.kill()


def test_a_rendered_key_logs_in_from_permitted_addresses_only(server: Permissive, echo_port: int) -> None:
    target = f"127.0.0.1:{echo_port}"
    server.authorize(server.rendered(target, "--from", "192.0.2.0/24", "--from", "127.0.0.0/8"))
    assert forwarded(server, echo_port)
    server.authorize(server.rendered(target, "--from", "192.0.2.0/24"))
    assert not forwarded(server, echo_port)


def test_a_user_that_authorizes_other_commands_is_refused(server: Permissive) -> None:
    for target, origin in (('x",command="id:1', "127.0.0.1"), ("*:1", "127.0.0.1"), ("a:1", 'x" ssh-rsa')):
        done = server.render(target, "--from", origin)
        assert done.returncode == 2
        assert done.stdout == ""  # standard output must be empty, because users append it to authorized_keys


def test_one_key_opens_the_targets_of_two_tunnels(server: Permissive, echo_port: int) -> None:
    b, file = server.bastion, server.bastion.folder / "two.yaml"
    with serving(echoing) as other:
        ports = {"one": echo_port, "two": other}
        tunnels = [f"{name}: {{kind: ssh, host: h, user: u, identity_files: {b.client_key}}}" for name in ports]
        backends = [
            f"{name}: {{kind: tcp, via: {name}, targets: ['127.0.0.1:{port}']}}" for name, port in ports.items()
        ]
        file.write_text(f"tunnels: {{{', '.join(tunnels)}}}\nbackends: {{{', '.join(backends)}}}\n")
        done = command("render", "authorized-keys", "-c", str(file))
        assert done.returncode == 0, done.stderr
        server.authorize(done.stdout)
        assert [forwarded(server, port) for port in ports.values()] == [True, True]


def test_a_rendered_key_for_an_engine_opens_a_unix_socket(server: Permissive) -> None:
    b, file = server.bastion, server.bastion.folder / "engine.yaml"
    path = b.folder / "agent" / "engine.sock"
    file.write_text(
        f"tunnels: {{dock: {{kind: ssh, host: h, user: {server.plain_user}, identity_files: {b.client_key}}}}}\n"
        f"docker: {{host: 'ssh://dock{path}'}}\n"
        "backends: {a: {kind: tcp, targets: ['x:1']}}\n"
    )
    done = command("render", "authorized-keys", "-c", str(file))
    assert done.returncode == 0, done.stderr
    server.authorize(done.stdout)
    local = b.folder / "agent" / "local.sock"
    with socket.socket(socket.AF_UNIX) as engine, server.settings(done.stdout):
        engine.bind(str(path))
        path.chmod(0o666)
        engine.listen()
        engine.settimeout(20)
        options = ("-N", "-L", f"{local}:{path}")
        with subprocess.Popen(server.command(server.plain_user, options)) as client:
            try:
                wait_for(local)
                with socket.socket(socket.AF_UNIX) as docker:
                    docker.connect(str(local))
                    accepted, _ = engine.accept()
                    accepted.close()
            finally:
                client.kill()
