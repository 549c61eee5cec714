"""Tests, on real sockets, of the deadlines and limits of one listener of the ops server."""

import asyncio
import contextlib
import socket
from collections.abc import AsyncIterator

import pytest
from aiohttp import web

from gateway.contracts.config_types import HostPort
from gateway.ops.http_connection_limits import HttpConnectionLimits
from gateway.ops.http_listener import HttpListener
from gateway.ops.http_listening_sockets import bind

WITHIN = 20.0
REQUEST = b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n"
MiB = 1024 * 1024


@contextlib.asynccontextmanager
async def serving(limits: HttpConnectionLimits) -> AsyncIterator[tuple[HttpListener, tuple[str, int]]]:
    """Run a listener on which `/` responds immediately, `/slow` never responds, and `/large` responds with 64 MiB."""

    async def fine(_: web.Request) -> web.Response:
        return web.Response(text="fine")

    async def slow(_: web.Request) -> web.Response:
        await asyncio.sleep(60)
        raise AssertionError

    async def large(_: web.Request) -> web.Response:
        return web.Response(body=b"x" * 64 * MiB)

    listener = HttpListener("ops.listen", limits)
    app = web.Application(middlewares=[listener.complete_response])
    app.add_routes([web.get("/", fine), web.get("/slow", slow), web.get("/large", large)])
    runner = web.AppRunner(app, access_log=None, shutdown_timeout=0.1)
    await runner.setup()
    assert runner.server is not None
    sockets = await bind(HostPort("127.0.0.1", 0))
    address = sockets[0].getsockname()
    listener.start(sockets, runner.server)
    try:
        yield listener, address
    finally:
        listener.close()
        await runner.cleanup()
        await listener.abort_all()


async def closed(reader: asyncio.StreamReader) -> bytes:
    """Read until the connection ends, and return the data. If the connection is reset, return no data."""
    async with asyncio.timeout(WITHIN):
        try:
            return await reader.read()
        except ConnectionError:
            return b""


async def answer(reader: asyncio.StreamReader) -> bytes:
    async with asyncio.timeout(WITHIN):
        return await reader.readuntil(b"fine")


@pytest.mark.parametrize("start", [b"", b"GET / HTTP/1.1\r\nHost: localhost\r\nX-Slow: "], ids=["nothing", "half"])
async def test_a_request_whose_headers_do_not_end_is_closed(start: bytes) -> None:
    async with serving(HttpConnectionLimits(8, 8, head=0.3, idle=60)) as (_, address):
        reader, writer = await asyncio.open_connection(*address)
        writer.write(start)
        ended = asyncio.ensure_future(closed(reader))
        for _ in range(round(WITHIN / 0.05)):  # Single bytes do not extend the deadline.
            if ended.done():
                break
            if start:
                writer.write(b"x")
            await asyncio.sleep(0.05)
        assert await ended == b""
        writer.close()


async def test_an_unfinished_second_request_is_closed_and_an_idle_connection_is_kept_until_its_timeout() -> None:
    async with serving(HttpConnectionLimits(8, 8, head=3, idle=60)) as (_, address):
        (one, slow), (other, idle) = [await asyncio.open_connection(*address) for _ in range(2)]
        for reader, writer in ((one, slow), (other, idle)):
            writer.write(REQUEST)
            await answer(reader)
        slow.write(b"GET / ")
        assert await closed(one) == b""
        idle.write(REQUEST)
        await answer(other)
        slow.close()
        idle.close()


async def test_an_idle_connection_is_closed_at_its_timeout() -> None:
    async with serving(HttpConnectionLimits(8, 8, head=60, idle=0.2)) as (_, address):
        reader, writer = await asyncio.open_connection(*address)
        writer.write(REQUEST)
        await answer(reader)
        assert await closed(reader) == b""
        writer.close()


@pytest.mark.parametrize("path", ["/slow", "/large"])
async def test_an_answer_that_does_not_end_is_closed(path: str) -> None:
    async with serving(HttpConnectionLimits(8, 8, response=0.3)) as (listener, address):
        reader, writer = await asyncio.open_connection(*address)
        writer.write(REQUEST.replace(b"/ ", f"{path} ".encode()))
        async with asyncio.timeout(WITHIN):
            while not len(listener):
                await asyncio.sleep(0.01)
            # Wait until the response times out: `/slow` never responds, and the client does not read from `/large`.
            while len(listener):
                await asyncio.sleep(0.01)
        assert len(await closed(reader)) < 64 * MiB
        writer.close()


async def test_a_connection_with_a_request_that_is_too_large_is_closed() -> None:
    async with serving(HttpConnectionLimits(8, 8)) as (_, address):
        for sent in (
            b"GET / HTTP/1.1\r\nX: " + b"x" * 20_000,
            REQUEST[:-2] + b"Content-Length: 9999999\r\n\r\n" + b"x" * 40_000,
        ):
            reader, writer = await asyncio.open_connection(*address)
            writer.write(sent)
            await closed(reader)
            writer.close()
        reader, writer = await asyncio.open_connection(*address)
        writer.write(REQUEST * 3)
        for _ in range(3):
            await answer(reader)
        writer.close()


async def test_a_404_response_keeps_the_connection() -> None:
    async with serving(HttpConnectionLimits(8, 8)) as (_, address):
        reader, writer = await asyncio.open_connection(*address)
        for method, path, code in ((b"GET", b"/gone", b" 404 "), (b"DELETE", b"/", b" 405 ")):
            writer.write(REQUEST.replace(b"GET", method).replace(b"/ ", path + b" ", 1))
            async with asyncio.timeout(WITHIN):
                head = await reader.readuntil(b"\r\n\r\n")
                assert code in head
                length = next(line for line in head.split(b"\r\n") if line.startswith(b"Content-Length: "))
                await reader.readexactly(int(length.split()[1]))
        writer.write(REQUEST)
        await answer(reader)
        writer.close()


async def test_new_connections_replace_those_without_a_request() -> None:
    async with serving(HttpConnectionLimits(connections=4, per_address=4)) as (listener, address):
        silent = [await asyncio.open_connection(*address) for _ in range(30)]
        for _ in range(3):
            reader, writer = await asyncio.open_connection(*address)
            writer.write(REQUEST)
            await answer(reader)
            assert len(listener) <= 4
            writer.close()
        for reader, writer in silent[:20]:
            assert await closed(reader) == b""
            writer.close()
        for _, writer in silent[20:]:
            writer.close()


async def test_a_closed_listener_leaks_nothing() -> None:
    async with serving(HttpConnectionLimits(4, 4)) as (listener, address):
        with socket.create_connection(address):
            async with asyncio.timeout(WITHIN):
                while not len(listener):
                    await asyncio.sleep(0.01)
    assert len(listener) == 0
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection(address, timeout=WITHIN)


async def test_error_responses_have_the_headers_of_every_response() -> None:
    async with serving(HttpConnectionLimits(8, 8, head=60, idle=60)) as (_, address):
        for path, status in (("/", b"200"), ("/absent", b"404")):
            reader, writer = await asyncio.open_connection(*address)
            writer.write(f"GET {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n".encode())
            response = await closed(reader)
            writer.close()
            assert response.split()[1] == status
            assert b"Cache-Control: no-store" in response
            assert b"X-Content-Type-Options: nosniff" in response
