"""Tests event streams of a real ops server: order, resumption, limits, slow readers, and the stop of the server."""

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator
from pathlib import Path
from unittest.mock import Mock

import pytest

from gateway.contracts.config_types import HostPort
from gateway.ops import event_streams, server
from gateway.ops.events import EventLog, EventSubject, SubjectType
from gateway.ops.http_connection_limits import HttpConnectionLimits
from gateway.ops.server import OpsServer
from gateway.ops.settings import OpsSettings

WITHIN = 20.0
ORDERS = EventSubject(SubjectType.BACKEND, "orders")
Reader = asyncio.StreamReader


@contextlib.asynccontextmanager
async def serving(folder: Path, log: EventLog) -> AsyncIterator[HostPort]:
    settings = OpsSettings(listen=HostPort("127.0.0.1", 0), admin_socket=folder / "admin.sock")
    async with OpsServer(Mock(events=log), settings).serving() as address:
        yield address


async def subscribe(
    address: HostPort, last_id: int | str | None = None, token: str | None = None
) -> tuple[Reader, asyncio.StreamWriter, bytes]:
    """Open a stream; return the reader, the writer and the head of the response."""
    reader, writer = await asyncio.open_connection(*address)
    header = f"Last-Event-ID: {last_id}\r\n" if last_id is not None else ""
    header += f"Authorization: Bearer {token}\r\n" if token is not None else ""
    writer.write(f"GET /api/v1/events HTTP/1.0\r\nHost: localhost\r\n{header}\r\n".encode())
    async with asyncio.timeout(WITHIN):
        return reader, writer, await reader.readuntil(b"\r\n\r\n")


async def test_a_head_request_ends(tmp_path: Path) -> None:
    log = EventLog()
    async with serving(tmp_path, log) as address:
        reader, writer = await asyncio.open_connection(*address)
        writer.write(b"HEAD /api/v1/events HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")
        async with asyncio.timeout(WITHIN):
            assert b"text/event-stream" in await reader.read()
        assert log.watchers == []
        writer.close()


async def block(reader: Reader) -> dict[str, str]:
    """Return the fields of the next event, and skip comments."""
    async with asyncio.timeout(WITHIN):
        while True:
            lines = (await reader.readuntil(b"\n\n")).decode().split("\n")
            fields = dict(line.split(": ", 1) for line in lines if ": " in line)
            if fields:
                return fields


async def test_a_stream_sends_events_in_order_and_resumes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(event_streams, "_HEARTBEAT", 0.05)
    log = EventLog(limit=200)
    log.record(ORDERS, "before")
    async with serving(tmp_path, log) as address:
        reader, writer, head = await subscribe(address)
        assert b" 200 OK" in head
        assert b"text/event-stream" in head
        assert b"no-store" in head
        start = await block(reader)
        assert int(start["id"]) == log.last_id  # The stream contains no events from before the connection.
        await asyncio.sleep(0.2)  # During this time, the stream sends only comments.
        for number in range(120):
            log.record(ORDERS, str(number), "timeout", "a\nb")
        events = [await block(reader) for _ in range(120)]
        assert [json.loads(each["data"])["state"] for each in events] == [str(number) for number in range(120)]
        assert {each["event"] for each in events} == {"backend"}
        writer.close()
        reader, writer, _ = await subscribe(address, events[100]["id"])
        await block(reader)
        assert (await block(reader))["id"] == events[101]["id"]
        writer.close()
        for unknown in ("1", "x", "-5", "9" * 30):
            reader, writer, _ = await subscribe(address, unknown)
            assert "id" not in await block(reader)
            assert await block(reader) == {"id": str(log.last_id), "event": "reset", "data": "{}"}
            writer.close()
        async with asyncio.timeout(WITHIN):
            while log.watchers:  # The server removes the watchers of disconnected clients.
                await asyncio.sleep(0.01)


async def test_streams_are_limited_and_end_with_the_server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(server, "limits_for", lambda *_, **__: HttpConnectionLimits(8, 8))
    log = EventLog()
    async with contextlib.AsyncExitStack() as stack:
        address = await stack.enter_async_context(serving(tmp_path, log))
        streams = [await subscribe(address) for _ in range(3)]
        assert [b" 200 " in head for _, _, head in streams] == [True, True, False]
        assert b" 503 " in streams[2][2]
        assert b"Retry-After" in streams[2][2]
        streams[0][1].close()
        async with asyncio.timeout(WITHIN):
            while len(log.watchers) == 2:
                log.record(ORDERS, "event")  # The server detects the disconnect when it writes.
                await asyncio.sleep(0.01)
        streams.append(await subscribe(address))
        assert b" 200 " in streams[-1][2]
    reader = streams[1][0]
    async with asyncio.timeout(WITHIN):
        await reader.read()  # The stop of the server closes the connection without a reset.
    for _, writer, _ in streams:
        writer.close()


async def test_a_stream_ends_when_its_token_is_replaced(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    log, file, tokens = EventLog(), tmp_path / "token", ["a" * 16, "b" * 16]
    settings = OpsSettings(HostPort("127.0.0.1", 0), tmp_path / "admin.sock", token_file=file, authenticated=True)
    ops = OpsServer(Mock(events=log), settings)

    async def replace(token: str) -> None:
        file.write_text(token)
        file.chmod(0o600)
        await ops.renew()

    log.record(ORDERS, "before")
    await replace(tokens[0])
    async with ops.serving() as address:
        reader, writer, _ = await subscribe(address, token=tokens[0])
        await block(reader)
        await replace(tokens[0])
        log.record(ORDERS, "first")
        assert "first" in (await block(reader))["data"]  # Loading the same token again does not end the stream.
        await replace(tokens[1])
        log.record(ORDERS, "secret")
        async with asyncio.timeout(WITHIN):
            assert b"secret" not in await reader.read()
        writer.close()
        monkeypatch.setattr(event_streams, "_HEARTBEAT", 0.05)
        reader, writer, _ = await subscribe(address, token=tokens[1])
        await replace(tokens[0])
        async with asyncio.timeout(WITHIN):
            await reader.read()  # The new token also ends a stream without events.
        writer.close()


async def test_a_client_that_does_not_read_is_disconnected(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(server, "limits_for", lambda *_, **__: HttpConnectionLimits(8, 8, response=3.0))
    monkeypatch.setattr(event_streams, "_HEARTBEAT", 0.05)
    log = EventLog()
    async with serving(tmp_path, log) as address:
        _, writer, _ = await subscribe(address)
        idle, idle_writer, _ = await subscribe(address)
        writer.transport.pause_reading()  # type: ignore[attr-defined] # a transport of a socket
        async with asyncio.timeout(WITHIN):
            while len(log.watchers) == 2:
                for _ in range(100):
                    log.record(ORDERS, "event", detail="x" * 500)
                async with asyncio.timeout(WITHIN):
                    await idle.read(1 << 20)
        assert len(log.watchers) == 1
        log.record(ORDERS, "last")
        async with asyncio.timeout(WITHIN):
            await idle.readuntil(b'"last"')  # A client that reads is not disconnected.
        writer.close()
        idle_writer.close()
