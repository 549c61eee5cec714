"""Compare the gateway with `ssh -L` and a direct connection, and the gateway's direct relay with HAProxy.

The measurements of all paths are interleaved, in an order that changes with each round; the results are medians.

Usage: python bench/run.py [--rounds N] [--only WORD] [--out FILE] [--beside CHECKOUT] [--tunnel OPTIONS]

With `--beside`, the gateway of another checkout replaces `ssh -L` and HAProxy in the comparison. `--help` lists
all options.
"""

import argparse
import contextlib
import datetime as dt
import math
import platform
import re
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))

import asyncssh
import cryptography
from site_paths import LOAD, MeasuredPath, beside_sshtunnel, running, straight, with_cipher, with_two_connections

from gateway.demo.server_process import find

Measure = Callable[[MeasuredPath], float]
Begin = Callable[[Path], contextlib.AbstractContextManager[list[MeasuredPath]]]
"""Context manager that starts the programs of a section, and yields the paths to measure. Its argument is the
directory for the files of these programs."""
_OTHERS = "## Measured separately"
"""Heading of the results of other benchmarks. These results are at the end of the output file."""


@dataclass(frozen=True)
class Row:
    """One row of the table.

    Args:
        name: The measured quantity and its unit.
        measure: Function that returns one measurement for a path.
        smaller: Whether smaller is better.
        digits: Number of digits after the decimal point.
        typical: Function that selects the value to show from several measurements, such as the median.
    """

    name: str
    measure: Measure
    smaller: bool = False
    digits: int = 0
    typical: Callable[[list[float]], float] = statistics.median


def load(*arguments: object, field: int = 0) -> float:
    """Run the load program; return the number at position `field` of its output."""
    done = subprocess.run([str(LOAD), *map(str, arguments)], capture_output=True, text=True, check=True, timeout=300)
    return float(done.stdout.split()[field])


# Each of the following functions measures one row of the results, or returns a function that measures one row.


def bulk(mode: str, flows: int, total: int) -> Measure:
    return lambda path: load(mode, path.port, flows, total // flows)


def far(delay: int, total: int) -> Measure:
    return lambda path: load("down", path.delayed.get(delay, path.port), 1, total)


def rate(connections: int, ask: int, answer: int) -> Measure:
    return lambda path: load("pp", path.port, connections, ask, answer, 2)


def rate_of_two_clients(mode: str, *arguments: int) -> Measure:
    """Return a function that runs two load programs at the same time, and returns the sum of their rates."""

    def measure(path: MeasuredPath) -> float:
        ports = (path.port, path.second.port if path.second else path.port)
        with ThreadPoolExecutor() as pool:
            return sum(pool.map(lambda port: load(mode, port, *arguments), ports))

    return measure


def median_time(ask: int, answer: int) -> Measure:
    return lambda path: load("pp", path.port, 1, ask, answer, 2, field=1)


def beside(mode: str) -> Measure:
    """Return a function that measures the median time of a query during a bulk transfer."""

    def measure(path: MeasuredPath) -> float:
        with subprocess.Popen(
            [str(LOAD), mode, str(path.bulk or path.port), "1", str(40 << 30)],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        ) as transfer:
            time.sleep(0.5)
            try:
                return load("pp", path.port, 1, 200, 4096, 2, field=1)
            finally:
                transfer.kill()

    return measure


def cpu_per_gb(mode: str) -> Measure:
    def measure(path: MeasuredPath) -> float:
        before = path.cpu()
        load(mode, path.port, 8, 250_000_000)
        return (path.cpu() - before) / 2

    return measure


def cpu_per_connection(path: MeasuredPath) -> float:
    """Return the CPU time that the measured process uses for a new connection, in microseconds."""
    before = path.cpu()
    load("conn", path.port, 64, 6000)
    return (path.cpu() - before) * 1e6 / 6000


def cpu_per_round_trip(connections: int, ask: int, answer: int) -> Measure:
    """Return a function that measures the CPU time of a round trip in microseconds."""

    def measure(path: MeasuredPath) -> float:
        before = path.cpu()
        seconds = 2
        trips = load("pp", path.port, connections, ask, answer, seconds) * seconds
        return (path.cpu() - before) * 1e6 / trips

    return measure


def idle(connections: int, *, memory: bool) -> Measure:
    """Return a function that measures a path while idle connections are open.

    The function returns the KiB per idle connection if `memory` is set, or else the median time of a query.
    """

    def measure(path: MeasuredPath) -> float:
        before = path.memory()
        with subprocess.Popen(
            [str(LOAD), "idle", str(path.port), str(connections), "300"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        ) as client:
            if client.stdin is None or client.stdout is None or client.stdout.readline() != "open\n":
                sys.exit(f"{path.name}: cannot open the idle connections")
            time.sleep(1.5)
            grown = (path.memory() - before) / connections
            client.stdin.write("go\n")
            client.stdin.flush()
            median = float(client.stdout.readline().split()[0])
            client.stdin.close()
        time.sleep(1)
        return grown if memory else median

    return measure


def transactions(path: MeasuredPath) -> float:
    """Return pgbench's read-only transactions per second, with 8 clients."""
    if not path.database:
        return math.nan
    done = subprocess.run(
        [PGBENCH or "pgbench", "-S", "-n", "-c", "8", "-T", "3", "-p", str(path.database)],
        capture_output=True, text=True, check=True, timeout=60,
    )  # fmt: skip
    match = re.search(r"tps = ([\d.]+)", done.stdout)
    return float(match[1]) if match else math.nan


PGBENCH = find("pgbench", "/usr/lib/postgresql/*/bin")
GB = 1_000_000_000
TUNNEL = [
    # Use the maximum of all rounds, because later rounds reuse memory that earlier rounds allocated.
    Row("memory per idle connection, KiB", idle(2000, memory=True), smaller=True, digits=1, typical=max),
    Row("bulk to the backend, 1 flow, MB/s", bulk("up", 1, GB)),
    Row("bulk to the backend, 8 flows, MB/s", bulk("up", 8, GB)),
    Row("bulk from the backend, 1 flow, MB/s", bulk("down", 1, GB)),
    Row("bulk from the backend, 8 flows, MB/s", bulk("down", 8, GB)),
    Row("CPU seconds per GB to the backend", cpu_per_gb("up"), smaller=True, digits=2),
    Row("CPU seconds per GB from the backend", cpu_per_gb("down"), smaller=True, digits=2),
    *(
        Row(f"CPU µs per round trip, {name}", cpu_per_round_trip(count, ask, answer), smaller=True, digits=1)
        for count, ask, answer, name in (
            (1, 1, 1, "1 B ↔ 1 B, 1 connection"),
            (64, 1, 1, "1 B ↔ 1 B, 64 connections"),
            (256, 1, 1, "1 B ↔ 1 B, 256 connections"),
            (64, 200, 4096, "200 B → 4 KiB, 64 connections"),
            (256, 200, 4096, "200 B → 4 KiB, 256 connections"),
        )
    ),
    Row("CPU µs per new connection", cpu_per_connection, smaller=True, digits=0),
    Row("round trips/s, 1 B ↔ 1 B, 64 connections", rate(64, 1, 1)),
    Row("round trips/s, 1 B ↔ 1 B, 256 connections", rate(256, 1, 1)),
    Row("round trips/s, 200 B → 4 KiB, 64 connections", rate(64, 200, 4096)),
    Row("round trips/s, 200 B → 4 KiB, 256 connections", rate(256, 200, 4096)),
    Row("round trip, 1 B ↔ 1 B, 1 connection, p50 µs", median_time(1, 1), smaller=True),
    Row("round trip, 200 B → 4 KiB, 1 connection, p50 µs", median_time(200, 4096), smaller=True),
    Row("new connections/s, 64 at once", lambda path: load("conn", path.port, 64, 6000)),
    Row("bulk from the backend at 20 ms, MB/s", far(20, 400_000_000)),
    Row("bulk from the backend at 50 ms, MB/s", far(50, 200_000_000)),
    Row("bulk from the backend at 100 ms, MB/s", far(100, 200_000_000)),
    Row("a query beside a bulk read, p50 µs", beside("down"), smaller=True),
    Row("a query beside a bulk write, p50 µs", beside("up"), smaller=True),
    Row("a query beside 1,000 idle connections, p50 µs", idle(1000, memory=False), smaller=True),
    Row("a query beside 4,500 idle connections, p50 µs", idle(4500, memory=False), smaller=True),
    Row("pgbench -S, 8 clients, transactions/s", transactions),
]
TWO_CONNECTIONS = [
    Row("bulk to the backend, two clients with 4 flows each, MB/s", rate_of_two_clients("up", 4, GB // 4)),
    Row("bulk from the backend, two clients with 4 flows each, MB/s", rate_of_two_clients("down", 4, GB // 4)),
    Row("round trips/s, 1 B ↔ 1 B, two clients with 32 connections each", rate_of_two_clients("pp", 32, 1, 1, 2)),
    Row(
        "round trips/s, 200 B → 4 KiB, two clients with 32 connections each",
        rate_of_two_clients("pp", 32, 200, 4096, 2),
    ),
    Row("new connections/s, two clients with 32 each at once", rate_of_two_clients("conn", 32, 6000)),
]
SSHTUNNEL = [
    Row("bulk to the backend, 1 flow, MB/s", bulk("up", 1, 200_000_000)),
    Row("bulk from the backend, 1 flow, MB/s", bulk("down", 1, 200_000_000)),
    Row("new connections/s, 8 at once", lambda path: load("conn", path.port, 8, 100)),
]
CIPHERS = ("chacha20-poly1305@openssh.com", "aes128-ctr")
"""Ciphers other than AES-GCM. The native engine supports only the first of these ciphers."""
OF_A_CIPHER = [
    Row("ciphers: bulk to the backend, 1 flow, MB/s", bulk("up", 1, 300_000_000)),
    Row("ciphers: bulk from the backend, 1 flow, MB/s", bulk("down", 1, 300_000_000)),
]
STRAIGHT = [
    Row("bulk to the backend, 1 flow, MB/s", bulk("up", 1, 4 * GB)),
    Row("bulk from the backend, 8 flows, MB/s", bulk("down", 8, 4 * GB)),
    Row("CPU seconds per GB from the backend", cpu_per_gb("down"), smaller=True, digits=2),
    Row("round trips/s, 200 B → 4 KiB, 64 connections", rate(64, 200, 4096)),
    Row("CPU µs per new connection", cpu_per_connection, smaller=True, digits=0),
    Row("new connections/s, 1 at once", lambda path: load("conn", path.port, 1, 4000)),
    Row("new connections/s, 64 at once", lambda path: load("conn", path.port, 64, 10000)),
]


SECTIONS: list[tuple[str, list[Row], Begin]] = [
    ("Through SSH", TUNNEL, running),
    *((f"Through SSH with {cipher} only", OF_A_CIPHER, partial(with_cipher, cipher=cipher)) for cipher in CIPHERS),
    ("Two SSH connections, beside two ssh -L", TWO_CONNECTIONS, with_two_connections),
    ("Beside sshtunnel", SSHTUNNEL, beside_sshtunnel),
    ("Straight, without a tunnel", STRAIGHT, straight),
]


def compare(paths: list[MeasuredPath], rows: list[Row], rounds: int) -> list[str]:
    """Measure each row on all paths alternately.

    Returns:
        The lines of a Markdown table: the median of each path, and the ratio of the gateway to each other path except
        `direct`. A ratio above 1 is in the gateway's favor.
    """
    others = [path for path in paths if path.name not in ("direct", "gateway")]
    lines = [
        "| " + " | ".join(["", *(path.name for path in paths), *(f"ratio to {path.name}" for path in others)]) + " |",
        "| --- |" + " ---: |" * (len(paths) + len(others)),
    ]
    for row in rows:
        seen: dict[str, list[float]] = {path.name: [] for path in paths}
        for number in range(rounds):
            first = number % len(paths)  # a measurement can affect the next one, so the order changes
            order = paths[first:] + paths[:first]
            for path in order if number // len(paths) % 2 == 0 else reversed(order):
                if path.process is None and ("CPU" in row.name or "memory" in row.name or " ms," in row.name):
                    continue
                seen[path.name].append(row.measure(path))
        medians = {name: row.typical(values) for name, values in seen.items() if values}
        ratios = [
            medians[path.name] / medians["gateway"] if row.smaller else medians["gateway"] / medians[path.name]
            for path in others
        ]
        cells = [f"{medians[path.name]:,.{row.digits}f}" if path.name in medians else "-" for path in paths]
        lines.append("| " + " | ".join([row.name, *cells, *(f"**{ratio:.2f}**" for ratio in ratios)]) + " |")
        print(lines[-1], flush=True)
    return lines


def machine() -> list[str]:
    """Return a description of the machine, and the versions of the software."""
    model = "unknown processor"
    with contextlib.suppress(OSError):
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                model = line.partition(":")[2].strip()
                break
    ssh = subprocess.run(["ssh", "-V"], capture_output=True, text=True, check=False, timeout=10).stderr.strip()
    libraries = f"asyncssh {asyncssh.__version__}, cryptography {cryptography.__version__}"
    cores = len(list(Path("/sys/devices/system/cpu").glob("cpu[0-9]*")))
    return [
        f"- {dt.datetime.now(dt.UTC):%Y-%m-%d}, {cores} cores of {model}, Linux {platform.release()}",
        f"- Python {platform.python_version()}, {libraries}",
        f"- {ssh}",
    ]


def measured_separately(path: Path) -> str:
    """Return the part of the file with the results of other benchmarks; empty if there is none."""
    text = path.read_text() if path.exists() else ""
    return f"\n{text[text.index(_OTHERS) :]}" if _OTHERS in text else ""


def main() -> None:
    """Measure all rows, and print and write the results."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--only", default="", help="measure only rows whose name contains this text")
    parser.add_argument("--out", type=Path, help="file to write the results to")
    parser.add_argument("--beside", type=Path, help="compare only with the gateway of this other checkout")
    parser.add_argument("--tunnel", default="", help="more options of tunnels, such as 'data_plane: asyncssh'")
    asked = parser.parse_args()
    tunnel = f", {asked.tunnel}" if asked.tunnel else ""
    beside = asked.beside.resolve() if asked.beside else None
    page = [
        "# Measured",
        "",
        "Measured with `make bench` on loopback; runs are interleaved in a changing order, and results are medians.",
        "",
    ]
    page += [*machine(), f"- medians of {asked.rounds} rounds; ratios above 1 are in the gateway's favor", ""]
    with tempfile.TemporaryDirectory(prefix="gateway-bench-") as name:
        Path(name).chmod(0o755)  # PostgreSQL runs as a different user
        sections: list[tuple[str, list[Row], Begin]]
        sections = [("Through SSH", TUNNEL, partial(running, tunnel=tunnel)), *SECTIONS[1:]]
        if beside is not None:
            sections = [
                ("Through SSH", TUNNEL, partial(running, other=beside, tunnel=tunnel)),
                ("Straight, without a tunnel", STRAIGHT, partial(straight, other=beside)),
            ]
        for number, (title, rows, begin) in enumerate(sections):
            wanted = [row for row in rows if asked.only in row.name]
            if not wanted:
                continue
            folder = Path(name) / str(number)
            folder.mkdir()
            with begin(folder) as paths:
                page += [f"## {title}", "", *compare(paths, wanted, asked.rounds), ""]
    if asked.out:
        asked.out.write_text("\n".join(page) + measured_separately(asked.out))


if __name__ == "__main__":
    main()
