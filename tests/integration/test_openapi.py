"""Compares gateway/ops/openapi.yaml with a running gateway: schemathesis sends requests and checks the responses."""

from collections.abc import Iterator
from functools import cache
from typing import TYPE_CHECKING, Any

import pytest
import yaml
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from gateway.demo.server_process import free_port
from tests.support.configs import CHECK
from tests.support.files import REPOSITORY
from tests.support.gateway_process import Gateway
from tests.support.servers import echoing, serving

if TYPE_CHECKING:
    from schemathesis import Case
    from schemathesis.schemas import BaseSchema

pytestmark = [pytest.mark.integration, pytest.mark.timeout(180)]

FILE = REPOSITORY / "gateway" / "ops" / "openapi.yaml"
# Without the commands (`/-/…`), which only the admin socket accepts, and without the event stream, whose response
# does not end. Other tests check these.
OPERATIONS = [
    (method.upper(), path)
    for path, methods in yaml.safe_load(FILE.read_text())["paths"].items()
    for method in methods
    if not path.startswith("/-/") and path != "/api/v1/events"
]


@cache
def api() -> "BaseSchema":
    """Return the description of the HTTP interface.

    Schemathesis is imported here, because the import takes a second and only one of pytest's workers needs it.
    """
    import schemathesis  # noqa: PLC0415

    return schemathesis.openapi.from_path(FILE)


@pytest.fixture(scope="module")
def url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The URL of a gateway that has one backend in each of the states up, down and blocked."""
    gateway = Gateway(tmp_path_factory.mktemp("openapi"))
    key = gateway.folder / "key"
    key.touch(mode=0o600)
    with serving(echoing) as echo:
        gateway.write(f"""
            tunnels:
              bastion: {{kind: proxy, url: 'socks5://127.0.0.1:{free_port()}'}}
            backends:
              up: {{kind: tcp, targets: ['127.0.0.1:{echo}'], listen: '127.0.0.1:{free_port()}', {CHECK}}}
              down: {{kind: tcp, targets: ['127.0.0.1:{free_port()}'], check: {{fall: 1}}}}
              blocked: {{kind: tcp, via: bastion, targets: ['127.0.0.1:1']}}
        """)
        gateway.start()
        try:
            gateway.wait_up("up")
            gateway.wait_state("down", "down", "refused")
            yield f"http://127.0.0.1:{gateway.ops_port}"
        finally:
            gateway.stop()


def validate(case: "Case[Any]", url: str) -> int:
    """Send a request, check the response against openapi.yaml, and return the status code.

    The check accepts the status code 503, but no other server error.
    """
    from schemathesis.checks import not_a_server_error  # noqa: PLC0415

    response = case.call_and_validate(base_url=url, timeout=20, excluded_checks=[not_a_server_error])
    assert response.status_code < 500 or response.status_code == 503
    return response.status_code


@pytest.mark.parametrize(("method", "path"), OPERATIONS, ids=[" ".join(each) for each in OPERATIONS])
@given(data=st.data())
@settings(
    max_examples=8, deadline=None, derandomize=True, phases=[Phase.explicit, Phase.generate],
    suppress_health_check=list(HealthCheck),
)  # fmt: skip
def test_responses_match_the_description(data: st.DataObject, method: str, path: str, url: str) -> None:
    validate(data.draw(api()[path][method].as_strategy()), url)


@pytest.mark.parametrize("name", ["up", "down", "blocked"])
def test_paths_of_backends_match_the_description(name: str, url: str) -> None:
    for path, key in (("/readyz/{backend}", "backend"), ("/api/v1/checks/{name}/history", "name"),
                      ("/backends/{name}", "name")):  # fmt: skip
        assert validate(api()[path]["GET"].Case(path_parameters={key: name}), url) in (200, 503)
