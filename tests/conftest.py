"""For all tests: the event loop of the service, Hypothesis without deadlines, and separate ports for each worker."""

import os
from asyncio import AbstractEventLoop
from collections import Counter
from collections.abc import Callable, Generator, Mapping

import hypothesis
import pytest

from gateway.demo import server_process
from gateway.relay.event_loop import RelayEventLoop

pytest.register_assert_rewrite("tests.support")

_CI_PATIENCE = 4
"""In CI, the timeout of each test is multiplied by this factor."""

# Examples may be slow, because the machine can be busy. In CI, Hypothesis generates the same examples in each run.
hypothesis.settings.register_profile(
    "gateway",
    deadline=None,
    derandomize="CI" in os.environ,
    suppress_health_check=[hypothesis.HealthCheck.too_slow],
)
hypothesis.settings.load_profile("gateway")


def pytest_configure() -> None:
    """Give each worker of pytest-xdist separate ports, so that no other worker's server uses the ports of a test."""
    if worker := os.environ.get("PYTEST_XDIST_WORKER"):
        number, count = int(worker.removeprefix("gw")), int(os.environ["PYTEST_XDIST_WORKER_COUNT"])
        server_process.PORTS = server_process.PORTS[number::count]


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Check that names are unique, and set timeouts.

    Of several tests with the same name, pytest-xdist runs only one. In CI, timeouts are four times as long, because a
    timeout should end a test that hangs, but not a test that is slow on a busy machine.
    """
    counts = Counter(item.nodeid for item in items)
    if repeated := sorted(name for name, count in counts.items() if count > 1):
        raise pytest.UsageError(f"several tests have the same name: {', '.join(repeated)}")
    if not os.environ.get("CI"):
        return
    default = float(config.getini("timeout"))
    for item in items:
        marker = item.get_closest_marker("timeout")
        seconds = float(marker.args[0]) if marker else default
        item.add_marker(pytest.mark.timeout(_CI_PATIENCE * seconds), append=False)


def pytest_asyncio_loop_factories(
    config: pytest.Config, item: pytest.Item
) -> Mapping[str, Callable[[], AbstractEventLoop]]:
    del config, item
    return {"relay": RelayEventLoop}


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport() -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Replace what UTF-8 cannot encode in captured text, so that workers of pytest-xdist can send it."""
    report = yield
    report.sections = [(name, text.encode(errors="backslashreplace").decode()) for name, text in report.sections]
    return report
