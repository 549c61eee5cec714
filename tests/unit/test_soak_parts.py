"""Tests whether the soak test detects two errors of a stream: bytes of another stream, and an early end."""

import asyncio
import socket

import pytest

from gateway.relay.sockets import tune
from tests.soak.streams import BACK, FORTH, EarlyEndError, End, Kind, Pattern, WrongBytesError, pack_head


async def test_a_stream_detects_bytes_of_another_stream_and_an_early_end() -> None:
    pattern = Pattern(seed=1)
    with socket.create_server(("127.0.0.1", 0)) as server, socket.create_connection(server.getsockname()) as near:
        far, _ = server.accept()
        tune(near)
        tune(far)
        client, backend = End(near, pattern, FORTH, stream=5), End(far, pattern, BACK)
        with far:
            async with asyncio.timeout(10):
                await asyncio.get_running_loop().sock_sendall(near, pack_head(Kind.FIRST, 5, 100, 200))
                assert await backend.take_head() == (Kind.FIRST, 100, 200)
                await client.send(100)
                await backend.take(100)
                await backend.send(50)
                await client.take(50)
                backend.stream = 6
                await backend.send(50)
                with pytest.raises(WrongBytesError):
                    await client.take(50)
                client.finish()
                with pytest.raises(EarlyEndError):
                    await backend.take(1)
