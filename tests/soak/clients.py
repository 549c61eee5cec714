"""Runs the TCP clients of the soak test in a separate process.

The soak test consists of rounds. During a round, each client opens one stream (one TCP connection) after another.

Usage: python -m tests.soak.clients SEED
"""

import asyncio
import random
import socket
import sys
import time
from collections import Counter

from tests.soak.client_types import CLIENT_TYPES, GIVE_UP, UNSURE, Play
from tests.soak.streams import FORTH, EarlyEndError, End, Pattern, WrongBytesError
from tests.support.child import Orders, answer


class Clients:
    """The clients of one round.

    Args:
        play: State that the clients share.
        pattern: The data of all streams.
        first: The number of streams before this round. The streams of this round have the following numbers.
        patience: Maximum seconds that a stream can stay open after `wind_up` is called.
    """

    def __init__(self, play: Play, pattern: Pattern, first: int, patience: float) -> None:
        self._play, self._pattern, self._patience = play, pattern, patience
        self.number = first
        self._tasks: list[asyncio.Task[None]] = []
        self.ends: dict[str, list[int]] = {"clean": [], "unsure": [], "given_up": [], "broken": []}
        """The numbers of the streams, grouped by how the streams ended."""
        self.broken: list[str] = []
        """The errors of the streams that failed with an OSError."""
        self.wrong: list[str] = []
        self.counts: Counter[str] = Counter()
        self.bytes = 0

    def start(self, mix: dict[str, int]) -> None:
        """Start clients; `mix` contains the number of clients of each type."""
        for client_type, count in mix.items():
            self._tasks += [asyncio.ensure_future(self._go_on(client_type)) for _ in range(count)]

    async def wind_up(self) -> None:
        """Prevent new streams, and wait until the open streams have ended."""
        self._play.winding.set()
        await asyncio.gather(*self._tasks)

    async def _go_on(self, client_type: str) -> None:
        await self._play.pause(2.0)
        while not self._play.winding.is_set():
            self.number += 1
            await self._attempt(client_type, self.number)
            await self._play.pause(0.5)

    async def _attempt(self, client_type: str, number: int) -> None:
        began = time.monotonic()
        with socket.socket() as sock:
            sock.setblocking(False)
            end = End(sock, self._pattern, FORTH, number)
            how = "broken"
            try:
                async with asyncio.timeout(None) as limit:
                    hurrying = asyncio.ensure_future(self._hurry(limit))
                    try:
                        await CLIENT_TYPES[client_type](self._play, end)
                    finally:
                        hurrying.cancel()
                how = "given_up" if client_type in GIVE_UP else "unsure" if client_type in UNSURE else "clean"
            except TimeoutError:
                self._note(client_type, end, f"does not end: it is {time.monotonic() - began:.0f} s old")
            except EarlyEndError as error:
                self._note(client_type, end, f"ended cleanly {error}")
            except WrongBytesError as error:
                self._note(client_type, end, f"got wrong bytes {error}")
            except OSError as error:
                self.broken.append(f"{client_type} {number}: {error}, {end.sent:,} bytes sent, {end.got:,} received")
        self.ends[how].append(number)
        self.counts[client_type] += 1
        self.bytes += end.sent + end.got

    def _note(self, client_type: str, end: End, what: str) -> None:
        self.wrong.append(f"{client_type} {end.stream} {what}; {end.sent:,} bytes sent, {end.got:,} received")

    async def _hurry(self, limit: asyncio.Timeout) -> None:
        await self._play.winding.wait()
        limit.reschedule(asyncio.get_running_loop().time() + self._patience)


async def main(seed: int) -> None:
    """Start and end rounds as the commands from standard input request, until standard input is closed."""
    chance, pattern = random.Random(seed), Pattern(seed)
    clients: Clients | None = None
    number = 0
    async for order in Orders():
        match order["do"]:
            case "start":
                play = Play(chance, order["port"], order["most"])
                clients = Clients(play, pattern, number, order["patience"])
                clients.start(order["mix"])
                answer()
            case "wind up" if clients is not None:
                await clients.wind_up()
                number = clients.number
                answer(
                    ends=clients.ends, broken=clients.broken, wrong=clients.wrong, counts=clients.counts,
                    waits=sorted(play.waits), bytes=clients.bytes,
                )  # fmt: skip


if __name__ == "__main__":
    asyncio.run(main(int(sys.argv[1])))
