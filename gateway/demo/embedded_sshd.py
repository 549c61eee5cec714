"""Runs asyncssh's SSH server, for machines without sshd: `python -m gateway.demo.embedded_sshd FOLDER PORT`."""

import asyncio
import sys
from pathlib import Path

import asyncssh


class _LoopbackOnlyServer(asyncssh.SSHServer):
    """An SSH server that forwards connections only to loopback addresses."""

    def connection_requested(self, dest_host: str, dest_port: int, orig_host: str, orig_port: int) -> bool:
        del dest_port, orig_host, orig_port
        if dest_host not in ("127.0.0.1", "localhost", "::1"):
            raise asyncssh.ChannelOpenError(asyncssh.OPEN_ADMINISTRATIVELY_PROHIBITED, "loopback only")
        return True


async def _serve(folder: Path, port: int) -> None:
    server = await asyncssh.listen(
        "127.0.0.1",
        port,
        server_factory=_LoopbackOnlyServer,
        server_host_keys=[str(folder / "host_key")],
        authorized_client_keys=str(folder / "authorized_keys"),
        process_factory=None,
        encryption_algs=["aes128-gcm@openssh.com", "aes256-gcm@openssh.com"],
    )
    async with server:
        await server.wait_closed()


if __name__ == "__main__":
    asyncio.run(_serve(Path(sys.argv[1]), int(sys.argv[2])))
