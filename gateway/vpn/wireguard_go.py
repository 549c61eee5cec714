"""Runs wireguard-go, a WireGuard implementation in user space, for kernels without WireGuard."""

import asyncio
import errno
import logging
import os
import time
from pathlib import Path

from gateway.errors import FailureReason, TunnelError
from gateway.processes.child_process import ChildProcess
from gateway.vpn import runtime_directory

log = logging.getLogger(__name__)

_SOCKET_DIRECTORY = Path("/var/run/wireguard")
"""The directory in which wireguard-go creates its socket (see the README of wireguard-go)."""
_START_TIMEOUT = 5.0
"""Time limit for wireguard-go to create its device, in seconds."""
_POLL_INTERVAL = 0.05


class WireGuardGoProcess:
    """Runs a wireguard-go process, which creates a device.

    Args:
        device: The name for the device.
    """

    def __init__(self, device: str) -> None:
        self._device = device
        self._socket = _SOCKET_DIRECTORY / f"{device}.sock"
        self._child: ChildProcess | None = None
        self._last_output = ""

    async def start(self, prefix: str) -> None:
        """Start the process, and wait until it has created the device.

        Args:
            prefix: The prefix of all names that gateways give to WireGuard devices. Before the start, this method
                removes the sockets of killed processes. These are sockets whose names begin with the prefix, on which
                no process listens, and which are older than 30 s.

        Raises:
            TunnelError: The process cannot create the device; fatal.
        """
        try:
            _check_writable(_SOCKET_DIRECTORY)
        except OSError as error:
            detail = f"{error}: wireguard-go creates its socket there: make the directory writable (mount a tmpfs)"
            raise TunnelError(FailureReason.PERMISSION, detail, fatal=True) from error
        runtime_directory.remove_stale_sockets(_SOCKET_DIRECTORY, f"{prefix}*.sock")
        self._child = await ChildProcess.start(
            ["wireguard-go", "-f", self._device], "wireguard-go", self._on_output, {"LOG_LEVEL": "error"}
        )
        deadline = time.monotonic() + _START_TIMEOUT
        ended = asyncio.ensure_future(self._child.wait())
        try:
            while not self._socket.is_socket():
                if ended.done() or time.monotonic() > deadline:
                    raise self._start_error()
                await asyncio.sleep(_POLL_INTERVAL)
        finally:
            ended.cancel()

    def _start_error(self) -> TunnelError:
        output = self._last_output
        permitted = "not permitted" not in output and "denied" not in output
        return TunnelError(
            FailureReason.PROTOCOL if permitted and output else FailureReason.PERMISSION,
            f"wireguard-go cannot create a device ({output or 'no output'}):"
            " CAP_NET_ADMIN and /dev/net/tun are required",
            fatal=True,
        )

    def _on_output(self, line: str) -> None:
        if line[:1].isascii():  # skip the startup notice, which begins with box-drawing characters
            self._last_output = line
        log.debug("wireguard-go: %s", line)

    async def wait(self) -> str:
        """Wait until the process exits, and return a message with the exit code and the last line of output.

        If no process was started, wait until cancelled.
        """
        if self._child is None:
            await asyncio.Event().wait()
            return ""
        code = await self._child.wait()
        return f"wireguard-go exited with code {code}: {self._last_output}"

    async def stop(self) -> None:
        """Stop the process if it was started. The kernel then removes the device of the process."""
        if self._child is not None:
            await self._child.stop()
            self._socket.unlink(missing_ok=True)


def _check_writable(directory: Path) -> None:
    """Create a directory if it does not exist, and check that it is writable."""
    directory.mkdir(exist_ok=True)
    if not os.access(directory, os.W_OK | os.X_OK):
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(directory))
