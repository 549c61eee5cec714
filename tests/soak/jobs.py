"""Defines the background tasks of a round of the soak test: invariant checks, network faults, and health checks."""

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator
from typing import Any

from gateway.contracts.config_types import HostPort
from gateway.errors import TargetPathError
from gateway.ssh.pool import SshConnectionPool
from tests.soak import instrumentation
from tests.soak.plan import Bench, Outcome, Round
from tests.soak.streams import FORTH, EarlyEndError, End, Kind, WrongBytesError, pack_head

_CHECK_EVERY, _CHECK_WITHIN = 0.5, 20.0


@contextlib.asynccontextmanager
async def beside(*jobs: Any) -> AsyncIterator[None]:
    """Run coroutines as tasks until the block ends. Then cancel the tasks, and raise the first error of a task."""
    tasks = [asyncio.ensure_future(job) for job in jobs]
    try:
        yield
    finally:
        for task in tasks:
            task.cancel()
        ended = await asyncio.gather(*tasks, return_exceptions=True)
    for error in ended:
        if isinstance(error, Exception):
            raise error


async def look(link: SshConnectionPool, outcome: Outcome) -> None:
    """Check the invariants of `Audit` once a second."""
    while True:
        await asyncio.sleep(1.0)
        outcome.audit.look(link)
        outcome.connections = max(outcome.connections, len(instrumentation.sessions(link)))


async def disturb(bench: Bench, chosen: Round, link: SshConnectionPool, outcome: Outcome) -> None:
    """Inject the network faults of the round at random intervals."""
    if chosen.trouble == "steady":
        return
    while True:
        await asyncio.sleep(bench.chance.uniform(2.0, 5.0))
        outcome.troubles += 1
        if chosen.trouble == "stalls":
            stop = bench.chance.choice((bench.link.hole, bench.link.stall))
            seconds = bench.chance.uniform(0.3, 3.0)
            outcome.audit.quiet_until = time.monotonic() + seconds
            await asyncio.to_thread(stop, seconds)
            await asyncio.sleep(seconds)
        elif len(instrumentation.sessions(link)) > 1:
            await asyncio.to_thread(bench.link.cut, 1)


async def check(bench: Bench, chosen: Round, link: SshConnectionPool, outcome: Outcome) -> None:
    """Query the backend over the link repeatedly, as a health check does, and record the duration of each query."""
    while True:
        began = time.monotonic()
        bench.checks += 1
        try:
            async with asyncio.timeout(_CHECK_WITHIN):
                await _ask(bench, link)
        except (TimeoutError, WrongBytesError) as error:
            outcome.audit.note("a check failed", f"{type(error).__name__}: {error}")
        except (TargetPathError, OSError, EarlyEndError) as error:
            if chosen.trouble != "cuts":
                outcome.audit.note("a check failed", f"{type(error).__name__}: {error}")
        finally:  # also record a query that is cancelled at the end of the round
            outcome.checks.append(time.monotonic() - began)
        await asyncio.sleep(_CHECK_EVERY)


async def _ask(bench: Bench, link: SshConnectionPool) -> None:
    with await link.socket(HostPort("127.0.0.1", bench.backend_port)) as sock:
        end = End(sock, bench.pattern, FORTH, bench.checks)
        await asyncio.get_running_loop().sock_sendall(sock, pack_head(Kind.ASK, end.stream, 100, 1000))
        await end.send(100)
        await end.take(1000)
