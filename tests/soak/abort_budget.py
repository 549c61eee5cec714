"""Probes a MySQL server with random settings and timeouts; the server must never block the gateway's address.

The server blocks an address after ten aborted logins. The program does not use a loopback address, because MySQL does
not count aborted logins from loopback addresses. The program requires root.
"""

import argparse
import asyncio
import contextlib
import random
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

from gateway.backend_support.probe_login_limiter import ProbeLoginLimiter
from gateway.backends import EmptyOptions
from gateway.backends.mysql import MysqlBackend, MysqlCheckOptions
from gateway.contracts.config_types import HostPort
from gateway.contracts.secret import Secret
from gateway.contracts.states import HealthState
from gateway.demo.mariadb import MariaDB
from gateway.errors import FailureReason
from gateway.health.probe import probe_once
from gateway.relay.direct_link import DirectLink
from gateway.relay.event_loop import RelayEventLoop
from tests.soak.chaos_site import missing
from tests.support.files import scratch

ADDRESS = "192.0.2.77"
"""The server's address, from a range for documentation (RFC 5737). The program assigns it to the interface `lo`."""
LIMIT = 10
MIN_UP = 5
"""The number of probes that must find the server up."""
_RECOVERY = 300.0
"""Maximum duration of `recover`, in seconds."""
_HASTE = 0.001
_SALTED = "salted"
"""A database user whose authentication plugin the gateway does not support."""


async def mixed(server: MariaDB, count: int) -> Counter[str]:
    """Run at least `count` probes with random settings; return the number of probes for each outcome.

    Stop early if the server blocks the gateway.

    Raises:
        TimeoutError: The server was not up again in time.
    """
    target = HostPort(ADDRESS, server.port)
    good = MysqlCheckOptions(user=server.check_user, password=Secret(server.check_password), database=server.database)
    # All checks share one limiter, because the server counts their aborted logins together.
    logins = ProbeLoginLimiter(LIMIT)

    def checking(**changes: Any) -> MysqlBackend:
        return MysqlBackend(EmptyOptions(), replace(good, **changes))

    cases = {
        "good": (checking(), 3.0),
        "wrong password": (checking(password=Secret("wrong")), 3.0),
        "wrong database": (checking(database="nowhere"), 3.0),
        "plugin that is declined": (checking(user=_SALTED, database=None), 3.0),
        "hasty": (checking(), _HASTE),
    }
    outcomes: Counter[str] = Counter()
    link = DirectLink()
    for number in range(count):
        frozen = number % 500 == 250
        if frozen:  # The server is suspended during fifty probes.
            server.send(signal.SIGSTOP)
        for _ in range(50 if frozen else 1):
            case = random.choice(list(cases))
            backend, timeout = cases[case]
            if case == "hasty":
                timeout = random.uniform(0, _HASTE)  # A random timeout aborts logins at different steps.
            result = await probe_once(backend, link, target, 0.01 if frozen else timeout, logins=logins)
            outcomes[f"{case}: {result.reason or result.state}"] += 1
            if result.reason is FailureReason.HOST_BLOCKED:
                return outcomes
        if frozen:
            server.send(signal.SIGCONT)
            async with asyncio.timeout(120):
                while (
                    await probe_once(cases["good"][0], link, target, 3.0, logins=logins)
                ).state is not HealthState.UP:
                    await asyncio.sleep(0.2)
    await recover(cases["good"][0], target, logins, outcomes)
    return outcomes


async def recover(good: MysqlBackend, target: HostPort, logins: ProbeLoginLimiter, outcomes: Counter[str]) -> None:
    """Probe until `outcomes` contains `MIN_UP` successful probes, or the server blocks the gateway.

    After aborted logins, `logins` refuses all probes for some seconds. On a busy machine, fewer than `MIN_UP` of the
    previous probes can therefore be successful.

    Raises:
        TimeoutError: The server was not up within `_RECOVERY` seconds.
    """
    async with asyncio.timeout(_RECOVERY):
        while outcomes["good: up"] < MIN_UP and not outcomes[f"good: {FailureReason.HOST_BLOCKED}"]:
            await asyncio.sleep(logins.pause(time.monotonic()))
            result = await probe_once(good, DirectLink(), target, 3.0, logins=logins)
            outcomes[f"good: {result.reason or result.state}"] += 1


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--count", type=int, default=10_000)
    options = parser.parse_args()
    lacking = missing()
    if lacking is not None:
        print(f"this machine lacks {lacking}", file=sys.stderr)
        return 2
    with scratch() as folder:
        outcomes = probe(options.count, folder)
    for outcome, times in sorted(outcomes.items()):
        print(f"{times:6} {outcome}")
    blocked = sum(times for outcome, times in outcomes.items() if outcome.endswith(FailureReason.HOST_BLOCKED))
    print(f"{sum(outcomes.values())} probes at max_connect_errors={LIMIT}: refused for it {blocked} times")
    return 1 if blocked else 0


@contextlib.contextmanager
def assigned(*addresses: str) -> Iterator[None]:
    """Assign addresses to this machine's loopback interface until the block ends."""
    with contextlib.ExitStack() as stack:
        for each in addresses:
            subprocess.run(["ip", "addr", "replace", f"{each}/32", "dev", "lo"], check=True, timeout=10)
            remove = ["ip", "addr", "del", f"{each}/32", "dev", "lo"]
            stack.callback(subprocess.run, remove, check=False, timeout=10)
        yield


def counting_server(folder: Path, limit: int) -> MariaDB:
    """Create a server that listens on all addresses, and blocks an address after `limit` aborted logins."""
    return MariaDB(folder, "--bind-address=0.0.0.0", "--skip-name-resolve=0", f"--max-connect-errors={limit}")


def probe(count: int, folder: Path) -> Counter[str]:
    """Start a server, probe it at least `count` times, and return the number of probes for each outcome."""
    server = counting_server(folder / "mariadb", LIMIT)
    with assigned(ADDRESS), asyncio.Runner(loop_factory=RelayEventLoop) as runner:
        server.start()
        server.execute("INSTALL SONAME 'auth_parsec'",
                       f"CREATE USER {_SALTED}@'%' IDENTIFIED VIA parsec USING PASSWORD('secret')")  # fmt: skip
        try:
            return runner.run(mixed(server, count))
        finally:
            server.stop()


if __name__ == "__main__":
    sys.exit(main())
