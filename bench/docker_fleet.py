"""Attach containers to an overlay network of a real engine, and measure delays and cost.

Measures how soon all containers are attached, the CPU use of the idle gateway, and how soon a new container is
served: after a start, after it was re-created, after the engine was killed, and without any event.

Usage: python bench/docker_fleet.py [CONTAINERS] [KILLS]     as root; starts its own engine
"""

import os
import statistics
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

sys.path[:0] = [str(Path(__file__).parents[1] / "tests" / "rig"), str(Path(__file__).parents[1])]

from docker_proxy import DockerProxy
from engines import Engine
from test_docker import OPT_IN, Site

IDLE = 60


def cpu(pid: int) -> float:
    """Return the CPU time of a process in seconds."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def main() -> None:
    """Run all measurements and print the results."""
    count = int(sys.argv[1]) if len(sys.argv) > 1 else 300
    kills = int(sys.argv[2]) if len(sys.argv) > 2 else 20
    with tempfile.TemporaryDirectory(prefix="gateway-fleet-") as folder:
        engine = Engine(Path(folder) / "engine").start()
        try:
            engine.load_busybox()
            engine.load_host()
            engine.docker("swarm", "init", "--advertise-addr", "127.0.0.1")
            site = Site(engine, Path(folder))
            site.start()
            fleet(engine, site, count)
            started(engine, site)
            killed(engine, site, kills)
            deaf(engine, site, Path(folder))
        finally:
            engine.stop()


def fleet(engine: Engine, site: Site, count: int) -> None:
    """Start `count` containers, and wait until all are attached."""
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


def started(engine: Engine, site: Site) -> None:
    """Start and re-create a container ten times."""
    took = []
    for _ in range(10):
        engine.docker("rm", "-f", "web", check=False)
        engine.run("web", *OPT_IN)
        took.append(site.reaches("web", timeout=30))
    print(f"10 starts and recreates: served after {statistics.median(took):.1f} s, at worst {max(took):.1f} s")


def deaf(engine: Engine, site: Site, folder: Path) -> None:
    """Attach containers without any event from the engine, with the default resync."""
    engine.docker("rm", "-f", "web", "gateway", check=False)
    with DockerProxy(folder / "proxy.sock", engine.socket) as proxy:
        proxy.drop_events = True
        site.start(host=f"unix://{folder}/proxy.sock")
        time.sleep(3)
        took = []
        for _ in range(3):
            engine.docker("rm", "-f", "web", check=False)
            engine.run("web", *OPT_IN)
            took.append(site.reaches("web", timeout=60))
        print(f"all events dropped: served after {max(took):.1f} s at worst of {len(took)}")


def killed(engine: Engine, site: Site, kills: int) -> None:
    """Kill the engine repeatedly; each time a new container must be attached and served."""
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
