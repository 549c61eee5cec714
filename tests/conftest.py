"""Configure all tests: the event loop, Hypothesis, the timeouts, and the ports of each worker of pytest-xdist."""

import os
from asyncio import AbstractEventLoop
from collections import Counter
from collections.abc import Callable, Generator, Mapping

import hypothesis
import pytest

from gateway.relay.event_loop import RelayEventLoop

pytest.register_assert_rewrite("tests.support")

_CI_PATIENCE = 4
"""In CI, the timeout of each test is multiplied by this factor."""

# Hypothesis must not fail slow examples, because the machine can be busy. In CI, Hypothesis generates the same
# examples in each run.
hypothesis.settings.register_profile(
    "gateway",
    deadline=None,
    derandomize="CI" in os.environ,
    suppress_health_check=[hypothesis.HealthCheck.too_slow],
)
hypothesis.settings.load_profile("gateway")


def pytest_configure() -> None:
    from tests.support.worker_ports import use_own_ports  # noqa: PLC0415 - after `register_assert_rewrite`

    use_own_ports()


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Check that all tests have different names, and lengthen the timeouts in CI.

    If several tests have the same name, pytest-xdist runs only one of them. The longer timeouts end only tests that
    hang, and not tests that are slow because the machine is busy.
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
    """Escape characters that UTF-8 cannot encode, so that workers of pytest-xdist can send the captured output."""
    report = yield
    report.sections = [(name, text.encode(errors="backslashreplace").decode()) for name, text in report.sections]
    return report
