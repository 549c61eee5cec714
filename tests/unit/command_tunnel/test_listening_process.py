"""Tests of connections to a program that listens on a local port."""

import asyncio
import socket
from typing import Any

import pytest

from gateway.command_tunnel.listening_process import ListeningProcess
from gateway.command_tunnel.options import CommandTunnelOptions
from gateway.errors import TunnelError


class Child:
    """Stands in for a process that has exited, but whose exit the gateway has not detected yet."""

    exit_code: int | None = None
    last_line = ""

    async def exits_within(self, seconds: float) -> bool:
        self.exit_code = 1
        return True

    async def wait(self) -> int:
        return 1


async def test_a_connection_that_the_exit_of_the_program_has_reset_is_not_used() -> None:
    child: Any = Child()
    server = socket.create_server(("127.0.0.1", 0))
    port = server.getsockname()[1]
    process = ListeningProcess(child, ("program",), port, CommandTunnelOptions(("program", "{local_port}"), "port"))
    async with asyncio.timeout(20):
        connecting = asyncio.create_task(process.connect())
        while not (await process._read_sockets()).pending:
            await asyncio.sleep(0.005)
        server.close()
        with pytest.raises(TunnelError, match="program ended with exit code 1"):
            await connecting
