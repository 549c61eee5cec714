"""What every test shares: the service's own event loop."""

from asyncio import AbstractEventLoop
from collections.abc import Callable, Mapping

import pytest

from gateway.relay.readiness import RelayLoop


def pytest_asyncio_loop_factories(
    config: pytest.Config, item: pytest.Item
) -> Mapping[str, Callable[[], AbstractEventLoop]]:
    del config, item
    return {"relay": RelayLoop}
