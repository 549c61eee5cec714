import tempfile
from pathlib import Path

import pytest

from gateway.errors import TunnelError
from gateway.vpn import openvpn_management
from gateway.vpn.openvpn_management import ManagementInterface


async def test_a_socket_that_openvpn_cannot_use_is_a_tunnel_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(_: Path) -> int:
        raise PermissionError("Operation not permitted")

    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    monkeypatch.setattr(openvpn_management, "unprivileged_user", refuse)
    management = ManagementInterface(lambda *_: None)
    with pytest.raises(TunnelError, match="management socket: Operation not permitted: set TMPDIR to another"):
        await management.listen()
    await management.close()
    assert not any(tmp_path.iterdir())  # noqa: ASYNC240 - a local directory
