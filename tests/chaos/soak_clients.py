"""The soak's TCP clients in a separate process: each opens one stream after the other until the round ends.

Usage: python -m tests.chaos.soak_clients SEED
"""

import asyncio
import random
import socket
import sys
import time
from collections import Counter

from tests.chaos.child import Orders, answer
from tests.chaos.soak_sorts import GIVE_UP, SORTS, UNSURE, Play
from tests.chaos.soak_streams import FORTH, EarlyEndError, End, Pattern, WrongBytesError


class Clients:
    """The clients of one round.

    Args:
        play: What they share.
        pattern: Of the run.
        first: The number of the first stream.
        patience: Seconds after which a stream has stopped, once the round winds up.
    """

    def __init__(self, play: Play, pattern: Pattern, first: int, patience: float) -> None:
        self._play, self._pattern, self._patience = play, pattern, patience
        self.number = first
        self._tasks: list[asyncio.Task[None]] = []
        self.ends: dict[str, list[int]] = {"clean": [], "unsure": [], "given_up": [], "broken": []}
        """Numbers of the streams, by how they ended."""
        self.broken: list[str] = []
        """How the failed streams ended."""
        self.wrong: list[str] = []
        self.counts: Counter[str] = Counter()
        self.bytes = 0

    def start(self, mix: dict[str, int]) -> None:
        """Start `mix` clients of each sort."""
        for sort, count in mix.items():
            self._tasks += [asyncio.ensure_future(self._go_on(sort)) for _ in range(count)]

    async def wind_up(self) -> None:
        """Start no new streams, and wait for the open ones."""
        self._play.winding.set()
        await asyncio.gather(*self._tasks)

    async def _go_on(self, sort: str) -> None:
        await self._play.pause(2.0)
        while not self._play.winding.is_set():
            self.number += 1
            await self._attempt(sort, self.number)
            await self._play.pause(0.5)

    async def _attempt(self, sort: str, number: int) -> None:
        began = time.monotonic()
        with socket.socket() as sock:
            sock.setblocking(False)
            end = End(sock, self._pattern, FORTH, number)
            how = "broken"
            try:
                async with asyncio.timeout(None) as limit:
                    hurrying = asyncio.ensure_future(self._hurry(limit))
                    try:
                        await SORTS[sort](self._play, end)
                    finally:
                        hurrying.cancel()
                how = "given_up" if sort in GIVE_UP else "unsure" if sort in UNSURE else "clean"
            except TimeoutError:
                self._note(sort, end, f"does not end: it is {time.monotonic() - began:.0f} s old")
            except EarlyEndError as error:
                self._note(sort, end, f"ended cleanly {error}")
            except WrongBytesError as error:
                self._note(sort, end, f"got wrong bytes {error}")
            except OSError as error:
                self.broken.append(f"{sort} {number}: {error}, {end.sent:,} bytes sent, {end.got:,} received")
        self.ends[how].append(number)
        self.counts[sort] += 1
        self.bytes += end.sent + end.got

    def _note(self, sort: str, end: End, what: str) -> None:
        self.wrong.append(f"{sort} {end.stream} {what}; {end.sent:,} bytes sent, {end.got:,} received")

    async def _hurry(self, limit: asyncio.Timeout) -> None:
        await self._play.winding.wait()
        limit.reschedule(asyncio.get_running_loop().time() + self._patience)


async def main(seed: int) -> None:
    """Run rounds until the input ends."""
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
