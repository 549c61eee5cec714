"""Tests the responses to unknown and ambiguous containers, service discovery, and the cache of backend states."""

import asyncio
import json
from concurrent.futures import ThreadPoolExecutor
from unittest.mock import Mock

import pytest
from aiohttp import web
from aiohttp.test_utils import make_mocked_request

from gateway.contracts.states import HealthState, ServicePhase
from gateway.docker.access_explanation.explanation import Explanation
from gateway.fleet.fleet_state import FleetState
from gateway.ops import health_handlers
from gateway.ops.container_access_json import ContainerAccessView
from gateway.ops.http_get_handlers import HttpGetHandlers
from gateway.ops.status_views import BackendStateSummary

IDS = [f"ab{number}" + "0" * 61 for number in range(7)]


async def get(name: str, found: list[ContainerAccessView] | None) -> tuple[int, dict[str, object]]:
    """Request a container's access to the backends, and return the status and the JSON object.

    Args:
        name: The name or ID in the URL.
        found: The containers that match; None if Docker is not configured.
    """
    service = Mock(**{"containers.return_value": found})
    with ThreadPoolExecutor(1) as executor:
        handlers = HttpGetHandlers(service, Mock(), executor, cached=False, max_streams=1).handlers()
        request = make_mocked_request("GET", f"/api/v1/containers/{name}", match_info={"container": name})
        response = await handlers["/api/v1/containers/{container}"](request)
    assert isinstance(response, web.Response)
    service.containers.assert_called_once_with(name)
    return response.status, json.loads(response.text or "")


@pytest.mark.parametrize(
    ("found", "detail"), [(None, "Docker is not configured"), ([], "there is no container 'web'")]
)
async def test_unknown_containers(found: list[ContainerAccessView] | None, detail: str) -> None:
    assert await get("web", found) == (404, {"status": "unknown", "detail": detail})


async def test_the_response_to_an_ambiguous_id_lists_five_matching_containers() -> None:
    found = [
        ContainerAccessView(Explanation(f"web-{number}", full, [], []), "", 0.0) for number, full in enumerate(IDS)
    ]
    matches = ", ".join(f"web-{number} ({IDS[number][:12]})" for number in range(5))
    assert await get("ab", found) == (
        409,
        {
            "status": "ambiguous",
            "detail": f"'ab' matches 7 containers, use more characters of the ID: {matches}",
        },
    )


@pytest.mark.parametrize(("is_discovered", "expected"), [(False, 503), (True, 200)])
async def test_service_discovery_returns_no_incomplete_list(is_discovered: bool, expected: int) -> None:
    service = Mock(**{"fleet.return_value": FleetState(is_discovered=is_discovered)})
    with ThreadPoolExecutor(1) as executor:
        handlers = HttpGetHandlers(service, Mock(), executor, cached=False, max_streams=1).handlers()
        response = await handlers["/api/v1/sd"](make_mocked_request("GET", "/api/v1/sd"))
    assert response.status == expected


async def test_requests_with_many_names_compute_the_states_of_the_backends_once(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(health_handlers, "_STATES_MAX_AGE", 60.0)
    states = [BackendStateSummary(f"b{number}", HealthState.UP, None, "", 0.0) for number in range(3)]
    service = Mock(**{"backend_statuses.return_value": states, "phase.return_value": ServicePhase.READY})
    with ThreadPoolExecutor(1) as executor:
        found = HttpGetHandlers(service, Mock(), executor, cached=True, max_streams=1)
        handlers = found.handlers()

        async def ready(name: str) -> tuple[int, int]:
            one = make_mocked_request("GET", f"/readyz/{name}", match_info={"backend": name})
            required = make_mocked_request("GET", f"/readyz?require={name}")
            return (await handlers["/readyz/{backend}"](one)).status, (await handlers["/readyz"](required)).status

        statuses = await asyncio.gather(*map(ready, ("b0", "b1", "b2", "absent")))
        assert statuses == [(200, 200)] * 3 + [(404, 503)]
        assert service.backend_statuses.call_count == 1
        found.clear_cache()
        assert await ready("b0") == (200, 200)
        assert service.backend_statuses.call_count == 2
