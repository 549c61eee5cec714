"""OpenVPN's management interface, over a unix socket that OpenVPN connects to (management-notes.txt).

As it is the client of that socket, it ends when we do: it quits once the socket is closed.
"""

import asyncio
import contextlib
from collections.abc import Callable
from pathlib import Path

from gateway.errors import Reason, TunnelError
from gateway.vpn.privileges import give, separate_user
from gateway.vpn.stale_cleanup import OwnFolder

_PREFIX = "gateway-vpn-"
_QUOTED = str.maketrans({"\\": "\\\\", '"': '\\"'})


class Management:
    """Listens for the child, and hands on what it says.

    Args:
        heard: Called with each line that begins with `>`: what it is about, and the rest.
    """

    def __init__(self, heard: Callable[[str, str], None]) -> None:
        self._heard = heard
        self._folder: OwnFolder | None = None
        self._server: asyncio.Server | None = None
        self._writer: asyncio.StreamWriter | None = None

    @property
    def path(self) -> Path:
        """The socket, once it listens."""
        if self._folder is None:
            raise RuntimeError("it does not listen yet")
        return self._folder.path / "m.sock"

    async def listen(self) -> int | None:
        """Begin to listen; gives the user as whom the child is to run, or None: as we do.

        Raises:
            TunnelError: The folder for temporary files cannot hold the socket; fatal.
        """
        try:
            self._folder = OwnFolder(_PREFIX)
            self._server = await asyncio.start_unix_server(self._serve, self.path)
        except OSError as error:
            detail = f"no socket for OpenVPN in the folder for temporary files: {error}: set TMPDIR to another folder"
            raise TunnelError(Reason.PERMISSION, detail, fatal=True) from error
        user = separate_user(self._folder.path)
        if user is not None:
            give(self.path, 0o660)
        return user

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if self._writer is not None:
            writer.close()  # not the child, which connects once
            return
        self._writer = writer
        with contextlib.suppress(ConnectionError):
            while line := await reader.readline():
                text = line.decode(errors="replace").strip()
                if text.startswith(">"):
                    about, _, rest = text[1:].partition(":")
                    self._heard(about, rest)
        writer.close()

    def say(self, command: str) -> None:
        """Send a command, if the child is there; what it answers shows in its state."""
        if self._writer is not None and not self._writer.is_closing():
            self._writer.write(command.encode() + b"\n")

    def say_secret(self, what: str, kind: str, value: str) -> None:
        """Answer a question for a user or a password: `username "Auth" "…"`."""
        self.say(f'{what} "{kind}" "{value.translate(_QUOTED)}"')

    async def close(self) -> None:
        """Stop; a child that is still there ends."""
        if self._writer is not None:
            self._writer.close()
        if self._server is not None:
            self._server.close()
        if self._folder is not None:
            self._folder.close()
            self._folder = None
