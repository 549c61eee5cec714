"""Runs one round of the soak test: opens an SSH tunnel over a slow network, runs clients, injects network faults."""

import asyncio
import logging
import time

from gateway.contracts.config_types import Duration
from gateway.relay.direct_link import DirectLink
from gateway.ssh.options import PoolOptions, SshOptions
from gateway.ssh.pool import SshConnectionPool
from gateway.tunnels.ssh import SshTunnel
from tests.soak import instrumentation
from tests.soak.audit import Audit, descriptors
from tests.soak.jobs import beside, check, disturb, look
from tests.soak.plan import PATHS, Bench, Outcome, Round
from tests.soak.verdicts import Warnings, compare_reports
from tests.support.front import DIAL_WITHIN, Front, fronting
from tests.support.ssh_sessions import options, until_engines_are_idle

_PATIENCE = 90.0
"""Maximum number of seconds that open streams can take to finish after the clients stop opening new streams."""
_SEND_BUFFER = 32 << 10
"""Size in bytes of the kernel's send buffer for each client. The size is small, so that the gateway itself buffers
most of the data that a client does not read."""
_REST = 30.0
"""Maximum number of seconds that the gateway can take to release all resources after the last stream has ended."""


async def play(bench: Bench, chosen: Round) -> Outcome:
    """Run one round."""
    audit = Audit(bench.budgets)
    outcome = Outcome(audit)
    log = logging.getLogger("gateway")
    warnings = Warnings(audit, allowed=logging.WARNING if chosen.trouble == "cuts" else logging.INFO)
    log.addHandler(warnings)
    bench.link.shape(PATHS[chosen.path])
    exchanged = bench.exchanges.count
    instrumentation.start_engine()
    tasks, open_files = instrumentation.tasks(), descriptors()
    try:
        async with SshTunnel(_options(bench, chosen.cipher)).open(DirectLink(), lambda *_: None) as tunnel:
            link = tunnel.link
            assert isinstance(link, SshConnectionPool)
            await _load(bench, chosen, link, outcome)
        await until_engines_are_idle()
    except Exception as error:  # noqa: BLE001 - the test continues with the next round after any error
        audit.note("the round was not played to its end", f"{type(error).__name__}: {error}")
    finally:
        log.removeHandler(warnings)
    await asyncio.sleep(0)
    if (left := instrumentation.tasks() - tasks) > 0:
        audit.note("tasks are left", f"{left}: {asyncio.all_tasks()}")
    if (left := descriptors() - open_files) > 0:
        audit.note("descriptors are left", str(left))
    if bench.budgets.taken:
        audit.note("budget is left taken", f"{bench.budgets.taken:,} bytes")
    outcome.exchanges = bench.exchanges.count - exchanged
    return outcome


def _options(bench: Bench, cipher: str) -> SshOptions:
    pin = (bench.bastion.folder / "host_key.pub").read_text().strip()
    return options(
        bench.bastion, port=bench.link.port, host_keys=(pin,), known_hosts=(), ciphers=(cipher,),
        data_plane=instrumentation.data_plane(cipher),
        connections=PoolOptions(2, 16), dial_timeout=Duration(DIAL_WITHIN), login_timeout=Duration(60.0),
    )  # fmt: skip


async def _load(bench: Bench, chosen: Round, link: SshConnectionPool, outcome: Outcome) -> None:
    shape = PATHS[chosen.path]
    most = int(min(4e6, 0.15 * min(shape.up, shape.down)))
    ask = bench.clients.ask
    async with fronting(link, bench.backend_port, _SEND_BUFFER) as front:
        await asyncio.to_thread(ask, "start", port=front.port, most=most, mix=bench.mix, patience=_PATIENCE)
        async with beside(look(link, outcome)):
            async with beside(disturb(bench, chosen, link, outcome), check(bench, chosen, link, outcome)):
                await asyncio.sleep(chosen.seconds)
            said = await asyncio.to_thread(ask, "wind up", 2 * _PATIENCE)
            await _released(link, front, outcome.audit)
        heard = await asyncio.to_thread(bench.backend.ask, "report")
        compare_reports(chosen, outcome, front, said, heard)


async def _released(link: SshConnectionPool, front: Front, audit: Audit) -> None:
    """Wait until the gateway has released everything that belongs to clients; record a problem after a timeout."""
    deadline = time.monotonic() + _REST
    while front.relays or front.joining or instrumentation.channels(link) or instrumentation.lingering():
        if time.monotonic() > deadline:
            audit.note(
                "clients are gone and something is left",
                f"{len(front.relays)} relays, {front.joining} that wait, {instrumentation.channels(link)} channels, "
                f"{instrumentation.lingering()} sockets that linger",
            )
            return
        await asyncio.sleep(0.05)
