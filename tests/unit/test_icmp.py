"""Whose silence says something of the VPN."""

import ipaddress
import socket
from collections.abc import Callable
from typing import TypeVar

from gateway.vpn.addressing import Address, Addressing
from gateway.vpn.icmp import Echo

_T = TypeVar("_T")
HOST = ipaddress.ip_address("10.9.0.5")


class Nowhere:
    """A place without echo sockets: no request is ever answered."""

    async def adopt(self, device: str, wanted: Addressing) -> None:
        """Nothing is there to be set up."""

    def make(self, family: int, kind: int, protocol: int = 0) -> socket.socket:
        raise OSError("as told")

    async def run(self, job: Callable[[], _T]) -> _T:
        return job()

    async def leave(self) -> None:
        """Nothing is there to be left."""

    def close(self) -> None:
        """Nothing is there to be closed."""


def answered_once(host: Address) -> Echo:
    echo = Echo(Nowhere(), lambda _: None)
    echo.learn(host)
    echo._known[host] = True
    return echo


def test_a_host_that_is_switched_off_is_not_waited_for_where_others_are_heard() -> None:
    echo = answered_once(HOST)
    assert [echo.ask() for _ in range(3)] == [True, True, True]
    echo.doubt_the_silent()
    assert not echo.ask()


def test_silence_of_everything_is_due_to_the_vpn_however_long() -> None:
    echo = answered_once(HOST)
    assert all(echo.ask() for _ in range(100))


def test_an_answer_that_is_late_once_is_no_reason_to_doubt() -> None:
    echo = answered_once(HOST)
    echo.ask()
    echo.ask()
    echo.doubt_the_silent()
    assert echo.ask()
