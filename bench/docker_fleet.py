"""Attach containers to an overlay network of a real engine; measure delays and CPU use of the gateway.

Measures the time until the gateway has attached all containers, and the CPU use of the idle gateway. Also measures
the time until the gateway serves a new container, in four cases: after the container starts, after the container is
re-created, after the engine is killed, and if the engine sends no event.

Usage: python bench/docker_fleet.py [CONTAINERS] [KILLS] [--projects N] [--per-project]

Requires root; starts a separate engine.
"""

import argparse
import os
import statistics
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

from tests.support.docker_proxy import DockerProxy
from tests.support.docker_site import OPT_IN, Site
from tests.support.engines import Engine

IDLE = 60


class Fleet(Site):
    """A gateway with one overlay network, or with one overlay network for each Compose project."""

    per_project = False

    def write(self, docker: str = "", backend: str = "", host: str | None = None) -> None:
        """Write the gateway's configuration file."""
        super().write(docker, backend, host)
        if self.per_project:
            path, one, each = self.folder / "gateway.yaml", "{apps: {}}", "{apps: {per: project, driver: overlay}}"
            path.write_text(path.read_text().replace(one, each))

    def attachment(self, name: str) -> tuple[str, str | None] | None:
        """Return the state of a container's attachment, and the reason for this state.

        If each Compose project has its own network, the gateway creates no network before the first project exists.
        Until then, this method returns `attached`, so that `start` does not wait for an attachment.
        """
        return super().attachment(name) or (("attached", None) if self.per_project else None)


def cpu(pid: int) -> float:
    """Return the CPU time of a process in seconds."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def main() -> None:
    """Run the benchmark, and print the results."""
    parser = argparse.ArgumentParser()
    parser.add_argument("containers", type=int, nargs="?", default=300)
    parser.add_argument("kills", type=int, nargs="?", default=20)
    parser.add_argument("--projects", type=int, default=0, help="number of Compose projects for the containers")
    parser.add_argument("--per-project", action="store_true", help="create a network for each project")
    given = parser.parse_args()
    if given.per_project and not given.projects:
        parser.error("--per-project needs --projects")
    with tempfile.TemporaryDirectory(prefix="gateway-fleet-") as folder:
        engine = Engine(Path(folder) / "engine").start()
        try:
            engine.load_busybox()
            engine.load_host()
            engine.docker("swarm", "init", "--advertise-addr", "127.0.0.1")
            site = Fleet(engine, Path(folder))
            site.per_project = given.per_project
            site.start()
            fleet(engine, site, given.containers, given.projects)
            started(engine, site)
            killed(engine, site, given.kills)
            deaf(engine, site, Path(folder))
        finally:
            engine.stop()


def fleet(engine: Engine, site: Fleet, count: int, projects: int) -> None:
    """Start `count` containers, and wait until the gateway has attached all of them."""

    def run(at: int) -> None:
        project = ("--label", f"com.docker.compose.project=p{at % projects}") if projects else ()
        engine.run(f"c{at}", *OPT_IN, *project)

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(run, range(count)))
    started = time.monotonic()
    own = min(count, projects) if site.per_project else 1

    def attached() -> int:
        return sum(each["state"] == "attached" for each in site.get("/api/v1/plan")["attachments"])

    site.wait(lambda: attached() == count + own, timeout=300)
    took = time.monotonic() - started
    print(f"{count} containers, networks: {own}: all attached {took:.1f} s after the last was started")
    pid = int(engine.inspect("gateway")["State"]["Pid"])
    time.sleep(5)
    writes, before, since = site.get("/api/v1/status")["docker"]["writes"], cpu(pid), time.monotonic()
    time.sleep(IDLE)
    share = (cpu(pid) - before) / (time.monotonic() - since)
    same = site.get("/api/v1/status")["docker"]["writes"] == writes
    print(f"idle for {IDLE} s: {share:.2%} of a core, {'no' if same else 'SOME'} writes")
    engine.docker("rm", "-f", *(f"c{at}" for at in range(count)), timeout=300)


def started(engine: Engine, site: Site) -> None:
    """Start and re-create a container ten times; measure how soon the gateway serves it."""
    took = []
    for _ in range(10):
        engine.docker("rm", "-f", "web", check=False)
        engine.run("web", *OPT_IN)
        took.append(site.reaches("web", timeout=30))
    print(f"10 starts and recreates: served after {statistics.median(took):.1f} s, worst {max(took):.1f} s")


def deaf(engine: Engine, site: Site, folder: Path) -> None:
    """Measure how soon the gateway serves a new container if the engine sends no events.

    Without events, the gateway finds the container only when it reads the engine's state again, which it does at the
    interval `docker.resync` (here, the default value).
    """
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
        print(f"all events dropped: served after {max(took):.1f} s, worst of {len(took)}")


def killed(engine: Engine, site: Site, kills: int) -> None:
    """Kill the engine repeatedly; measure how soon the gateway attaches and serves a new container each time."""
    took = []
    for _ in range(kills):
        engine.kill()
        engine.start()
        # Retry, because the engine answers API requests before it has loaded the swarm's overlay network.
        site.wait(lambda: engine.docker("start", "gateway", "db", check=False).returncode == 0, timeout=60)
        engine.docker("rm", "-f", "web", check=False)
        engine.run("web", *OPT_IN)
        took.append(site.reaches("web", timeout=30))
    if took:
        middle, worst = statistics.median(took), max(took)
        print(f"{kills} kills of dockerd: served again after {middle:.1f} s, worst {worst:.1f} s")


if __name__ == "__main__":
    main()
