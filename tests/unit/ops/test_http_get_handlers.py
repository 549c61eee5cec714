"""Tests the responses of `/api/v1/containers/{container}` to unknown and ambiguous names."""

import json
from concurrent.futures import ThreadPoolExecutor
from unittest.mock import Mock

import pytest
from aiohttp import web
from aiohttp.test_utils import make_mocked_request

from gateway.docker.access_explanation.explanation import Explanation
from gateway.ops.container_access_json import ContainerAccessView
from gateway.ops.http_get_handlers import HttpGetHandlers

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
