"""Runs the backend of the soak test in a separate process.

Each connection of a client is one stream. The backend compares every received byte with the expected byte.

Usage: python -m tests.soak.backend SEED
"""

import asyncio
import contextlib
import socket
import sys

from tests.soak.streams import BACK, EarlyEndError, End, Kind, Pattern, WrongBytesError, both
from tests.support.child import Orders, answer

_DRIP = 0.002
"""Seconds that the backend waits after each byte of a stream of the kind `DRIP`."""


class Backend:
    """Accepts and serves streams, and records how they end.

    Args:
        pattern: The expected data of all streams.
    """

    def __init__(self, pattern: Pattern) -> None:
        self._pattern = pattern
        self._tasks: set[asyncio.Task[None]] = set()
        self.forget()

    def forget(self) -> None:
        """Discard all recorded results."""
        self.complete: set[int] = set()
        """The numbers of the streams that ended after all data had arrived."""
        self.early: dict[int, str] = {}
        """The streams that ended without a reset before all data had arrived: number and error."""
        self.reset: dict[int, str] = {}
        """The streams that were reset: number and error."""
        self.wrong: list[str] = []

    async def listen(self, listener: socket.socket) -> None:
        """Accept connections until cancelled."""
        loop = asyncio.get_running_loop()
        while True:
            client, _ = await loop.sock_accept(listener)
            client.setblocking(False)
            client.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            task = asyncio.ensure_future(self._serve(client))
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)

    async def _serve(self, client: socket.socket) -> None:
        end = End(client, self._pattern, BACK)
        with client:
            try:
                wanted = await end.take_head()
                if wanted is None:
                    return
                await self._play(end, *wanted)
            except EarlyEndError as error:
                self.early[end.stream] = str(error)
            except WrongBytesError as error:
                self.wrong.append(f"the backend got wrong bytes by stream {end.stream}: {error}")
            except OSError as error:
                self.reset[end.stream] = f"{error!r} after {end.got:,} bytes"
            else:
                self.complete.add(end.stream)

    async def _play(self, end: End, kind: Kind, up: int, down: int) -> None:
        match kind:
            case Kind.ASK:
                while await self._goes_on(end):
                    await end.take(up)
                    await end.send(down)
            case Kind.FIRST:
                await end.take(up)
                await end.take_end()
                await end.send(down)
            case Kind.LAST:
                await end.send(down)
                end.finish()
                await end.take(up)
                await end.take_end()
            case Kind.BOTH:
                await both(end.send(down), end.take(up))
                end.finish()
                await end.take_end()
            case Kind.DRIP:
                await both(end.send(down, 1, _DRIP), end.take(up))
                end.finish()
                await end.take_end()

    @staticmethod
    async def _goes_on(end: End) -> bool:
        """Wait for data or end-of-file from the client; return whether data has arrived."""
        loop = asyncio.get_running_loop()
        ready = asyncio.Event()
        loop.add_reader(end.sock, ready.set)
        try:
            await ready.wait()
        finally:
            loop.remove_reader(end.sock)
        return bool(end.sock.recv(1, socket.MSG_PEEK))


async def main(seed: int) -> None:
    """Serve streams, and execute the commands from standard input, until standard input is closed."""
    with socket.create_server(("127.0.0.1", 0), backlog=4096) as listener:
        listener.setblocking(False)
        backend = Backend(Pattern(seed))
        task = asyncio.ensure_future(backend.listen(listener))
        async for order in Orders():
            match order["do"]:
                case "listen":
                    answer(port=listener.getsockname()[1])
                case "report":
                    answer(
                        complete=sorted(backend.complete), early=list(backend.early.items()),
                        reset=list(backend.reset.items()), wrong=backend.wrong,
                    )  # fmt: skip
                    backend.forget()
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await task


if __name__ == "__main__":
    asyncio.run(main(int(sys.argv[1])))
