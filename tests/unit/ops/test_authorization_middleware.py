"""Tests, on real sockets, how the ops server authorizes requests and limits their rate."""

import asyncio
import socket
from collections.abc import Callable
from pathlib import Path
from unittest.mock import Mock

import pytest
from aiohttp import web
from aiohttp.test_utils import TestClient, TestServer

from gateway.contracts.config_types import HostPort
from gateway.ops import authorization_middleware
from gateway.ops.authorization import AccessRole, AccessRules, BearerTokens
from gateway.ops.authorization_middleware import AuthorizationMiddleware
from gateway.ops.server import OpsServer
from gateway.ops.settings import OpsSettings

WITHIN = 20.0
REQUEST = b"GET /livez HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n"


async def eventually(holds: Callable[[], bool]) -> None:
    async with asyncio.timeout(WITHIN):
        while not holds():
            await asyncio.sleep(0.01)


async def test_clients_that_disconnect_delay_no_request_and_leave_no_task(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(authorization_middleware, "_PROBES_PER_SECOND", 1)
    monkeypatch.setattr(authorization_middleware, "_PROBE_BURST", 1)
    settings = OpsSettings(listen=HostPort("127.0.0.1", 0), admin_socket=tmp_path / "admin.sock")
    async with OpsServer(Mock(), settings).serving() as address:  # /livez needs no real service, only a mock.
        before = len(asyncio.all_tasks())
        for _ in range(200):  # The limit is one request per second.
            with socket.create_connection(address) as client:
                client.sendall(REQUEST)
            await asyncio.sleep(0)
        await eventually(lambda: len(asyncio.all_tasks()) <= before)
        reader, writer = await asyncio.open_connection(*address)
        writer.write(REQUEST)
        async with asyncio.timeout(WITHIN):
            assert b" 200 OK" in await reader.readline()
        writer.close()


async def test_a_path_without_a_role_requires_the_highest_role() -> None:
    rules = AccessRules(frozenset(), authenticate=True)
    middleware = AuthorizationMiddleware(rules, BearerTokens, {"/livez": AccessRole.PROBES}, ["/livez"]).handle

    async def answer(_: web.Request) -> web.StreamResponse:
        return web.Response(text="fine")

    app = web.Application(middlewares=[middleware])
    app.add_routes([web.get("/livez", answer), web.get("/forgotten", answer)])
    async with TestClient(TestServer(app)) as client:
        assert [(await client.get(path)).status for path in ("/livez", "/forgotten", "/none")] == [200, 401, 404]
