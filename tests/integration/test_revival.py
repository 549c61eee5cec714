"""Tests with a real engine that the gateway starts containers whose network, volume or namespace was missing."""

import asyncio
import json
import re
import shlex
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from gateway.backoff import BackoffPolicy
from gateway.contracts.config_types import Duration
from gateway.docker import last_start_inspector
from gateway.docker import reconciler as reconciler_module
from gateway.docker import start_attempts as revivals_module
from gateway.docker.desired_state import DesiredState
from gateway.docker.engine_connection import connected
from gateway.docker.options import DockerOptions, NetworkOptions
from gateway.docker.plan import ActionKind
from gateway.docker.reconciler import Reconciler
from gateway.docker.start_attempts import StartAttempts
from gateway.docker.unavailable_containers import RevivalStatus, UnavailableContainer
from gateway.docker.volumes import VolumeMountAddress
from tests.support.docker_site import OPT_IN, Site
from tests.support.engines import Engine, running_engine
from tests.support.files import PYTHON_PATH
from tests.support.gateway_process import command
from tests.support.volume_plugin import volume_plugin

pytestmark = [pytest.mark.integration, pytest.mark.timeout(600)]

RESTARTS = "--restart=unless-stopped"
PORT = 20490


@pytest.fixture(scope="module")
def engine(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Engine]:
    with running_engine(tmp_path_factory.mktemp("engine")) as made:
        yield made


@pytest.fixture(autouse=True)
def clean(engine: Engine) -> Iterator[None]:
    yield
    engine.remove_all()


@pytest.fixture
def site(engine: Engine, tmp_path: Path) -> Site:
    return Site(engine, tmp_path)


class Host:
    """The reconciler of a gateway on the engine's host; the reconciler runs only when a test calls it.

    Args:
        engine: The engine to reconcile.
        folder: The directory for the gateway's state.
        socket: The symbolic link to the engine's socket that the gateway uses; None if the gateway uses no link.
    """

    def __init__(
        self,
        engine: Engine,
        folder: Path,
        *,
        revive: bool = True,
        timeout: float = 30.0,
        socket: Path | None = None,
    ) -> None:
        options = DockerOptions(
            host=f"unix://{socket}" if socket else engine.url,
            networks={"apps": NetworkOptions()},
            revive=revive,
            timeout=Duration(timeout),
        )
        self.usable = frozenset({"media"})
        self._options = options
        self._reconciler = Reconciler(options, self._desired, lambda _: None, folder)

    def _desired(self) -> DesiredState:
        mounted = (VolumeMountAddress("media", "127.0.0.1", PORT, 2049),)
        return DesiredState("site-a", self._options, ("media",), mount_addresses=mounted, usable=self.usable)

    @property
    def start_attempts(self) -> StartAttempts:
        return self._reconciler.start_attempts

    @property
    def observed_at(self) -> float:
        """The time of the last snapshot, in seconds since the epoch; 0 before the first snapshot."""
        return self._reconciler.observed_at or 0.0

    @property
    def warnings(self) -> tuple[str, ...]:
        """The warnings about the last snapshot."""
        return self._reconciler.plan.warnings

    def unavailable(self) -> dict[str, UnavailableContainer]:
        """Return the containers that failed to start, according to the last snapshot."""
        return {each.container: each for each in self._reconciler.plan.unavailable}

    def reconcile(self, until: Callable[[], bool], within: float = 30.0) -> int:
        """Reconcile until a condition is true; return the number of containers that the reconciler started."""

        async def cycles() -> int:
            started, deadline = 0, time.monotonic() + within
            async with connected(self._options, lambda _: None) as client:
                while True:
                    wake, done = await self._reconciler.reconcile(client, once=True)
                    started += sum(each.verb in (ActionKind.START, ActionKind.RESTART) for each in done)
                    if until():
                        return started
                    assert time.monotonic() < deadline, self._reconciler.plan
                    await asyncio.sleep(min(wake, 0.5))

        return asyncio.run(cycles())

    def run(self, until: Callable[[], bool], within: float = 30.0) -> None:
        """Run the reconciler as the gateway does, and stop it when a condition is true."""

        async def running() -> None:
            task = asyncio.ensure_future(self._reconciler.run(lambda: None))
            try:
                async with asyncio.timeout(within):
                    while not await asyncio.to_thread(until):
                        assert not task.done()
                        await asyncio.sleep(0.1)
            finally:
                task.cancel()
                await asyncio.gather(task, return_exceptions=True)

        asyncio.run(running())

    def reconcile_for(self, seconds: float) -> int:
        """Reconcile for some time; return the number of containers that the reconciler started."""
        end = time.monotonic() + seconds
        return self.reconcile(lambda: time.monotonic() > end, seconds + 10)


def state(engine: Engine, name: str) -> str:
    return str(engine.inspect(name)["State"]["Status"])


def error(engine: Engine, name: str) -> str:
    return str(engine.inspect(name)["State"]["Error"])


def create_volume(engine: Engine, name: str = "media", port: int = PORT) -> None:
    options = f"addr=127.0.0.1,port={port},nfsvers=4.2,proto=tcp,hard"
    engine.docker("volume", "create", "--opt", "type=nfs", "--opt", "device=:/media", "--opt", f"o={options}", name)


def run_failing(engine: Engine, name: str, *options: str) -> None:
    """Start a container, and check that its start fails."""
    failed = engine.docker("run", "-d", "--name", name, *options, "busybox", "sleep", "9999", check=False)
    assert failed.returncode, "the container started, although its start must fail"


def test_a_container_that_the_gateway_attached_is_started_after_its_network_was_removed(
    engine: Engine, tmp_path: Path
) -> None:
    host = Host(engine, tmp_path)
    engine.run("web", *OPT_IN, RESTARTS)
    host.reconcile(lambda: engine.attached("web", "apps"))
    # The container exits, the test removes the network, and the engine fails to start the container.
    engine.docker("kill", "web")
    engine.docker("network", "rm", "apps")
    assert "not found" in engine.docker("start", "web", check=False).stderr
    assert error(engine, "web").startswith("network ")
    assert host.reconcile(lambda: state(engine, "web") == "running") == 1
    assert engine.attached("web", "apps")
    assert host.start_attempts.revived == {"network": 1}
    assert host.reconcile_for(3) == 0


def test_a_container_that_the_gateway_did_not_attach_starts_after_the_command_in_the_status(
    engine: Engine, tmp_path: Path
) -> None:
    host = Host(engine, tmp_path)
    host.reconcile(lambda: bool(engine.docker("network", "ls", "-q", "--filter", "name=apps").stdout))
    engine.run("web", "--network", "apps", RESTARTS)
    engine.docker("kill", "web")
    engine.docker("network", "rm", "apps")
    engine.docker("start", "web", check=False)
    host.reconcile(lambda: "web" in host.unavailable() and bool(host.unavailable()["web"].command))
    found = host.unavailable()["web"]
    assert found.state is RevivalStatus.RECREATE
    for line in found.command.split(" && "):
        engine.docker(*shlex.split(line)[1:])
    assert state(engine, "web") == "running"
    host.reconcile(lambda: not host.unavailable())


def test_a_start_that_takes_longer_than_the_timeout_of_requests_completes(tmp_path: Path) -> None:
    """The gateway must not disconnect during the start, although the start takes longer than `timeout`.

    If the API client disconnects while the engine mounts a volume, the engine cancels the start of the container.
    """
    folder, plugins = tmp_path / "volume", tmp_path / "plugins"
    folder.mkdir()
    plugins.mkdir()
    with (
        running_engine(tmp_path / "engine", plugins=plugins) as engine,
        volume_plugin(folder, plugins) as plugin,
    ):
        engine.docker("volume", "create", "--driver", plugin.name, "slow")
        host = Host(engine, tmp_path, timeout=2.0)
        engine.run("web", *OPT_IN, RESTARTS, "-v", "slow:/media")
        engine.run("other", *OPT_IN)
        host.reconcile(lambda: engine.attached("web", "apps"))

        def fail_without_network() -> None:
            engine.docker("kill", "web")
            engine.docker("network", "disconnect", "apps", "other", check=False)
            engine.docker("network", "rm", "apps")
            assert "not found" in engine.docker("start", "web", check=False).stderr
            plugin.mount_requested.clear()
            plugin.proceed.clear()

        fail_without_network()

        def is_running() -> bool:
            # While the engine mounts the volume, `docker inspect` of the container would block.
            return "web" in engine.docker("ps", "--format", "{{.Names}}").stdout.split()

        mounting_since = 0.0

        def waited() -> bool:
            nonlocal mounting_since
            if plugin.mount_requested.is_set():
                mounting_since = mounting_since or time.monotonic()
                if time.monotonic() - mounting_since > 6:
                    plugin.proceed.set()
            return is_running()

        host.run(waited)
        assert host.start_attempts.revived == {"network": 1}
        assert engine.attached("other", "apps"), "the mount must not delay other actions"
        # The gateway stops during the mount, so the engine cancels the start. The next process starts the container.
        fail_without_network()
        host.run(plugin.mount_requested.is_set)
        plugin.proceed.set()
        again = Host(engine, tmp_path, timeout=2.0)
        again.run(is_running)
        assert again.start_attempts.revived == {"network": 1}


def test_a_dependant_that_stops_slowly_is_restarted_once(engine: Engine, tmp_path: Path) -> None:
    host = Host(engine, tmp_path, timeout=2.0)
    engine.run("owner", *OPT_IN)
    engine.run("web", "--network", "container:owner", "--stop-timeout=6", RESTARTS)
    host.reconcile(lambda: engine.attached("owner", "apps"))
    before = engine.inspect("web")["State"]["StartedAt"]
    engine.docker("restart", "owner")
    host.run(lambda: engine.inspect("web")["State"]["StartedAt"] != before)
    restarted = engine.inspect("web")["State"]["StartedAt"]
    host.reconcile_for(3)
    assert engine.inspect("web")["State"]["StartedAt"] == restarted
    assert host.start_attempts.revived == {"namespace": 1}


def test_dependants_are_restarted_after_the_engine_was_restarted_while_the_gateway_ran(
    engine: Engine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The engine starts its containers before the gateway connects, so the gateway does not see the starts."""
    monkeypatch.setattr(last_start_inspector, "_MAX_AGE_RUNNING", 3600.0)
    monkeypatch.setattr(reconciler_module, "_EVENT_OVERLAP", 0.0)
    monkeypatch.setattr(reconciler_module, "_RECONNECT", BackoffPolicy(first=0.2, cap=0.4, floor=0.1))
    socket = tmp_path / "docker.sock"
    socket.symlink_to(engine.socket)
    host = Host(engine, tmp_path, socket=socket)
    engine.run("owner", *OPT_IN)
    web = engine.run("web", "--network", "container:owner", RESTARTS)

    def wait(condition: Callable[[], bool]) -> None:
        deadline = time.monotonic() + 60
        while not condition():
            assert time.monotonic() < deadline
            time.sleep(0.1)

    def restart_engine_and_owner() -> bool:
        wait(lambda: engine.attached("owner", "apps"))
        engine.shut_down()
        time.sleep(1)
        if web not in host.start_attempts.signals:
            # On a busy machine, the engine can stop before the gateway has read the event about the signal.
            host.start_attempts.record_signal(web, signal.SIGTERM, time.time())
        socket.unlink()
        engine.start()
        engine.docker("start", "owner")
        engine.docker("start", "web")
        socket.symlink_to(engine.socket)
        started, connected_at = engine.inspect("web")["State"]["StartedAt"], time.time()
        wait(lambda: host.observed_at > connected_at)
        assert engine.inspect("web")["State"]["StartedAt"] == started
        engine.docker("restart", "owner")
        wait(lambda: host.start_attempts.revived == {"namespace": 1})
        return True

    host.run(restart_engine_and_owner, 150)


def test_dependants_of_a_stopped_container_are_started_with_it(engine: Engine, tmp_path: Path) -> None:
    host = Host(engine, tmp_path)
    engine.run("owner", *OPT_IN)
    engine.run("web", "--network", "container:owner", RESTARTS)
    host.reconcile(lambda: engine.attached("owner", "apps"))
    engine.docker("kill", "web", "owner")
    engine.docker("start", "web", check=False)
    assert "non running container" in error(engine, "web")
    host.reconcile(lambda: "web" in host.unavailable())
    assert host.unavailable()["web"].state is RevivalStatus.WAITING
    engine.docker("start", "owner")
    assert host.reconcile(lambda: state(engine, "web") == "running") == 1


def test_stopped_containers_and_those_that_fail_for_other_reasons_are_not_started(
    engine: Engine, tmp_path: Path
) -> None:
    host = Host(engine, tmp_path)
    create_volume(engine, "other", PORT + 1)
    engine.run("stopped", *OPT_IN, RESTARTS)
    engine.run("owner", *OPT_IN)
    engine.run("dependant", "--network", "container:owner", RESTARTS)
    host.reconcile(lambda: engine.attached("stopped", "apps"))
    engine.docker("stop", "stopped", "dependant")
    run_failing(engine, "fault", RESTARTS, "-v", "/proc/nowhere:/x")
    run_failing(engine, "elsewhere", RESTARTS, "-v", "other:/media")
    engine.docker("rm", "-f", "fault")
    engine.docker("create", "--name", "fault", *OPT_IN, RESTARTS, "busybox", "/nonexistent")
    assert engine.docker("start", "fault", check=False).returncode
    engine.run("crashing", *OPT_IN, "--restart=on-failure:1", command=("sh", "-c", "exit 3"))
    assert host.reconcile_for(8) == 0
    assert host.unavailable() == {}
    there = {name: state(engine, name) for name in ("stopped", "dependant", "fault", "elsewhere", "crashing")}
    assert there == {
        "stopped": "exited", "dependant": "exited", "fault": "created", "elsewhere": "created", "crashing": "exited",
    }  # fmt: skip


def test_a_container_whose_files_are_damaged_does_not_affect_the_others(engine: Engine, tmp_path: Path) -> None:
    engine.run("damaged", "-v", "data:/data", command=("sh", "-c", "exit 3"))
    engine.run("owner", *OPT_IN)
    engine.run("web", "--network", "container:owner", RESTARTS)
    host = Host(engine, tmp_path)
    host.reconcile(lambda: engine.attached("owner", "apps"))
    layer = Path(engine.inspect("damaged")["GraphDriver"]["Data"]["UpperDir"]).parent
    shutil.rmtree(layer)
    assert engine.docker("inspect", "damaged", check=False).returncode, "the engine must refuse the inspection"
    before = engine.inspect("web")["State"]["StartedAt"]
    engine.docker("restart", "-t", "0", "owner")
    host = Host(engine, tmp_path)
    assert host.reconcile(lambda: engine.inspect("web")["State"]["StartedAt"] != before) == 1
    assert [each for each in host.warnings if "container damaged cannot be inspected" in each and "overlay2" in each]


def test_a_container_is_given_up_after_repeated_failures(
    engine: Engine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each mount fails, because the kernel has no NFS client or because no server listens."""
    monkeypatch.setattr(revivals_module, "LIMIT", 3)
    monkeypatch.setattr(revivals_module, "_POLICY", BackoffPolicy(first=0.2, cap=0.4, floor=0.1))
    host = Host(engine, tmp_path)
    create_volume(engine)
    run_failing(engine, "web", RESTARTS, "-v", "media:/media")
    run_failing(engine, "once", "-v", "media:/media")  # this container has no restart policy
    host.usable = frozenset()
    host.reconcile_for(3)
    assert host.unavailable()["web"].state is RevivalStatus.WAITING, "revival must wait while the backend is not up"
    host.usable = frozenset({"media"})
    host.reconcile(lambda: host.unavailable()["web"].state is RevivalStatus.GIVEN_UP)
    assert host.unavailable()["web"].command == "docker start web"
    assert "once" not in host.unavailable()
    assert host.reconcile_for(3) == 0


def test_without_revival_the_status_shows_the_command(engine: Engine, tmp_path: Path) -> None:
    host = Host(engine, tmp_path, revive=False)
    create_volume(engine)
    run_failing(engine, "web", RESTARTS, "-v", "media:/media")
    run_failing(engine, "chosen", RESTARTS, "-v", "media:/media", "--label", "gateway.revive=true")
    host.usable = frozenset()
    host.reconcile(lambda: len(host.unavailable()) == 2)
    assert (host.unavailable()["web"].state, host.unavailable()["web"].command) == (
        RevivalStatus.OFF,
        "docker start web",
    )
    assert host.unavailable()["chosen"].state is RevivalStatus.WAITING


def _metric(site: Site, name: str) -> float:
    program = "import urllib.request as u; print(u.urlopen('http://127.0.0.1:9090/metrics').read().decode())"
    text = site.engine.docker("exec", "gateway", "python3", "-c", program).stdout
    return float(next(line for line in text.splitlines() if line.startswith(name)).rpartition(" ")[2])


def _unavailable(site: Site) -> dict[str, Any]:
    return {each["container"]: each for each in site.get("/api/v1/status")["docker"]["dead_containers"]}


def test_dependants_of_the_gateways_container_serve_again_after_its_restart(site: Site) -> None:
    site.start(docker="revive: true")
    site.engine.run("web", "--network", "container:gateway", RESTARTS)
    site.engine.run("stopped", "--network", "container:gateway", RESTARTS)
    site.engine.docker("stop", "stopped")
    site.wait(lambda: site.says("web", "127.0.0.1") == "orders-here")
    site.engine.docker("restart", "gateway")
    assert site.says("web", "127.0.0.1") == ""
    site.wait(lambda: site.says("web", "127.0.0.1") == "orders-here", 40)
    assert state(site.engine, "stopped") == "exited"
    site.wait(lambda: not _unavailable(site))
    started = site.engine.inspect("web")["State"]["StartedAt"]
    time.sleep(3)
    assert site.engine.inspect("web")["State"]["StartedAt"] == started, (
        "the gateway must restart the container only once"
    )
    assert _metric(site, 'gateway_containers_revived_total{reason="namespace"}') == 1
    assert _metric(site, 'gateway_containers_dead{reason="namespace"}') == 0


def test_containers_serve_again_after_the_engine_of_a_gateway_in_a_container_boots(site: Site) -> None:
    """The engine starts the gateway and the other containers in any order."""
    engine = site.engine
    site.write(docker="revive: true")
    engine.run_gateway("gateway", site.folder, "--network", "far", "--restart=always")
    engine.docker("update", "--restart=always", "db")
    for name, options in (("web", ("--network", "container:gateway")), ("app", OPT_IN), ("stopped", OPT_IN)):
        site.engine.run(name, "--restart=unless-stopped", *options)
    site.wait(lambda: site.says("web", "127.0.0.1") == site.says("app") == site.says("stopped") == "orders-here", 60)
    engine.docker("stop", "stopped")
    engine.shut_down()
    engine.boot()
    engine.wait_ready()
    site.wait(lambda: site.says("web", "127.0.0.1") == site.says("app") == "orders-here", 60)
    site.wait(lambda: not _unavailable(site))
    assert state(engine, "stopped") == "exited"


def test_the_status_shows_the_command_that_recreates_dependants_of_a_recreated_gateway(
    site: Site, tmp_path: Path
) -> None:
    """The Compose file and the environment file are in other directories than the project."""
    engine, files = site.engine, tmp_path / "files"
    files.mkdir()
    (files / "shop.env").write_text("GREETING=hello\n")
    volumes = [f"{path}:{path}" for path in (site.folder, engine.folder)]
    volumes += [f"{path}:{path}:ro" for path in engine.python()]
    gateway = {
        "image": "host", "container_name": "gateway", "networks": ["far"], "volumes": volumes,
        "environment": {"PYTHONPATH": PYTHON_PATH}, "stop_grace_period": "5s",
        "command": [sys.executable, "-m", "gateway", "run", "-c", str(site.folder / "gateway.yaml")],
    }  # fmt: skip
    web = {
        "image": "busybox", "network_mode": "service:gateway", "restart": "always", "command": ["sleep", "9999"],
        "environment": {"GREETING": "${GREETING}"}, "stop_grace_period": "1s", "volumes": ["./data:/data"],
    }  # fmt: skip
    document = {"services": {"gateway": gateway, "web": web}, "networks": {"far": {"external": True}}}
    (files / "compose.yaml").write_text(json.dumps(document))  # JSON is a subset of YAML
    compose = [
        "docker",
        "compose",
        "-p",
        "shop",
        "--project-directory",
        str(tmp_path),
        "--env-file",
        "files/shop.env",
    ]
    compose += ["-f", "files/compose.yaml", "up", "-d"]

    def call(command: list[str], folder: Path) -> None:
        environment = {"DOCKER_HOST": engine.url, "PATH": "/usr/bin:/bin:/usr/sbin:/sbin"}
        done = subprocess.run(
            command, cwd=folder, env=environment, check=False, timeout=60, capture_output=True, text=True
        )
        assert done.returncode == 0, done.stderr

    def options_of_web() -> tuple[Any, Any]:
        inspected = engine.inspect("shop-web-1")
        return inspected["HostConfig"]["Binds"], sorted(inspected["Config"]["Env"])

    site.write(docker="revive: true")
    call(compose, tmp_path)
    site.wait(lambda: site.says("shop-web-1", "127.0.0.1") == "orders-here")
    before = options_of_web()
    call([*compose, "--no-deps", "--force-recreate", "gateway"], tmp_path)
    site.wait(lambda: "shop-web-1" in _unavailable(site))
    found = _unavailable(site)["shop-web-1"]
    assert (found["state"], found["cause"]) == ("recreate", "namespace")
    assert found["command"].endswith("--force-recreate web")
    call(shlex.split(found["command"]), Path("/"))
    site.wait(lambda: site.says("shop-web-1", "127.0.0.1") == "orders-here")
    site.wait(lambda: not _unavailable(site))
    assert options_of_web() == before


def test_the_dependant_of_a_recreated_gateway_is_listed_without_compose(site: Site) -> None:
    site.start(docker="revive: true")
    site.engine.run("web", "--network", "container:gateway", RESTARTS)
    site.engine.run("debug", "--network", "container:gateway")
    site.engine.run("other")
    site.engine.run("foreign", "--network", "container:other", RESTARTS)
    site.wait(lambda: site.says("web", "127.0.0.1") == "orders-here")
    site.wait(lambda: site.engine.inspect("gateway")["Id"] in (site.folder / "state/docker.json").read_text())
    site.engine.docker("rm", "-f", "gateway", "other")
    site.start(docker="revive: true")
    site.wait(lambda: "web" in _unavailable(site))
    assert set(_unavailable(site)) == {"web", "debug"}
    assert _unavailable(site)["web"]["message"].endswith("with the options that `docker inspect web` shows")


def test_plan_and_audit_show_what_would_be_started(engine: Engine, tmp_path: Path) -> None:
    create_volume(engine)
    run_failing(engine, "web", RESTARTS, "-v", "media:/media")

    def show(*words: str, revive: bool) -> str:
        config = tmp_path / "gateway.yaml"
        config.write_text(
            f"gateway: {{instance: site-a, state_dir: {tmp_path}/state}}\n"
            f"backends: {{media: {{kind: nfs, targets: [nas.invalid], export: /m, listen: '127.0.0.1:{PORT}'}}}}\n"
            f"docker: {{host: '{engine.url}', revive: {str(revive).lower()}}}\n"
        )
        done = command(*words, "-c", str(config))
        assert done.returncode == 0, done.stderr
        return done.stdout

    planned = json.loads(show("plan", "-o", "json", revive=True))
    assert planned["actions"] == [], "without the service, nothing shows whether the backend is up"
    assert [(each["container"], each["state"]) for each in planned["dead_containers"]] == [("web", "waiting")]
    table = show("plan", revive=False)
    assert "nothing to change" in table
    assert re.search(r"^web +off\n +its volume on backend media was not mounted: ", table, re.MULTILINE)
    assert "to do: docker start web" in table
    assert "container web: its volume on backend media was not mounted" in show("audit", revive=False)
    assert state(engine, "web") == "created"
