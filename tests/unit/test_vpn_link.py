"""What counts as a sign of life of a VPN."""

import errno
import socket
from collections.abc import Callable
from typing import TypeVar

import pytest

from gateway.contracts import Endpoint
from gateway.errors import DialError
from gateway.vpn.addressing import Addressing
from gateway.vpn.link import VpnLink
from gateway.vpn.liveness import UNSURE, Patience

_T = TypeVar("_T")


class Failing:
    """A place whose sockets cannot be connected, for one reason."""

    def __init__(self, number: int) -> None:
        self._number = number

    async def adopt(self, device: str, wanted: Addressing) -> None:
        """Nothing is there to be set up."""

    def make(self, family: int, kind: int, protocol: int = 0) -> socket.socket:
        """Fail as connect(2) would."""
        raise OSError(self._number, "as told")

    async def run(self, job: Callable[[], _T]) -> _T:
        return job()

    async def leave(self) -> None:
        """Nothing is there to be left."""

    def close(self) -> None:
        """Nothing is there to be closed."""


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
async def test_only_what_the_far_side_says_is_a_sign_of_life(number: int, lives: bool) -> None:
    link = VpnLink(Failing(number), "far", Patience(), lambda: None)
    with pytest.raises(DialError):
        await link.socket(Endpoint("10.0.0.1", 80))
    later = link.vitals.heard + UNSURE + 3600
    assert (link.vitals.silence(later) == 0) is lives
