"""Injects random faults while clients use a gateway and its servers, and reports failures (`make chaos`).

Every response must be correct, every attempt of a client must finish within its deadline, and no connection may be
refused. After each fault, all backends must come up again without intervention.
"""

import argparse
import contextlib
import random
import statistics
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

from gateway.demo.server_process import find
from tests.soak import chaos_site
from tests.soak.faults import FAULTS, Fault, settled
from tests.soak.growth import Growth
from tests.soak.load import MARGIN, PATIENCE, Client, MySqlStep, NfsStep, PostgresStep, RedisStep, Step, random_file
from tests.support.files import scratch

SETTLE = 30.0
"""Maximum seconds from the end of a fault until every backend is up again."""
CALM = (0.3, 1.5)
KEPT, NEW = 4, 2
"""Number of clients that keep their connection open, and number of clients that connect for each attempt.

These are the numbers for each of `orders`, `ledger` and `reports`. `archive` and `sessions` have half as many.
"""
IMPATIENT = 5
"""Seconds that a client of the backends `ledger` and `archive` waits for a response before it connects again.

A stalled path closes no connection, but a new connection can use another path or another process.
"""


@dataclass
class Row:
    """The results of all injections of one fault."""

    times: int = 0
    outcomes: Counter[str] = field(default_factory=Counter)
    waits: list[float] = field(default_factory=list)
    silences: list[float] = field(default_factory=list)
    recoveries: list[float] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)


def clients(site: chaos_site.Site, patience: int, slack: int) -> list[Client]:
    """Create the clients that generate the load."""
    margin = MARGIN * (1 + slack)
    steps: list[tuple[str, Step]] = []
    for keep, count in ((True, KEPT), (False, NEW)):
        for _ in range(count):
            steps.append(("mysql", MySqlStep(site.mariadb, site.ports["orders"], keep, patience=patience)))
            steps.append(("paths", MySqlStep(site.mariadb, site.ports["ledger"], keep, patience=IMPATIENT)))
            steps.append(("postgres", PostgresStep(site.postgres, site.ports["reports"], keep, patience=patience)))
        for _ in range(count // 2):
            steps.append(("program", MySqlStep(site.mariadb, site.ports["archive"], keep, patience=IMPATIENT)))
            steps.append(("redis", RedisStep(site.redis, site.ports["sessions"], keep, patience=patience)))
    if site.nfs is not None:
        digest = random_file(site.nfs.export / "data", 2_000_000)
        steps += [("nfs", NfsStep(site.ports["media"], "/media/data", digest, patience=patience)) for _ in range(2)]
    return [Client(kind, step, margin) for kind, step in steps]


def strike(
    site: chaos_site.Site, fault: Fault, load: list[Client], row: Row, slack: int, chance: random.Random
) -> None:
    """Inject one fault, wait for the recovery, and record the effect on the clients in `row`."""
    began = time.monotonic()
    seconds = chance.uniform(*fault.lasts)
    with fault.injected(site):
        time.sleep(seconds)
    took = settled(site, SETTLE)
    row.times += 1
    if took is None:
        row.problems.append(f"not everything is up {SETTLE:g} s after a fault of {seconds:.1f} s")
    else:
        row.recoveries.append(took)
    time.sleep(chance.uniform(*CALM))
    ended = time.monotonic()
    for client in load:
        row.waits += client.waits(began, ended)
        silence = client.longest_silence(began, ended)
        row.silences.append(silence)
        allowed = fault.silence * (1 + slack) + (0 if fault.replaced else seconds)
        if silence > allowed:
            row.problems.append(f"{client.kind}: no success for {silence:.1f} s, by a fault of {seconds:.1f} s")
        during = [attempt for attempt in client.attempts if began <= attempt.ended <= ended]
        row.outcomes.update(attempt.outcome for attempt in during)
        failed = [
            attempt
            for attempt in during
            if attempt.outcome not in ("ok", "wrong", "late", "refused")
            and not any(words in attempt.detail for words in fault.own_words)
        ]
        given_up = 0 if fault.replaced else int(seconds // client.patience)
        failures = max(fault.failures, fault.program_failures if client.kind == "program" else 0)
        if len(failed) > failures + given_up + slack:
            row.problems.append(f"{client.kind}: failed {len(failed)} times: {failed[-1].detail}")


def forbidden_outcomes(load: list[Client]) -> list[str]:
    """Return an error for each attempt with an outcome that is not allowed even during a fault."""
    return [
        f"{client.kind}: {attempt.outcome}: {attempt.detail}"
        for client in load
        for attempt in client.attempts
        if attempt.outcome in ("wrong", "late", "refused")
    ]


def chaos(options: argparse.Namespace, folder: Path) -> int:
    """Inject faults until the time or the number of faults is reached; return the exit code."""
    chance = random.Random(options.seed)
    rows: dict[str, Row] = {}
    with chaos_site.running(folder, options.patience - 5) as site:
        if settled(site, SETTLE) is None:
            print("the site did not start:", site.status(), file=sys.stderr)
            return 1
        faults = chosen(site, options.only)
        if not faults:
            print(f"no fault has a name that contains {options.only!r}", file=sys.stderr)
            return 2
        load = clients(site, options.patience, options.slack)
        for client in load:
            client.start()
        with pgbench(site) as bench:
            time.sleep(1)
            growth = Growth(site.gateway.pid, site.ops_port)
            growth.start()
            deadline = time.monotonic() + options.seconds
            queue: list[Fault] = []
            done = 0
            while time.monotonic() < deadline and (not options.count or done < options.count):
                if not queue:  # every fault is injected once before any fault is repeated
                    queue = chance.sample(faults, len(faults))
                fault = queue.pop()
                row = rows.setdefault(fault.name, Row())
                if options.verbose:
                    print(f"{time.strftime('%H:%M:%S')} {fault.name}", file=sys.stderr, flush=True)
                strike(site, fault, load, row, options.slack, chance)
                bench()
                done += 1
            time.sleep(1)
            growth.stop()
        for client in load:
            client.stop()
        late = [client for client in load if not _joined(client)]
        lost = wrong_rows(site)
    report(rows, options)
    problems = [f"{name}: {problem}" for name, row in rows.items() for problem in row.problems]
    problems += [f"a {client.kind} client hangs" for client in late] + lost + forbidden_outcomes(load)
    summary, grew = growth.summary()
    if grew:
        problems.append("the gateway grew")
    for problem in problems[:50]:
        print("PROBLEM", problem)
    print(f"the gateway: {summary}")
    print(f"seed {options.seed}: {done} faults, {len(problems)} problems")
    return 1 if problems else 0


def chosen(site: chaos_site.Site, only: str | None) -> list[Fault]:
    """Return the faults that are possible on this machine, and that `only` (the option `--only`) selects."""
    if only is None:
        return [fault for fault in FAULTS if fault.possible(site) and not fault.only_asked]
    return [fault for fault in FAULTS if fault.possible(site) and only in fault.name]


def _joined(client: Client) -> bool:
    client.join(40)
    return not client.is_alive()


@contextlib.contextmanager
def pgbench(site: chaos_site.Site) -> Iterator[Callable[[], None]]:
    """Run pgbench with four clients; yield a function that starts pgbench again if it has exited."""
    program = find("pgbench", "/usr/lib/postgresql/*/bin")
    if program is None:
        yield lambda: None
        return
    secret = site.folder / "pgpass"
    secret.write_text(f"*:*:*:*:{site.postgres.password}\n")
    secret.chmod(chaos_site.PSQL_PASSFILE_MODE)
    base = [program, "-h", "127.0.0.1", "-U", site.postgres.user]
    environment = {"PGPASSFILE": str(secret), "PGCONNECT_TIMEOUT": "20"}
    subprocess.run([*base, "-p", str(site.postgres.port), "-i", "-q", site.postgres.database],
                   env=environment, check=True, timeout=60, capture_output=True)  # fmt: skip
    running: list[subprocess.Popen[bytes]] = []

    def again() -> None:
        if running and running[0].poll() is None:
            return
        running[:] = [
            subprocess.Popen(
                [*base, "-p", str(site.ports["reports"]), "-S", "-c", "4", "-R", "200", "-T", "3600", "-n",
                 site.postgres.database],
                env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
            )
        ]  # fmt: skip

    again()
    try:
        yield again
    finally:
        for process in running:
            process.kill()
            process.wait()


def wrong_rows(site: chaos_site.Site) -> list[str]:
    """Return an error message for each transaction that the database has executed more than once."""
    import psycopg  # noqa: PLC0415 - used only in this function

    with psycopg.connect(
        host="127.0.0.1", port=site.postgres.port, user=site.postgres.user, password=site.postgres.password,
        dbname=site.postgres.database, connect_timeout=10,
    ) as connection:  # fmt: skip
        rows = connection.execute("SELECT title, count(*) FROM reports GROUP BY title HAVING count(*) > 1").fetchall()
    return [f"a transaction happened {count} times: {title}" for title, count in rows]


def report(rows: dict[str, Row], options: argparse.Namespace) -> None:
    """Print a table with the results of each fault."""
    del options
    head = (
        "fault",
        "times",
        "ok",
        "failed",
        "refused",
        "wrong",
        "late",
        "next ok p50",
        "p99",
        "silence",
        "all up p50",
    )
    print(("{:22}" + "{:>12}" * (len(head) - 1)).format(*head))
    total = Row()
    for name, row in sorted(rows.items()):
        _print(name, row)
        total.times += row.times
        total.outcomes += row.outcomes
        total.waits += row.waits
        total.silences += row.silences
        total.recoveries += row.recoveries
    _print("all", total)


def _print(name: str, row: Row) -> None:
    def figure(values: list[float], share: float) -> str:
        if not values:
            return "-"
        return (
            f"{statistics.quantiles(values, n=1000, method='inclusive')[int(share * 999) - 1]:.2f} s"
            if len(values) > 1
            else f"{values[0]:.2f} s"
        )

    cells = [
        row.times, row.outcomes["ok"], row.outcomes["failed"], row.outcomes["refused"], row.outcomes["wrong"],
        row.outcomes["late"], figure(row.waits, 0.5), figure(row.waits, 0.99),
        f"{max(row.silences, default=0):.2f} s", figure(row.recoveries, 0.5),
    ]  # fmt: skip
    print(("{:22}" + "{:>12}" * len(cells)).format(name, *map(str, cells)))


def arguments(given: list[str] | None = None) -> argparse.Namespace:
    """Parse the command line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument(
        "--seconds", type=float, default=600, help="inject faults for this number of seconds (default 600)"
    )
    parser.add_argument("--count", type=int, default=0, help="maximum number of faults")
    parser.add_argument("--only", help="inject only faults whose name contains this text")
    parser.add_argument(
        "--seed", type=int, default=int(time.time()), help="seed for the order and the duration of the faults"
    )
    parser.add_argument("--patience", type=int, default=PATIENCE, help="seconds that clients wait for an answer")
    parser.add_argument(
        "--slack",
        type=int,
        default=0,
        help="extra failures, and multiples of the silence, that are allowed on a busy machine",
    )
    parser.add_argument("--verbose", action="store_true", help="print each fault when it is injected")
    return parser.parse_args(given)


def main() -> int:
    options = arguments()
    lacking = chaos_site.missing()
    if lacking is not None:
        print(f"this machine lacks {lacking}", file=sys.stderr)
        return 2
    with scratch() as folder:
        return chaos(options, folder)


if __name__ == "__main__":
    sys.exit(main())
