"""Relays data with the native engine. While the native engine reads a socket's counters, one byte or a FIN arrives.

The socket is the native engine's connection to the backend. The native engine reads the counters with ioctl(2) and
getsockopt(2). The library `arriving_data.c` replaces these functions: it sends the byte from the backend just before
the kernel executes ioctl, or simulates a FIN that arrives from the backend while the kernel executes getsockopt.

The output has four words: the reason for which the relay closed, the number of bytes that the backend received, the
number of bytes that the client received, and 1 if the library has sent the byte or the FIN, otherwise 0.

Arguments: the path of the compiled library, which must also be in LD_PRELOAD; 1 for a FIN, or 0 for a byte.
"""

import asyncio
import ctypes
import socket
import sys

from gateway.metric_types import Histogram
from gateway.relay.event_loop import RelayEventLoop
from gateway.relay.native_engine_runner import native_engines
from gateway.relay.native_engine_selection import relay_sockets

SIZE = 4 << 20
SECONDS = 30


def connected() -> tuple[socket.socket, socket.socket]:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        near = socket.create_connection(listener.getsockname())
        return near, listener.accept()[0]


async def main(library: str, fin: int) -> None:
    loop = asyncio.get_running_loop()
    client, accepted = connected()
    dialed, backend = connected()
    for each in (client, accepted, dialed, backend):
        each.setblocking(False)
    shim = ctypes.CDLL(library)
    for name, value in {"at": dialed.fileno(), "from": backend.fileno(), "fin": fin}.items():
        ctypes.c_int.in_dll(shim, f"arriving_{name}").value = value
    native_engines().runner()
    relay = relay_sockets(accepted, dialed, Histogram())
    received = 0

    async def receive() -> None:
        nonlocal received
        while data := await loop.sock_recv(backend, 1 << 20):
            received += len(data)

    async def send() -> None:
        await loop.sock_sendall(client, bytes(SIZE))
        client.shutdown(socket.SHUT_WR)

    async with asyncio.timeout(SECONDS):
        await asyncio.gather(send(), receive())
        if not fin:
            backend.shutdown(socket.SHUT_WR)
        answer = await loop.sock_recv(client, 100)
        ended = await relay.ended
    arrivals = ctypes.c_int.in_dll(shim, "arriving_count").value
    sys.stdout.write(f"{ended} {received} {len(answer)} {arrivals}\n")
    client.close()
    backend.close()


if __name__ == "__main__":
    with asyncio.Runner(loop_factory=RelayEventLoop) as runner:
        runner.run(main(sys.argv[1], int(sys.argv[2])))
