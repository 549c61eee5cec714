"""Measure how long `gateway audit` takes for many containers of a real engine, and the CPU time that it uses.

Each container runs, and has a named volume and files in its writable layer. To verify that `gateway audit` changes
nothing in the engine, the script compares the output of `docker inspect` for all containers, volumes and networks
before and after the measurements.

Usage: python bench/audit_fleet.py [CONTAINERS] [ROUNDS]

Requires root; starts a separate engine. The start of 300 containers takes minutes.
"""

import argparse
import json
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

from tests.support.engines import Engine
from tests.support.files import REPOSITORY

PROGRAM = "mkdir -p /srv/app && for i in $(seq 20); do echo $i > /srv/app/$i; done; exec sleep 99999"
"""The script that each container runs. The script writes files to the writable layer of its container."""


def engine_cpu(engine: Engine) -> float:
    """Return the CPU time of the engine's daemon in seconds."""
    fields = Path(f"/proc/{engine.pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def audit(engine: Engine) -> tuple[float, float, float, int]:
    """Run `gateway audit` once.

    Returns:
        The duration, the CPU time of `gateway audit` and the CPU time of the engine, each in seconds, and the number
        of storage locations in the report.
    """
    before, of_engine, began = resource.getrusage(resource.RUSAGE_CHILDREN), engine_cpu(engine), time.monotonic()
    done = subprocess.run(
        [sys.executable, "-m", "gateway", "audit", "-o", "json"], capture_output=True, check=True, timeout=120,
        env={**os.environ, "PYTHONPATH": str(REPOSITORY), "DOCKER_HOST": engine.url},
    )  # fmt: skip
    took, after = time.monotonic() - began, resource.getrusage(resource.RUSAGE_CHILDREN)
    cpu = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    return took, cpu, engine_cpu(engine) - of_engine, len(json.loads(done.stdout)["places"])


def main() -> None:
    """Run the benchmark, and print the results."""
    parser = argparse.ArgumentParser()
    parser.add_argument("containers", type=int, nargs="?", default=300)
    parser.add_argument("rounds", type=int, nargs="?", default=7)
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        engine = Engine(Path(folder) / "engine").start()
        try:
            engine.load_busybox()
            for number in range(given.containers):
                volume = ("-v", f"many-{number}:/data")
                engine.run(f"many-{number}", "--network", "none", *volume, command=("sh", "-c", PROGRAM))
            before = engine.state()
            audit(engine)  # The first run loads the interpreter's files into the page cache.
            runs = [audit(engine) for _ in range(given.rounds)]
            if engine.state() != before:
                sys.exit("the audit has changed the engine")
            load = os.getloadavg()[0] / (os.cpu_count() or 1)
        finally:
            engine.stop()
    took, cpu, of_engine, places = zip(*runs, strict=True)
    print(f"{given.containers} containers, {places[0]} places, load per core {load:.1f}")
    for name, values in (("duration", took), ("CPU time of the audit", cpu), ("CPU time of the engine", of_engine)):
        print(f"{name}: median {statistics.median(values):.2f} s, at most {max(values):.2f} s")


if __name__ == "__main__":
    main()
