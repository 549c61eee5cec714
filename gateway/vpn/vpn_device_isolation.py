"""Isolates a VPN device from the host's other traffic, and creates sockets that use only this device.

The device is either in a separate network namespace, or in the host's network namespace. In the host's
namespace, the sockets are bound to the device.
"""

import asyncio
import errno
import logging
import os
import socket
from collections.abc import Callable
from typing import Protocol, TypeVar

from gateway.errors import TunnelError
from gateway.task_cancellation import is_being_cancelled
from gateway.vpn import network_devices, policy_routing
from gateway.vpn.device_settings import DeviceSettings
from gateway.vpn.network_namespace import NetworkNamespace
from gateway.vpn.options import Isolation

log = logging.getLogger(__name__)

_T = TypeVar("_T")


def create_isolation(isolation: Isolation, device: str) -> "VpnDeviceIsolation":
    """Create the object that isolates a VPN device.

    Args:
        isolation: The value of `isolation` in the configuration.
        device: Name of the device, which does not have to exist yet.

    Raises:
        TunnelError: The gateway lacks the capabilities to create a network namespace; fatal.
    """
    return NetworkNamespaceIsolation() if isolation == "namespace" else BindToDeviceIsolation(device)


class VpnDeviceIsolation(Protocol):
    """Defines the interface for isolating a VPN device and for creating sockets that use only this device."""

    async def configure_device(self, device: str, settings: DeviceSettings) -> None:
        """Configure the device. If the VPN has a separate network namespace, first move the device to this namespace.

        Call this method again when the settings change.

        Args:
            device: Name of the device.
            settings: The settings of the device.

        Raises:
            TunnelError: The device cannot be configured.
        """

    def create_socket(self, family: int, kind: int, protocol: int = 0) -> socket.socket:
        """Create a socket that sends and receives only through the device.

        While the device does not exist, the call can fail, and an existing socket cannot send or receive. The caller
        must close the socket.

        Args:
            family: The address family, as for `socket.socket`.
            kind: The socket type, as for `socket.socket`.
            protocol: The protocol number, as for `socket.socket`.

        Raises:
            OSError: The socket cannot be created.
        """

    async def run_blocking(self, job: Callable[[], _T]) -> _T:
        """Run a blocking function in the network namespace of the device.

        Args:
            job: The function.

        Raises:
            OSError: `close` was called (ENETDOWN).
            Exception: Any exception of `job`.
        """

    async def release_device(self) -> None:
        """Undo `configure_device`. Call this method after you remove a device, before you configure another one."""

    def close(self) -> None:
        """Release all resources. No other method can be called afterward."""


class NetworkNamespaceIsolation:
    """Isolates a VPN device in a separate network namespace, so that the host's routes and DNS do not change."""

    def __init__(self) -> None:
        self._namespace = NetworkNamespace()
        self._prepared = False
        self._device: str | None = None

    async def configure_device(self, device: str, settings: DeviceSettings) -> None:
        """See `VpnDeviceIsolation.configure_device`."""
        if not self._prepared:
            await self.run_blocking(network_devices.prepare_namespace)
            self._prepared = True
        if self._device != device:
            await asyncio.to_thread(network_devices.move, device, self._namespace.fd)
            self._device = device
        await self.run_blocking(lambda: network_devices.configure_in_namespace(device, settings))

    def create_socket(self, family: int, kind: int, protocol: int = 0) -> socket.socket:
        """See `VpnDeviceIsolation.create_socket`."""
        return self._namespace.create_socket(family, kind, protocol)

    async def run_blocking(self, job: Callable[[], _T]) -> _T:
        """See `VpnDeviceIsolation.run_blocking`."""
        future = self._namespace.submit(job)
        try:
            return await asyncio.wrap_future(future)
        except asyncio.CancelledError:
            # If `NetworkNamespace.close` cancelled the future, and this task is not being cancelled, raise OSError.
            if future.cancelled() and not is_being_cancelled():
                raise OSError(errno.ENETDOWN, os.strerror(errno.ENETDOWN)) from None
            raise

    async def release_device(self) -> None:
        """See `VpnDeviceIsolation.release_device`."""
        self._device = None

    def close(self) -> None:
        """See `VpnDeviceIsolation.close`."""
        self._namespace.close()


class BindToDeviceIsolation:
    """Isolates a VPN device in the host's network namespace, with policy routing and SO_BINDTODEVICE.

    Args:
        device: Name of the device.
    """

    def __init__(self, device: str) -> None:
        self._device = device

    async def configure_device(self, device: str, settings: DeviceSettings) -> None:
        """See `VpnDeviceIsolation.configure_device`."""
        await asyncio.to_thread(policy_routing.configure_in_host, device, settings)

    def create_socket(self, family: int, kind: int, protocol: int = 0) -> socket.socket:
        """See `VpnDeviceIsolation.create_socket`."""
        sock = socket.socket(family, kind, protocol)
        try:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_BINDTODEVICE, self._device.encode())
        except OSError:
            sock.close()
            raise
        return sock

    async def run_blocking(self, job: Callable[[], _T]) -> _T:
        """See `VpnDeviceIsolation.run_blocking`."""
        return await asyncio.to_thread(job)

    async def release_device(self) -> None:
        """See `VpnDeviceIsolation.release_device`."""
        try:
            await asyncio.to_thread(policy_routing.remove_policy_routing, self._device)
        except TunnelError as error:  # only log the error, because closing the tunnel must not fail
            log.warning("cannot remove the routing rules of %s: %s", self._device, error.detail)

    def close(self) -> None:
        """See `VpnDeviceIsolation.close`."""
