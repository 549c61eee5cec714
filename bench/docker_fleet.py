"""A fleet of containers on a real engine: how long until all are attached, and what the gateway costs when idle.

Usage: python bench/docker_fleet.py [CONTAINERS] [KILLS]     as root; starts an engine of its own
"""

import os
import statistics
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

sys.path[:0] = [str(Path(__file__).parents[1] / "tests" / "rig"), str(Path(__file__).parents[1])]

from engines import Engine
from test_docker import OPT_IN, Site

IDLE = 60


def cpu(pid: int) -> float:
    """Seconds of processor time that a process has used."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def main() -> None:
    """Run and print."""
    count = int(sys.argv[1]) if len(sys.argv) > 1 else 300
    kills = int(sys.argv[2]) if len(sys.argv) > 2 else 20
    with tempfile.TemporaryDirectory(prefix="gateway-fleet-") as folder:
        engine = Engine(Path(folder) / "engine").start()
        try:
            engine.load_busybox()
            engine.load_host()
            site = Site(engine, Path(folder))
            site.start()
            fleet(engine, site, count)
            killed(engine, site, kills)
        finally:
            engine.stop()


def fleet(engine: Engine, site: Site, count: int) -> None:
    """Start so many containers, and wait until all are attached."""
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda at: engine.run(f"c{at}", *OPT_IN), range(count)))
    started = time.monotonic()

    def attached() -> int:
        return sum(each["state"] == "attached" for each in site.get("/api/v1/plan")["attachments"])

    site.wait(lambda: attached() == count + 1, timeout=300)
    print(f"{count} containers: all attached {time.monotonic() - started:.1f} s after the last was started")
    pid = int(engine.inspect("gateway")["State"]["Pid"])
    time.sleep(5)
    writes, before, since = site.get("/api/v1/status")["docker"]["writes"], cpu(pid), time.monotonic()
    time.sleep(IDLE)
    share = (cpu(pid) - before) / (time.monotonic() - since)
    same = site.get("/api/v1/status")["docker"]["writes"] == writes
    print(f"idle for {IDLE} s: {share:.2%} of a core, {'no' if same else 'SOME'} writes")
    engine.docker("rm", "-f", *(f"c{at}" for at in range(count)), timeout=300)


def killed(engine: Engine, site: Site, kills: int) -> None:
    """Kill the engine so often; each time a new container must be attached and served."""
    took = []
    for _ in range(kills):
        engine.kill()
        engine.start()
        engine.docker("start", "gateway", "db")
        engine.docker("rm", "-f", "web", check=False)
        engine.run("web", *OPT_IN)
        took.append(site.reaches("web", timeout=30))
    if took:
        middle, worst = statistics.median(took), max(took)
        print(f"{kills} kills of dockerd: served again after {middle:.1f} s, at worst {worst:.1f} s")


if __name__ == "__main__":
    main()
