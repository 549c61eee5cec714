"""Tests the remedies in the errors of listeners that cannot be bound."""

import socket
from pathlib import Path
from unittest.mock import Mock

import pytest

from gateway.app.listeners import bind_listeners
from gateway.app.socket_activation import PassedSockets
from gateway.config import ConfigSources, load
from gateway.contracts.config_types import HostPort
from gateway.forwarding.listener import BindError, Listener


@pytest.mark.parametrize(
    ("host", "hint"),
    [
        (
            "192.0.2.1",
            "lists them), or restart the gateway: a restart also binds addresses that the host does not have yet",
        ),
        ("0.0.0.0", "; this gateway listens on 127.0.0.1:{}: remove that address in a separate reload first"),  # noqa: S104
    ],
)
def test_a_reload_that_cannot_bind_an_address_says_what_to_do(tmp_path: Path, host: str, hint: str) -> None:
    with socket.create_server(("127.0.0.1", 0)) as bound:
        port = bound.getsockname()[1]
        existing: dict[HostPort, Listener] = {HostPort("127.0.0.1", port): Mock()}
        file = tmp_path / "gateway.yaml"
        listen = f"['{host}:{port}']"
        file.write_text(f"backends: {{a: {{kind: tcp, targets: ['h:1'], listen: {listen}}}}}\n")
        config = load(ConfigSources(file, environment={}))
        with pytest.raises(BindError) as raised:
            bind_listeners(config, existing, PassedSockets(), free_bind=False)
    assert str(raised.value).endswith(hint.format(port))
