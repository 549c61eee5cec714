"""Runs an asyncssh server that forwards TCP connections.

Usage: `asyncssh_sshd.py FOLDER PORT REKEY_BYTES`. If REKEY_BYTES is 0, asyncssh uses its default.
"""

import asyncio
import sys
from pathlib import Path

import asyncssh


class Server(asyncssh.SSHServer):
    """An SSH server that permits TCP forwarding to every destination."""

    def connection_requested(self, dest_host: str, dest_port: int, orig_host: str, orig_port: int) -> bool:
        return True


async def serve(folder: Path, port: int, rekey_bytes: int) -> None:
    server = await asyncssh.listen(
        "127.0.0.1",
        port,
        server_factory=Server,
        server_host_keys=[str(folder / "host_key")],
        authorized_client_keys=str(folder / "authorized_keys"),
        process_factory=None,
        rekey_bytes=rekey_bytes or (),
    )
    async with server:
        await server.wait_closed()


if __name__ == "__main__":
    asyncio.run(serve(Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3])))
