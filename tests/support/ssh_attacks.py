"""Runs an SSH server that violates the protocol."""

import contextlib
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import asyncssh

from gateway.demo.sshd import Bastion

Attack = Callable[[asyncssh.SSHServerConnection, int, asyncssh.SSHTCPChannel[bytes]], None]


@contextlib.asynccontextmanager
async def hostile(folder: Path, attack: Attack) -> AsyncIterator[Bastion]:
    """Run an SSH server that answers `ping` with `pong`, and calls `attack` when it receives other data."""

    class Session(asyncssh.SSHTCPSession[bytes]):
        def __init__(self, conn: asyncssh.SSHServerConnection) -> None:
            self._conn = conn

        def connection_made(self, chan: asyncssh.SSHTCPChannel[bytes]) -> None:
            self._chan = chan

        def data_received(self, data: bytes, datatype: asyncssh.DataType) -> None:
            if data == b"ping":
                self._chan.write(b"pong")
            else:
                assert self._chan._send_chan is not None
                attack(self._conn, self._chan._send_chan, self._chan)

        def eof_received(self) -> bool:
            return True

    class Server(asyncssh.SSHServer):
        def connection_made(self, conn: asyncssh.SSHServerConnection) -> None:
            self._conn = conn

        def connection_requested(
            self, dest_host: str, dest_port: int, orig_host: str, orig_port: int
        ) -> asyncssh.SSHTCPSession[bytes]:
            return Session(self._conn)

    bastion = Bastion(folder, embedded=True)
    server = await asyncssh.listen(
        "127.0.0.1",
        bastion.port,
        server_factory=Server,
        server_host_keys=[str(folder / "host_key")],
        authorized_client_keys=str(folder / "authorized_keys"),
        encryption_algs=["aes128-gcm@openssh.com"],
    )
    async with server:
        yield bastion
