"""Tests which hosts behind a VPN the gateway expects to reply to echo requests."""

import errno
import ipaddress
import socket
from collections.abc import Callable
from typing import TypeVar

from gateway.contracts.config_types import IpAddress
from gateway.vpn.device_settings import DeviceSettings
from gateway.vpn.icmp import EchoMonitor

_T = TypeVar("_T")
HOST = ipaddress.ip_address("10.9.0.5")


class FailingIsolation:
    """A substitute for the isolation of a VPN device. It cannot create sockets, so no echo request is sent."""

    async def configure_device(self, device: str, settings: DeviceSettings) -> None:
        """Do nothing: there is no device."""

    def create_socket(self, family: int, kind: int, protocol: int = 0) -> socket.socket:
        raise OSError("scripted")

    async def run_blocking(self, job: Callable[[], _T]) -> _T:
        return job()

    async def release_device(self) -> None:
        """Do nothing: there is no device."""

    def close(self) -> None:
        """Do nothing: there is no device."""


class BrokenSocket(socket.socket):
    """A socket whose device no longer exists."""

    def sendto(self, *_: object) -> int:
        raise OSError(errno.ENODEV, "No such device")


class RecreatedDevice(FailingIsolation):
    """A substitute for the isolation of a VPN whose device was created again after the first socket."""

    def __init__(self) -> None:
        self.created: list[socket.socket] = []

    def create_socket(self, family: int, kind: int, protocol: int = 0) -> socket.socket:
        del family, kind, protocol
        cls = socket.socket if self.created else BrokenSocket
        self.created.append(cls(socket.AF_INET, socket.SOCK_DGRAM))
        return self.created[-1]


async def test_a_device_that_was_created_again_gets_new_sockets() -> None:
    isolation = RecreatedDevice()
    echo = EchoMonitor(isolation, lambda _: None)
    echo.add_host(ipaddress.ip_address("127.0.0.1"))
    for _ in range(3):
        echo.send_requests()
    assert len(isolation.created) == 2
    echo.close()
    assert all(each.fileno() == -1 for each in isolation.created)


def answered_once(host: IpAddress) -> EchoMonitor:
    echo = EchoMonitor(FailingIsolation(), lambda _: None)
    echo.add_host(host)
    echo._responds[host] = True
    return echo


def test_a_silent_host_is_ignored_if_other_hosts_reply() -> None:
    echo = answered_once(HOST)
    assert [echo.send_requests() for _ in range(3)] == [True, True, True]
    echo.ignore_unresponsive_hosts()
    assert not echo.send_requests()


def test_silence_of_all_hosts_means_that_the_vpn_is_down() -> None:
    echo = answered_once(HOST)
    assert all(echo.send_requests() for _ in range(100))


def test_one_late_reply_is_not_a_failure() -> None:
    echo = answered_once(HOST)
    echo.send_requests()
    echo.send_requests()
    echo.ignore_unresponsive_hosts()
    assert echo.send_requests()
