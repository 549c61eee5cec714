"""Tests whether a page is rendered and compressed once for all clients, and whether updates contain only changes."""

import asyncio
import gzip
import re
from collections.abc import Collection, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from unittest.mock import Mock

import pytest
from aiohttp import web
from aiohttp.test_utils import make_mocked_request

from gateway.contracts.states import HealthState
from gateway.ops.events import EventLog, EventSubject, SubjectType
from gateway.ops.page_handlers import PageHandlers
from gateway.ops.status_view_cache import StatusViewCache
from gateway.ops.status_views import ServiceView
from tests.support.status_views import backend, service


class FakeService:
    """A service with two backends, whose state and number of clients the test changes."""

    def __init__(self) -> None:
        self.backends = {name: backend(name) for name in ("orders", "reports")}
        self.events = EventLog()
        self.events.record(EventSubject(SubjectType.START), "started")
        self.built: list[list[str]] = []
        """The names of the backends that were read, as one list for each call of `view` or `updated_view`."""
        self.configuration = Mock(return_value={})
        self.phase = Mock(return_value="ready")

    async def view(self) -> ServiceView:
        self.built.append(list(self.backends))
        return service(backends=list(self.backends.values()), started_at=0.0)

    async def updated_view(self, view: ServiceView, changed: Collection[str]) -> ServiceView:
        await asyncio.sleep(0)
        self.built.append(list(changed))
        return replace(
            view, backends=[self.backends[each.name] if each.name in changed else each for each in view.backends]
        )

    def change(self, name: str, state: HealthState) -> None:
        self.backends[name] = replace(self.backends[name], state=state)
        self.events.observe(EventSubject(SubjectType.BACKEND, name), state)


@pytest.fixture
def shown() -> FakeService:
    return FakeService()


@pytest.fixture
def pages(shown: FakeService) -> Iterator[PageHandlers]:
    with ThreadPoolExecutor(1) as executor:
        yield PageHandlers(shown, StatusViewCache(shown), executor, max_age=60.0)  # type: ignore[arg-type]


async def get(pages: PageHandlers, since: str = "", encoding: str = "identity") -> web.Response:
    return await pages.index(make_mocked_request("GET", f"/?since={since}", {"Accept-Encoding": encoding}))


def content(response: web.Response) -> tuple[str, str, str]:
    """Return the HTML of a page, its version, and the ID of the last event."""
    assert isinstance(response.body, bytes)
    html = response.body.decode()
    [(event, version)] = re.findall('data-event="([0-9]+)" data-version="([0-9]+)"', html)
    return html, version, event


async def test_clients_share_one_page_and_its_compressed_form(shown: FakeService, pages: PageHandlers) -> None:
    plain, first, second = await asyncio.gather(
        *(get(pages, encoding=each) for each in ("identity", "gzip, deflate", "gzip"))
    )
    assert len(shown.built) == 1
    assert first.body is second.body
    assert isinstance(first.body, bytes)
    assert gzip.decompress(first.body) == plain.body
    assert b"orders" in gzip.decompress(first.body)
    assert [each.headers.get("Content-Encoding") for each in (plain, first)] == [None, "gzip"]


async def test_after_an_event_open_pages_share_what_has_changed(shown: FakeService, pages: PageHandlers) -> None:
    html, version, event = content(await get(pages))
    assert ("<script>" in html, event) == (True, str(shown.events.last_id))
    unchanged, same, _ = content(await get(pages, version))
    assert (same, "orders" in unchanged) == (version, False)
    # This change causes no event, so it is not visible until the next view of all backends.
    shown.backends["reports"] = replace(shown.backends["reports"], connections=7)
    shown.change("orders", HealthState.DOWN)
    updates = await asyncio.gather(*(get(pages, version) for _ in range(3)))
    assert shown.built == [["orders", "reports"], ["orders"]]
    assert len({id(each.body) for each in updates}) == 1
    html, version, event = content(updates[0])
    assert event == str(shown.events.last_id)
    assert "<script>" not in html
    assert "<title>orders is down" not in html
    assert re.findall('<(li|template) id="row-([a-z]+)"', html) == [("li", "orders"), ("template", "reports")]
    # An event of a tunnel can affect all backends, so the next view contains all of them.
    shown.events.observe(EventSubject(SubjectType.TUNNEL, "edge"), "backoff")
    html, _, _ = content(await get(pages, version))
    assert "7 connected" in html
    assert "<script>" in content(await get(pages, "0"))[0]
    assert shown.built[2:] == [["orders", "reports"]]


async def test_a_command_and_a_change_of_phase_make_the_view_complete(shown: FakeService) -> None:
    live = StatusViewCache(shown)  # type: ignore[arg-type]
    first = await live.get(60.0)
    assert await live.get(60.0) is first
    live.clear()
    await live.get(60.0)
    shown.phase.return_value = "draining"
    await live.get(60.0)
    assert shown.built == [["orders", "reports"]] * 3
    # With a maximum age of 0, the cached view is too old.
    await live.get(0.0)
    assert len(shown.built) == 4
