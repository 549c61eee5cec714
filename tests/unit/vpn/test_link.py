"""Tests which errors of connect(2) show that a VPN works."""

import errno
import socket
from collections.abc import Callable
from typing import TypeVar

import pytest

from gateway.contracts.config_types import HostPort
from gateway.contracts.link import RemoteNetworkId
from gateway.errors import DialError
from gateway.vpn.device_settings import DeviceSettings
from gateway.vpn.link import VpnLink
from gateway.vpn.overdue_reply_timer import DIAL_GRACE, OverdueReplyThresholds

_T = TypeVar("_T")


class Failing:
    """A substitute for the isolation of a VPN device. It raises an error instead of creating a socket."""

    def __init__(self, number: int) -> None:
        self._number = number

    async def configure_device(self, device: str, settings: DeviceSettings) -> None:
        """Do nothing: there is no device."""

    def create_socket(self, family: int, kind: int, protocol: int = 0) -> socket.socket:
        """Raise an error, as if connect(2) had failed."""
        raise OSError(self._number, "scripted")

    async def run_blocking(self, job: Callable[[], _T]) -> _T:
        return job()

    async def release_device(self) -> None:
        """Do nothing: there is no device."""

    def close(self) -> None:
        """Do nothing: there is no device."""


@pytest.mark.parametrize(
    ("number", "lives"),
    [
        (errno.ECONNREFUSED, True),
        (errno.ECONNRESET, True),
        (errno.ENETUNREACH, False),
        (errno.EHOSTUNREACH, False),
        (errno.EPERM, False),
        (errno.ETIMEDOUT, False),
    ],
)
async def test_only_replies_of_the_far_side_are_a_sign_of_life(number: int, lives: bool) -> None:
    link = VpnLink(Failing(number), RemoteNetworkId(("far",)), OverdueReplyThresholds())
    with pytest.raises(DialError):
        await link.socket(HostPort("10.0.0.1", 80))
    later = link.silence.last_reply + DIAL_GRACE + 3600
    assert (link.silence.overdue(later) == 0) is lives
