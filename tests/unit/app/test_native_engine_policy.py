"""Tests when connections without an SSH channel use the native engine."""

from typing import Literal

import pytest

from gateway.app.native_engine_policy import uses_native_engine
from gateway.config import Config, TunnelSpec
from gateway.ssh.options import SshOptions
from gateway.tunnels import KINDS


@pytest.mark.parametrize(
    ("planes", "expected"),
    [
        ((), True),
        (("auto",), True),
        (("asyncssh",), False),
        (("asyncssh", "asyncssh"), False),
        (("asyncssh", "native"), True),
    ],
)
def test_the_native_engine_is_not_used_if_all_ssh_tunnels_exclude_it(
    planes: tuple[Literal["auto", "native", "asyncssh"], ...], expected: bool
) -> None:
    tunnels = {
        f"t{at}": TunnelSpec(f"t{at}", KINDS["ssh"], (), SshOptions("h", "u", data_plane=plane))
        for at, plane in enumerate(planes)
    }
    assert uses_native_engine(Config(tunnels=tunnels)) is expected
