"""The client of members reads no more from a member than the answer."""

import asyncio
import json

import pytest

from gateway.contracts.values import Endpoint
from gateway.fleet.client import MemberClient, MemberError
from gateway.fleet.members import Member

WITHIN = 20.0
BODY = json.dumps({
    "instance": "a", "version": "1", "status": "ready", "started_at": "2026-01-01T00:00:00Z", "clients": 3,
    "warnings": 0, "reload_successful": True, "tunnels": {}, "backends": {}, "problems": [],
}).encode()  # fmt: skip


async def test_a_connection_is_closed_after_its_answer() -> None:
    ended = asyncio.Event()

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        head = f"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: {len(BODY)}\r\n\r\n"
        writer.write(head.encode() + BODY)
        await reader.read()  # until the client closes the connection
        ended.set()
        writer.close()

    server = await asyncio.start_server(answer, "127.0.0.1", 0)
    async with server, asyncio.timeout(WITHIN):
        port = server.sockets[0].getsockname()[1]
        async with MemberClient(WITHIN) as client:
            assert (await client.ask(Member("http", Endpoint("127.0.0.1", port)))).instance == "a"
            await ended.wait()


async def test_a_host_name_that_is_not_valid_is_reported() -> None:
    async with MemberClient(WITHIN) as client:
        with pytest.raises(MemberError, match="the host name is not valid: correct the address"):
            await client.ask(Member("http", Endpoint("a..b", 1)))
