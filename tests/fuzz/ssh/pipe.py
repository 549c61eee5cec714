"""Defines an asyncio transport without a socket, for the SSH connection with the data plane `asyncssh`."""

import asyncio
from typing import Any

from asyncssh.connection import SSHClientConnection


class Pipe(asyncio.Transport):
    """An asyncio transport that stores the bytes that asyncssh writes."""

    def __init__(self) -> None:
        super().__init__()
        self.written = bytearray()
        self.closed = False
        self.conn: SSHClientConnection | None = None

    def get_extra_info(self, name: str, default: Any = None) -> Any:
        return ("127.0.0.1", 22) if name in ("sockname", "peername") else default

    def write(self, data: Any) -> None:
        self.written += data

    def is_closing(self) -> bool:
        return self.closed

    def abort(self) -> None:
        if not self.closed:
            self.closed = True
            if self.conn is not None:
                self.conn.connection_lost(None)

    close = abort
