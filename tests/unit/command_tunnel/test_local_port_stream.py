"""Tests of streams over connections to a program's local port, with a stand-in for the process."""

import socket
from unittest.mock import AsyncMock, Mock

import pytest

from gateway.command_tunnel.local_port_stream import LocalPortStream


@pytest.mark.parametrize(
    ("has_exited", "is_exiting"), [(True, True), (False, True)], ids=["exited", "its exit is blocked"]
)
async def test_the_end_of_data_from_a_program_that_exits_is_a_reset(has_exited: bool, is_exiting: bool) -> None:
    process = Mock(connections=0)
    process.child = Mock(exits_within=AsyncMock(return_value=has_exited), is_exiting=is_exiting)
    near, far = socket.socketpair()
    near.setblocking(False)
    stream = LocalPortStream(near, process)
    far.sendall(b"a part")
    far.close()
    assert await stream.read() == b"a part"
    with pytest.raises(ConnectionResetError):
        await stream.read()
    stream.abort()


async def test_the_end_of_data_from_a_program_that_still_runs_is_an_end() -> None:
    process = Mock(connections=0)
    process.child = Mock(exits_within=AsyncMock(return_value=False), is_exiting=False)
    near, far = socket.socketpair()
    near.setblocking(False)
    stream = LocalPortStream(near, process)
    far.close()
    assert await stream.read() == b""
    stream.abort()
