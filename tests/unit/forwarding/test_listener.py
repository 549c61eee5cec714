"""Tests of listeners: binding, file modes, and errors while accepting."""

import asyncio
import errno
import logging
import socket
import stat
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from types import SimpleNamespace

import pytest

from gateway.contracts.config_types import HostPort, unix_host_port
from gateway.demo.server_process import free_port
from gateway.forwarding import listener as listener_module
from gateway.forwarding.listener import AcceptHandler, BindError, Listener
from gateway.relay.event_loop import EventHandler
from gateway.relay.fd_poller import poller


def test_localhost_binds_both_addresses_or_none() -> None:
    # Use `free_port`, because a port that the kernel chooses on ::1 could be in use on 127.0.0.1.
    port = free_port()
    with socket.socket(socket.AF_INET6) as taken:
        taken.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        taken.bind(("::1", port))
        taken.listen()
        with pytest.raises(BindError, match=rf"cannot listen on \[::1\]:{port}: Address already in use"):
            Listener(HostPort("localhost", port))
        with socket.create_server(("127.0.0.1", port)):
            """The address can be bound only if `Listener` has left no socket on this address."""
    listener = Listener(HostPort("localhost", port))
    assert len(listener.sockets) == 2
    listener.close()


@pytest.mark.parametrize("host", ["198.51.100.77", "2001:db8::77"])
def test_an_address_that_the_host_does_not_have_yet_is_bound(host: str, caplog: pytest.LogCaptureFixture) -> None:
    listener = Listener(HostPort(host, 0), free_bind=True)
    try:
        (sock,) = listener.sockets
        assert sock.getsockname()[0] == host
        assert sock.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN) == 1
    finally:
        listener.close()
    assert "this host does not have the address of a listener yet" in caplog.text


def mode(path: Path) -> int:
    return stat.S_IMODE(path.lstat().st_mode)


@pytest.mark.parametrize("what", ["link", "file", "socket", "nothing"])
def test_set_mode_changes_only_the_bound_socket(tmp_path: Path, caplog: pytest.LogCaptureFixture, what: str) -> None:
    path, secret = tmp_path / "listen.sock", tmp_path / "secret"
    listener, other = Listener(unix_host_port(path)), socket.socket(socket.AF_UNIX)
    if what in ("link", "file"):
        secret.touch(0o600)
    else:
        other.bind(str(secret))
        secret.chmod(0o600)
    path.unlink()
    if what == "link":
        path.symlink_to(secret)
    elif what != "nothing":
        secret.rename(path)
    listener.set_mode(open_to_all=True)
    assert mode(secret if secret.exists() else path) == 0o600
    assert "cannot set the mode of a unix socket" in caplog.text
    other.close()
    listener.close()


@pytest.mark.parametrize("what", ["link", "file", "socket", "directory"])
def test_close_does_not_remove_a_file_that_has_replaced_the_socket(tmp_path: Path, what: str) -> None:
    path, other = tmp_path / "listen.sock", socket.socket(socket.AF_UNIX)
    listener = Listener(unix_host_port(path))
    path.unlink()
    if what == "link":
        path.symlink_to(tmp_path / "elsewhere")
    elif what == "socket":
        other.bind(str(path))
    elif what == "file":
        path.touch()
    else:
        path.mkdir()
    listener.close()
    assert path.lstat()
    other.close()


def test_close_continues_if_the_file_cannot_be_removed(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "listen.sock"
    listener = Listener(unix_host_port(path))
    (sock,) = listener.sockets

    def refuse(_: Path) -> None:
        raise PermissionError(errno.EACCES, "Permission denied")

    with monkeypatch.context() as patched:
        patched.setattr(Path, "unlink", refuse)
        listener.close()
    assert sock.fileno() == -1
    assert "cannot remove the file of a unix socket" in caplog.text


def test_set_mode_only_acts_on_changes(tmp_path: Path) -> None:
    path = tmp_path / "listen.sock"
    listener = Listener(unix_host_port(path))
    assert mode(path) == 0o660
    listener.set_mode(open_to_all=True)
    assert mode(path) == 0o666
    path.chmod(0o600)
    listener.set_mode(open_to_all=True)
    assert mode(path) == 0o600  # The argument of `set_mode` has not changed, so the mode from `chmod` remains.
    listener.set_mode(open_to_all=False)
    assert mode(path) == 0o660
    listener.close()


class Faulty(socket.socket):
    """A listening socket whose `accept` first raises the errors in `faults`, and then accepts clients."""

    faults: list[Exception]

    def accept(self) -> tuple[socket.socket, object]:
        if self.faults:
            raise self.faults.pop(0)
        return super().accept()


def faulty(*faults: Exception) -> Faulty:
    sock = Faulty()
    sock.faults = list(faults)
    sock.bind(("127.0.0.1", 0))
    sock.listen()
    sock.setblocking(False)
    return sock


async def ends(address: tuple[str, int]) -> bytes | None:
    """Connect a client, and return the first bytes that the client receives; None if the connection is reset."""
    loop = asyncio.get_running_loop()
    with socket.socket() as client:
        client.setblocking(False)
        async with asyncio.timeout(20):
            try:
                await loop.sock_connect(client, address)
                return await loop.sock_recv(client, 10)
            except ConnectionResetError:
                return None


@asynccontextmanager
async def accepting(sock: socket.socket, on_accept: AcceptHandler) -> AsyncIterator[Listener]:
    listener = Listener(HostPort("127.0.0.1", sock.getsockname()[1]), [sock])
    listener.start(on_accept)
    try:
        yield listener
    finally:
        listener.close()


async def test_a_client_whose_handler_raises_is_reset_and_the_next_one_is_accepted(
    caplog: pytest.LogCaptureFixture,
) -> None:
    fails = [True]

    def serve(client: socket.socket) -> None:
        if fails.pop():
            raise ValueError("no")
        with client:
            client.send(b"hello")

    with caplog.at_level(logging.ERROR):
        async with accepting(faulty(), serve) as listener:
            address = ("127.0.0.1", listener.address.port)
            assert await ends(address) is None
            assert "cannot handle an accepted client" in caplog.text
            fails.append(False)
            assert await ends(address) == b"hello"


@pytest.mark.parametrize(
    "fault",
    [
        ConnectionAbortedError(errno.ECONNABORTED, "Software caused connection abort"),
        PermissionError(errno.EPERM, "Operation not permitted"),  # Firewall rules cause EPERM (accept(2)).
        OSError(errno.EMFILE, "Too many open files"),
        OSError(errno.EPROTO, "Protocol error"),
        MemoryError(),
    ],
)
async def test_the_listener_continues_after_any_error_of_accept(fault: Exception) -> None:
    def serve(client: socket.socket) -> None:
        with client:
            client.send(b"hello")

    async with accepting(faulty(fault, fault), serve) as listener:
        address = ("127.0.0.1", listener.address.port)
        assert await ends(address) == b"hello"
        assert await ends(address) == b"hello"


async def test_registration_with_the_poller_is_retried(monkeypatch: pytest.MonkeyPatch) -> None:
    def serve(client: socket.socket) -> None:
        with client:
            client.send(b"hello")

    # epoll_ctl(2) fails with ENOSPC when the limit fs.epoll.max_user_watches is reached.
    faults = [OSError(errno.ENOSPC, "No space left on device")]
    real = poller()

    def add(fd: int, handler: EventHandler, mask: int) -> None:
        if faults:
            raise faults.pop()
        real.add(fd, handler, mask)

    watching = SimpleNamespace(add=add, remove=real.remove)
    monkeypatch.setattr(listener_module, "poller", lambda: watching)
    async with accepting(faulty(), serve) as listener:
        assert await ends(("127.0.0.1", listener.address.port)) == b"hello"
    assert not faults


async def test_stop_during_accept_accepts_no_more_clients() -> None:
    taken: list[socket.socket] = []

    def serve(client: socket.socket) -> None:
        taken.append(client)
        listener.close()

    async with accepting(faulty(), serve) as listener:
        address = ("127.0.0.1", listener.address.port)
        with socket.create_connection(address), socket.create_connection(address):
            async with asyncio.timeout(20):
                while not taken:
                    await asyncio.sleep(0.01)
            assert len(taken) == 1
    taken[0].close()
