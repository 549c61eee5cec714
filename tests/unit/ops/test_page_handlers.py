"""Pages are rendered and compressed once for all clients."""

import asyncio
import gzip
from concurrent.futures import ThreadPoolExecutor
from unittest.mock import AsyncMock, Mock

from aiohttp.test_utils import make_mocked_request

from gateway.ops.events import EventLog
from gateway.ops.page_handlers import PageHandlers
from gateway.ops.response_cache import ResponseCache
from tests.support.status_views import backend, service


async def test_clients_share_one_page_and_its_compressed_form() -> None:
    view = AsyncMock(return_value=service(backends=[backend("orders")]))
    shown = Mock(view=view, events=EventLog(), configuration=dict)
    requests = [
        make_mocked_request("GET", "/", {"Accept-Encoding": each}) for each in ("identity", "gzip, deflate", "gzip")
    ]
    with ThreadPoolExecutor(1) as executor:
        pages = PageHandlers(shown, ResponseCache(), executor)
        plain, first, second = await asyncio.gather(*map(pages.index, requests))
    assert view.await_count == 1
    assert first.body is second.body
    assert isinstance(first.body, bytes)
    assert gzip.decompress(first.body) == plain.body
    assert b"orders" in gzip.decompress(first.body)
    assert [each.headers.get("Content-Encoding") for each in (plain, first)] == [None, "gzip"]
