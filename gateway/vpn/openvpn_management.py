"""Implements the server side of OpenVPN's management interface, on a unix socket (management-notes.txt).

OpenVPN is the client of this socket, and exits when the connection closes. Therefore, OpenVPN exits when the gateway
exits.
"""

import asyncio
import contextlib
from collections.abc import Callable
from pathlib import Path

from gateway.errors import FailureReason, TunnelError
from gateway.vpn.openvpn_privileges import grant_access, unprivileged_user
from gateway.vpn.runtime_directory import RuntimeDirectory

_PREFIX = "gateway-vpn-"
_QUOTED = str.maketrans({"\\": "\\\\", '"': '\\"'})


class ManagementInterface:
    """Controls one `openvpn` process through its management interface.

    Args:
        on_notification: Called for each line `>KIND:TEXT` from OpenVPN, with the kind and the text.
    """

    def __init__(self, on_notification: Callable[[str, str], None]) -> None:
        self._on_notification = on_notification
        self._directory: RuntimeDirectory | None = None
        self._server: asyncio.Server | None = None
        self._writer: asyncio.StreamWriter | None = None

    @property
    def path(self) -> Path:
        """The path of the socket.

        Raises:
            RuntimeError: `listen` has not been called, or the interface is closed.
        """
        if self._directory is None:
            raise RuntimeError("`listen` must be called before `path` is read")
        return self._directory.path / "m.sock"

    async def listen(self) -> int | None:
        """Listen for the connection from OpenVPN.

        Returns:
            The ID of the unprivileged user that must run OpenVPN; None if OpenVPN must run as the gateway's user.

        Raises:
            TunnelError: The socket or its directory cannot be created. The error is usually fatal.
        """
        try:
            self._directory = RuntimeDirectory(_PREFIX)
            self._server = await asyncio.start_unix_server(self._serve, self.path)
            user = unprivileged_user(self._directory.path)
            if user is not None:
                grant_access(self.path, 0o660)
        except OSError as error:
            detail = f"cannot create OpenVPN's management socket: {error}: set TMPDIR to another directory"
            raise TunnelError(FailureReason.PERMISSION, detail, fatal=True) from error
        return user

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if self._writer is not None:
            writer.close()  # the child process connects only once, so this connection is from another process
            return
        self._writer = writer
        with contextlib.suppress(ConnectionError):
            while line := await reader.readline():
                text = line.decode(errors="replace").strip()
                if text.startswith(">"):
                    kind, _, rest = text[1:].partition(":")
                    self._on_notification(kind, rest)
        writer.close()

    def send(self, command: str) -> None:
        """Send a command if the child process is connected. Do not wait for a response."""
        if self._writer is not None and not self._writer.is_closing():
            self._writer.write(command.encode() + b"\n")

    def send_credential(self, field: str, kind: str, value: str) -> None:
        """Send a credential that OpenVPN has requested: `FIELD "KIND" "VALUE"`.

        Args:
            field: `username` or `password`.
            kind: The name that OpenVPN's request gives to the credential, such as `Auth`.
            value: The user name or the password.
        """
        self.send(f'{field} "{kind}" "{value.translate(_QUOTED)}"')

    async def close(self) -> None:
        """Close the socket, which makes OpenVPN exit."""
        if self._writer is not None:
            self._writer.close()
        if self._server is not None:
            self._server.close()
        if self._directory is not None:
            self._directory.close()
            self._directory = None
