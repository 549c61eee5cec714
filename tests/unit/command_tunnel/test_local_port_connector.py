"""Tests of the connector of `mode: port`, with stand-ins for its processes."""

import asyncio
from unittest.mock import AsyncMock, Mock

import pytest

from gateway.command_tunnel.local_port_connector import LocalPortConnector
from gateway.contracts.config_types import HostPort


@pytest.mark.parametrize(("other_is_suspect", "fails"), [(True, True), (False, False)])
async def test_an_exit_is_a_failure_if_clients_cannot_use_another_process(
    other_is_suspect: bool, fails: bool
) -> None:
    context = Mock()
    context.options.login_exit_codes = ()
    connector = LocalPortConnector(HostPort("h", 1), context)
    other = Mock(suspect=other_is_suspect, retired=False, child=Mock(exit_code=None))
    exited = Mock(retired=False, child=Mock(exit_code=3, last_line="", wait=AsyncMock(return_value=3)))
    connector._processes = [other, exited]
    connector._waits = {exited: asyncio.create_task(connector._wait(exited, ("program",)))}
    await connector._waits[exited]
    assert (connector._retry.failure is not None) is fails
    assert connector._processes == [other]
    assert connector._exited() == []
    await connector.close()
