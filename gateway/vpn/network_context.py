"""Where a VPN's device is, and how sockets get there: a namespace of its own, or the host's, bound to the device."""

import asyncio
import errno
import logging
import os
import secrets
import socket
from collections.abc import Callable
from typing import Protocol, TypeVar

from gateway.cancelling import asked_to_end
from gateway.errors import TunnelError
from gateway.vpn import devices
from gateway.vpn.addressing import Addressing
from gateway.vpn.namespace import Namespace
from gateway.vpn.options import Isolation

log = logging.getLogger(__name__)

_T = TypeVar("_T")


def device_name(letter: str) -> str:
    """A new name for a device of ours; `letter` tells its kind."""
    return device_prefix(letter) + secrets.token_hex(4)


def device_prefix(letter: str) -> str:
    """What the names of our devices of that kind begin with."""
    return f"gw{letter}-"


def place_for(isolation: Isolation, device: str) -> "Place":
    """Where the device goes.

    Raises:
        TunnelError: We may not make a namespace.
    """
    return PrivatePlace() if isolation == "namespace" else SharedPlace(device)


class Place(Protocol):
    """Where sockets are made that only the VPN carries."""

    async def adopt(self, device: str, wanted: Addressing) -> None:
        """Take the device in, or one that is here already anew.

        Raises:
            TunnelError: It cannot be set up.
        """

    def make(self, family: int, kind: int, protocol: int = 0) -> socket.socket:
        """A socket that leaves by the device or not at all."""

    async def run(self, job: Callable[[], _T]) -> _T:
        """Run a blocking job there."""

    async def leave(self) -> None:
        """The device is gone for now."""

    def close(self) -> None:
        """Let go of it for good."""


class PrivatePlace:
    """A network namespace of its own: the host's routes and names stay as they are."""

    def __init__(self) -> None:
        self._namespace = Namespace()
        self._prepared = False
        self._device: str | None = None

    async def adopt(self, device: str, wanted: Addressing) -> None:
        """See `Place`."""
        if not self._prepared:
            await self.run(devices.prepare_namespace)
            self._prepared = True
        if self._device != device:
            await asyncio.to_thread(devices.move, device, self._namespace.fd)
            self._device = device
        await self.run(lambda: devices.set_up(device, wanted))

    def make(self, family: int, kind: int, protocol: int = 0) -> socket.socket:
        """See `Place`."""
        return self._namespace.make(family, kind, protocol)

    async def run(self, job: Callable[[], _T]) -> _T:
        """See `Place`."""
        future = self._namespace.submit(job)
        try:
            return await asyncio.wrap_future(future)
        except asyncio.CancelledError:
            if future.cancelled() and not asked_to_end():  # the namespace was closed before the job's turn came
                raise OSError(errno.ENETDOWN, os.strerror(errno.ENETDOWN)) from None
            raise

    async def leave(self) -> None:
        """See `Place`."""
        self._device = None

    def close(self) -> None:
        """See `Place`."""
        self._namespace.close()


class SharedPlace:
    """The host's network namespace, where a socket is bound to the device and a table of routes is for these alone.

    Args:
        device: The device's name.
    """

    def __init__(self, device: str) -> None:
        self._device = device

    async def adopt(self, device: str, wanted: Addressing) -> None:
        """See `Place`."""
        await asyncio.to_thread(devices.set_up_beside, device, wanted)

    def make(self, family: int, kind: int, protocol: int = 0) -> socket.socket:
        """See `Place`."""
        sock = socket.socket(family, kind, protocol)
        try:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_BINDTODEVICE, self._device.encode())
        except OSError:
            sock.close()
            raise
        return sock

    async def run(self, job: Callable[[], _T]) -> _T:
        """See `Place`."""
        return await asyncio.to_thread(job)

    async def leave(self) -> None:
        """See `Place`."""
        try:
            await asyncio.to_thread(devices.forget_beside, self._device)
        except TunnelError as error:  # nothing can be done about it, and the end must come
            log.warning("the rules of %s stay: %s", self._device, error.detail)

    def close(self) -> None:
        """See `Place`."""
