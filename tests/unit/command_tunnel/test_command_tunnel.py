"""Tests tunnels of kind `command`: their options, their ports, and the state of the sockets of their programs."""

import contextlib
import os
import re
import socket
import struct
from pathlib import Path

import pytest
from click.testing import CliRunner
from hypothesis import given
from hypothesis import strategies as st

from gateway.cli import cli
from gateway.command_tunnel import local_port_state, sock_diag
from gateway.command_tunnel.local_port_state import LocalPortState, read_local_ports
from gateway.command_tunnel.options import CommandTunnelOptions
from gateway.command_tunnel.port_reservations import release_port, reserve_port
from gateway.command_tunnel.sock_diag import is_listening, read_connection
from gateway.command_tunnel.stall_timer import StallTimer
from gateway.config import ConfigSources, load
from gateway.demo.server_process import free_port, listening
from tests.support.files import REPOSITORY, scratch

PAGE = REPOSITORY / "docs/commands.md"


def test_validate_names_the_position_of_each_mistake() -> None:
    with scratch() as folder:  # other users can access this directory, as with /usr/local/bin
        check_positions(folder)


def check_positions(folder: Path) -> None:
    writable, file = folder / "writable", folder / "gateway.yaml"
    writable.write_text("#!/bin/sh\n")
    writable.chmod(0o777)
    file.write_text(
        "tunnels:\n"
        "  a: {kind: command, mode: stdio, command: [absent-program, x]}\n"
        "  b: {kind: command, mode: stdio, command: nc host 1}\n"
        f"  c: {{kind: command, mode: stdio, command: [{writable}]}}\n"
        "  d: {kind: ssh, host: h, user: u, insecure_host_key: true, agent: /x, proxy_command: [/absent/nc]}\n"
        "backends: {x: {kind: tcp, via: a, targets: 'h:1'}}\n"
    )
    reported = str(CliRunner().invoke(cli, ["validate", "-c", str(file)]).exception)
    assert f"{file}:2:44: tunnels.a.command: absent-program is not installed" in reported
    assert f"{file}:3:44: tunnels.b.command: the command is one word that starts with 'nc'" in reported
    assert f"{file}:4:44: tunnels.c.command: {writable}: everybody can change it (mode 0777): chmod o-w" in reported
    assert "tunnels.d.agent" in reported
    file.write_text(file.read_text().replace(", agent: /x", ""))
    reported = str(CliRunner().invoke(cli, ["validate", "-c", str(file)]).exception)
    assert f"{file}:5:76: tunnels.d.proxy_command: /absent/nc: no such file" in reported


@pytest.mark.parametrize("recipe", re.findall(r"```yaml\n(.*?)```", PAGE.read_text(), re.DOTALL))
def test_each_recipe_is_a_configuration(recipe: str, tmp_path: Path) -> None:
    file = tmp_path / "gateway.yaml"
    backends = "" if "backends:" in recipe else "backends: {a: {kind: tcp, targets: ['h:1']}}\n"
    file.write_text(recipe + backends)
    assert load(ConfigSources(file, environment={})).tunnels


def test_json_and_shell_variables_are_not_placeholders() -> None:
    parameters = '{"portNumber":["{port}"],"localPortNumber":["{local_port}"]}'
    CommandTunnelOptions(("aws", "--parameters", parameters, "${HOME}", "{ x }"), "port")


@given(st.lists(st.tuples(st.booleans(), st.booleans(), st.floats(0, 10)), max_size=30))
def test_silence_is_at_most_the_time_since_the_last_sign_of_life(steps: list[tuple[bool, bool, float]]) -> None:
    timer, now, last, all_read = StallTimer(), 0.0, 0.0, 0.0
    for waits, answers, pause in steps:
        now += pause
        last = now if answers else last
        silence = timer.update(now, last, waits=waits)
        all_read = all_read if waits else now
        assert 0 <= silence <= now - max(last, all_read)
        assert waits or silence == 0


def test_silence_grows_while_data_waits() -> None:
    timer = StallTimer()
    assert [timer.update(now, 0.0, waits=True) for now in (10.0, 11.0, 13.0)] == [0.0, 1.0, 3.0]
    assert timer.update(14.0, 12.5, waits=True) == 1.5
    assert timer.update(15.0, 12.5, waits=False) == 0
    assert timer.update(16.0, 12.5, waits=True) == 0


@pytest.mark.parametrize(("family", "host"), [(socket.AF_INET, "127.0.0.1"), (socket.AF_INET6, "::1")])
def test_connections_and_data_that_wait_are_counted(family: socket.AddressFamily, host: str) -> None:
    with socket.create_server((host, 0), family=family) as listener:
        port = listener.getsockname()[1]
        assert not read_local_ports({port: host})[port].has_waiting_clients
        assert read_local_ports({port: host})[port].owners == {os.geteuid()}
        with socket.create_connection((host, port)) as client:
            assert read_local_ports({port: host})[port].backlog == 1
            assert read_local_ports({port: host})[port].has_waiting_clients
            assert read_local_ports({port: host})[port].pending == {client.getsockname()[1]}
            accepted, _ = listener.accept()
            with accepted:
                peer = client.getsockname()[1]
                listeners = {os.fstat(listener.fileno()).st_ino}
                assert read_local_ports({port: host})[port] == LocalPortState(
                    {os.geteuid()}, listeners, unread={peer: 0}
                )
                client.sendall(b"12345")
                stalled = read_local_ports({port: host})[port]
                assert stalled.unread == {peer: 5}
                assert stalled.has_waiting_clients
                with socket.create_connection((host, port)), listener.accept()[0]:
                    assert not read_local_ports({port: host})[port].has_waiting_clients
                accepted.recv(1)
                assert read_local_ports({port: host})[port].has_progress_since(stalled)
                accepted.recv(4)
                assert not read_local_ports({port: host})[port].has_waiting_clients
                client.sendall(b"12345")
                stalled = read_local_ports({port: host})[port]
                client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
                client.close()
                assert not read_local_ports({port: host})[port].has_progress_since(stalled)
    assert read_local_ports({port: host})[port].owners == set()


@pytest.mark.parametrize("source", ["sock_diag", "tables"])
@pytest.mark.parametrize(("listen", "host"), [("127.0.0.1", "127.0.0.1"), ("::", "127.0.0.1"), ("::1", "::1")])
def test_the_state_of_one_connection(source: str, listen: str, host: str, monkeypatch: pytest.MonkeyPatch) -> None:
    if source == "sock_diag":
        # The code must not read /proc/net/tcp, because its size depends on the number of connections of the host.
        monkeypatch.setattr(local_port_state, "_TABLES", ())
    else:
        monkeypatch.setattr(sock_diag, "_NETLINK_SOCK_DIAG", 31)
    family = socket.AF_INET6 if ":" in listen else socket.AF_INET
    with socket.create_server((listen, 0), family=family, dualstack_ipv6=listen == "::") as listener:
        port, inode = listener.getsockname()[1], os.fstat(listener.fileno()).st_ino
        with socket.create_connection((host, port)) as client:
            number = client.getsockname()[1]
            waiting = read_connection(host, port, number)
            assert waiting == LocalPortState({os.geteuid()}, {inode}, backlog=1, pending={number})
            with listener.accept()[0]:
                accepted = read_connection(host, port, number)
                assert (accepted.owners, accepted.listeners) == ({os.geteuid()}, {inode})
                assert (accepted.backlog, accepted.pending) == (0, set())


def test_sockets_of_other_addresses_are_ignored() -> None:
    """Another user can listen on the same port number at another address."""
    with contextlib.ExitStack() as stack:
        port = free_port()
        program = stack.enter_context(socket.create_server(("127.0.0.1", port)))
        inode = os.fstat(program.fileno()).st_ino
        others = [
            stack.enter_context(socket.create_server((host, port), family=family))
            for host, family in (("127.0.0.2", socket.AF_INET), ("::", socket.AF_INET6))
        ]
        stack.enter_context(socket.create_connection(("127.0.0.2", port))).sendall(b"x")
        stack.enter_context(others[0].accept()[0])
        stack.enter_context(socket.create_connection(("127.0.0.2", port)))
        assert read_local_ports({port: "127.0.0.1"})[port] == LocalPortState({os.geteuid()}, {inode})
        assert read_local_ports({port: "::1"})[port].listeners == {os.fstat(others[1].fileno()).st_ino}


@pytest.mark.parametrize(("family", "host"), [(socket.AF_INET, ""), (socket.AF_INET6, "::")])
def test_a_program_can_listen_on_all_addresses(family: socket.AddressFamily, host: str) -> None:
    with socket.create_server((host, 0), family=family, dualstack_ipv6=family == socket.AF_INET6) as program:
        port = program.getsockname()[1]
        with socket.create_connection(("127.0.0.1", port)) as client:
            found = read_local_ports({port: "127.0.0.1"})[port]
            assert found.listeners == {os.fstat(program.fileno()).st_ino}
            assert found.pending == {client.getsockname()[1]}


def test_a_reserved_port_is_not_returned_again(monkeypatch: pytest.MonkeyPatch) -> None:
    """The kernel can offer the same free port again while the program does not listen yet."""
    first = reserve_port()
    create_server, addresses = socket.create_server, [("127.0.0.1", first), ("127.0.0.1", 0)]
    monkeypatch.setattr(socket, "create_server", lambda _: create_server(addresses.pop(0)))
    other = reserve_port()
    assert (other != first, addresses) == (True, [])
    for port in (first, other):
        release_port(port)
    addresses.append(("127.0.0.1", first))
    assert reserve_port() == first
    release_port(first)


@pytest.mark.parametrize("source", ["sock_diag", "tables"])
@pytest.mark.parametrize("address", ["127.0.0.1", "::1", "::"])
def test_a_listening_socket_is_found(monkeypatch: pytest.MonkeyPatch, address: str, source: str) -> None:
    if source == "tables":
        monkeypatch.setattr(sock_diag, "_NETLINK_SOCK_DIAG", 31)
    find = is_listening if source == "sock_diag" else listening
    with socket.socket(socket.AF_INET6 if ":" in address else socket.AF_INET) as server:
        port = free_port()  # another process can listen on a port of the kernel's choice, at another address
        server.bind((address, port))
        assert not find(port)
        server.listen()
        assert find(port)
    assert not find(port)


def test_one_of_many_listening_sockets_is_found() -> None:
    """The kernel needs several messages to list the sockets."""
    with contextlib.ExitStack() as stack:
        for _ in range(500):
            server = stack.enter_context(socket.create_server(("127.0.0.1", 0)))
            assert is_listening(server.getsockname()[1])
