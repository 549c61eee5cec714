"""The soak detects a nonce that is used twice, and bytes that belong to another stream."""

import asyncio
import socket
from types import SimpleNamespace
from typing import Any, cast

import pytest

from gateway.relay.sockets import tune
from gateway.ssh.aes_gcm import TAG, AesGcm
from tests.soak.nonces import Nonces
from tests.soak.streams import BACK, FORTH, EarlyEndError, End, Kind, Pattern, WrongBytesError, put_head


def cipher(key: bytes) -> AesGcm:
    """Return an asyncssh cipher with the given key."""
    return AesGcm(cast("Any", SimpleNamespace(_cipher=SimpleNamespace(_key=key, _iv=bytes(12)))))


def test_a_repeated_nonce_is_detected() -> None:
    sealed = memoryview(bytearray(16 + TAG))
    with Nonces() as nonces:
        one = cipher(bytes(16))
        one.seal_into(one.nonce, bytes(16), b"head", sealed)
        one.advance()
        one.encrypt_packet(0, b"head", bytes(16))
        one.seal_into(one.nonce, bytes(16), b"head", sealed)
        assert (nonces.sealed, nonces.keys, nonces.problems) == (3, 1, [])
        one.seal_into(one.nonce, bytes(16), b"head", sealed)
        assert nonces.problems == ["counter 2 after 2 with one key"]
        other, again = cipher(b"other key: 16 B!"), cipher(bytes(16))
        other.seal_into(other.nonce, bytes(16), b"head", sealed)
        again.counter = 7
        again.advance()
        again.seal_into(again.nonce, bytes(16), b"head", sealed)
        assert nonces.problems[1:] == ["a key was agreed twice"]
    assert cipher(bytes(16)).seal_into.__name__ == "encrypt_into"


async def test_a_stream_detects_bytes_of_another_stream_and_an_early_end() -> None:
    pattern = Pattern(seed=1)
    with socket.create_server(("127.0.0.1", 0)) as server, socket.create_connection(server.getsockname()) as near:
        far, _ = server.accept()
        tune(near)
        tune(far)
        client, backend = End(near, pattern, FORTH, stream=5), End(far, pattern, BACK)
        with far:
            async with asyncio.timeout(10):
                await asyncio.get_running_loop().sock_sendall(near, put_head(Kind.FIRST, 5, 100, 200))
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
