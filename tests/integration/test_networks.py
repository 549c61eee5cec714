"""Tests whether the gateway's labels on a container change only the container's access to backends.

The tests use two real engines. Docker 26.1 does not support the gateway priority of a network (API 1.48).
Therefore, tests/unit/docker/planning/test_networks.py tests the gateway priority with a simulated engine.
"""

import contextlib
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from tests.support.docker_site import OPT_IN, Site
from tests.support.engines import Engine, need_engine
from tests.support.gateway_process import command
from tests.support.netns import inside, run
from tests.support.swarms import BRIDGE, SPACES, ip, join, two_engines

pytestmark = [pytest.mark.integration, pytest.mark.timeout(240)]

MIDDLE = SPACES[0]
OUTSIDE, NAMED = "10.77.0.254", "outside.test"
"""The address and the DNS name of a web server outside all Docker networks. A DNS server has the same address."""
DNS = ("--dns", OUTSIDE)
PER_PROJECT = "{apps: {per: project}}"


def serve_dns(sock: socket.socket, stop: threading.Event) -> None:
    """Answer each DNS query for an IPv4 address with `OUTSIDE`, and each other query with an empty response."""
    sock.settimeout(0.2)
    while not stop.is_set():
        with contextlib.suppress(TimeoutError):
            asked, client = sock.recvfrom(512)
            end = asked.index(b"\0", 12) + 5
            is_a = asked[end - 4 : end - 2] == b"\0\1"
            answer = b"\xc0\x0c\0\1\0\1\0\0\0\1\0\4" + socket.inet_aton(OUTSIDE) if is_a else b""
            counts = b"\0\1" + (b"\0\1" if is_a else b"\0\0") + b"\0\0\0\0"
            sock.sendto(asked[:2] + b"\x81\x80" + counts + asked[12:end] + answer, client)


@contextlib.contextmanager
def outside(words: Path) -> Iterator[None]:
    """Run a web server and a DNS server, in the network namespace of the bridge that connects the engines."""
    (words / "name").write_text("outside")
    stop = threading.Event()
    with inside(MIDDLE):
        # The DNS socket and the web server stay in this network namespace after the block.
        dns = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        server = subprocess.Popen(["busybox", "httpd", "-f", "-p", "8080", "-h", words], stdin=subprocess.DEVNULL)
    names = threading.Thread(target=serve_dns, args=(dns, stop))
    try:
        dns.bind((OUTSIDE, 53))
        names.start()
        yield
    finally:
        stop.set()
        if names.ident is not None:
            names.join(10)
        dns.close()
        server.kill()
        server.wait(10)


@pytest.fixture(scope="module")
def engines(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Engine, Engine]]:
    """Two engines. Their containers can reach the servers that `outside` runs."""
    need_engine()
    with two_engines(tmp_path_factory.mktemp("engines")) as found:
        ip("-n", MIDDLE, "addr", "add", f"{OUTSIDE}/24", "dev", BRIDGE)
        with outside(tmp_path_factory.mktemp("outside")):
            yield found


@pytest.fixture
def engine(engines: tuple[Engine, Engine]) -> Iterator[Engine]:
    """The first engine; the fixture removes its containers and networks after the test."""
    yield engines[0]
    engines[0].remove_all()


class Networks(Site):
    """A `Site` whose tests configure the section `docker.networks`."""

    networks = PER_PROJECT

    def write(self, docker: str = "", backend: str = "", host: str | None = None) -> None:
        super().write(docker, backend, host)
        path = self.folder / "gateway.yaml"
        path.write_text(path.read_text().replace("networks: {apps: {}}", f"networks: {self.networks}"))

    def begin(self, networks: str = PER_PROJECT, *options: str, backend: str = "", own: str = "far") -> "Networks":
        self.networks = networks
        self.write(backend=backend)
        self.engine.run_gateway("gateway", self.folder, "--network", own, *DNS, *options)
        self.wait(lambda: self.get("/api/v1/status")["docker"]["reachable"])
        return self

    def change(self, networks: str) -> None:
        self.networks = networks
        self.write()
        assert self.client.post("/-/reload")[0] == 200

    def warnings(self) -> list[str]:
        """Return all warnings except the warnings about the gateway's address."""
        return [each for each in self.get("/api/v1/status")["docker"]["warnings"] if "--ip-range" not in each]

    def names(self) -> set[str]:
        return set(self.engine.docker("network", "ls", "--format", "{{.Name}}").stdout.split())


@pytest.fixture
def site(engine: Engine, tmp_path: Path) -> Networks:
    return Networks(engine, tmp_path)


APPS = {
    "shop-web": ("shop", "shop_default", "10.80.1.11"),
    "shop-db": ("shop", "shop_default", "10.80.1.12"),
    "blog-web": ("blog", "blog_default", "10.80.2.11"),
    "sealed": ("vault", "vault_default", "10.80.3.11"),
}
"""For each container, its project, its network and its address on this network."""


def create_networks(engine: Engine) -> None:
    engine.docker(
        "network", "create", "--ipv6", "--subnet", "fd00:80:1::/64", "--subnet", "10.80.1.0/24", "shop_default"
    )
    engine.docker("network", "create", "--subnet", "10.80.2.0/24", "blog_default")
    engine.docker("network", "create", "--internal", "--subnet", "10.80.3.0/24", "vault_default")


def deploy(engine: Engine, *options: str) -> None:
    """Recreate all containers of `APPS` with additional options of `docker run`."""
    engine.docker("rm", "-f", *APPS, check=False)
    for name, (project, network, address) in APPS.items():
        published = ("-p", "18080:8080") if name == "shop-web" else ()
        serve = ("sh", "-c", f"echo {name} >/tmp/name && exec httpd -f -p 8080 -h /tmp")
        engine.run(
            name, "--network", network, "--ip", address, "--label", f"com.docker.compose.project={project}",
            *published, *DNS, *options, command=serve,
        )  # fmt: skip


def addresses(engine: Engine, name: str) -> dict[str, str]:
    """Return the address of a container on each of its networks."""
    networks = engine.inspect(name)["NetworkSettings"]["Networks"]
    return {network: each["IPAddress"] for network, each in networks.items()}


def answers(engine: Engine, container: str, targets: set[str]) -> dict[str, str]:
    """Return the response that a container gets from each address, or an empty string if there is no response."""
    asked = " ".join(sorted(targets))
    # The requests run in parallel, because a request to an unreachable address takes the whole timeout.
    script = f"for a in {asked}; do (echo $a $(timeout 5 wget -q -O - http://$a:8080/name)) & done; wait"
    busybox = ("busybox",) if container == "gateway" else ()
    reported = engine.docker("exec", container, *busybox, "sh", "-c", script, check=False, timeout=60).stdout
    found = dict(line.partition(" ")[::2] for line in reported.splitlines())
    assert found.keys() == targets
    return found


def everywhere(containers: Mapping[str, Engine], targets: set[str]) -> dict[str, dict[str, str]]:
    """Return the responses that each container gets from these addresses."""
    with ThreadPoolExecutor() as pool:
        found = pool.map(lambda each: answers(containers[each], each, targets), containers)
        return dict(zip(containers, found, strict=True))


def routes(engine: Engine, container: str) -> dict[str, set[str]]:
    """Return the default routes and all routes of a container, without details that a restart changes."""
    reported = [
        line.split(" metric")[0].split(" src")[0].strip()
        for family in ("-4", "-6")
        for line in engine.docker("exec", container, "ip", family, "route").stdout.splitlines()
    ]
    kept = {line for line in reported if not line.startswith(("fe80::", "ff00::", "multicast"))}
    return {"default": {line for line in kept if line.startswith("default")}, "all": kept}


class Seen:
    """Records the routes of containers, and the addresses that each container reaches."""

    def __init__(self, engine: Engine, containers: tuple[str, ...] = (*APPS, "gateway")) -> None:
        self.routes = {each: routes(engine, each) for each in containers}
        self.names = {
            (address, each): network for each in APPS for network, address in addresses(engine, each).items()
        }
        targets = {address for address, _ in self.names} | {OUTSIDE, NAMED}
        reported = everywhere(dict.fromkeys(containers, engine), targets)
        owner = {address: (each, self.names[address, each]) for address, each in self.names}
        self.reaches = {
            (each, *owner.get(address, ("outside", address))): word
            for each, found in reported.items()
            for address, word in found.items()
            if owner.get(address, ("", ""))[0] != each
        }
        fetch = "busybox timeout 10 busybox wget -q -O - http://10.77.0.1:18080/name"
        with inside(MIDDLE):
            self.published = run(fetch, check=False).strip()


def test_labeling_a_container_changes_only_its_access_to_the_backend(site: Networks) -> None:
    engine = site.engine
    create_networks(engine)
    deploy(engine)
    site.begin()
    before = Seen(engine)
    # Without the label, apps of the same project reach each other. Each app except `sealed` reaches outside servers.
    assert before.reaches["shop-web", "shop-db", "shop_default"] == "shop-db"
    assert before.reaches["shop-web", "blog-web", "blog_default"] == ""
    for place in (OUTSIDE, NAMED):
        assert {name: before.reaches[name, "outside", place] for name in (*APPS, "gateway")} == {
            "shop-web": "outside", "shop-db": "outside", "blog-web": "outside", "sealed": "", "gateway": "outside",
        }  # fmt: skip
    assert before.published == "shop-web"
    # `sealed` has no default route, `blog` has one (IPv4), and `shop` has two (IPv4 and IPv6)
    assert {len(before.routes[each]["default"]) for each in APPS} == {0, 1, 2}

    deploy(engine, *OPT_IN)
    for name in APPS:
        site.reaches(name)
    after = Seen(engine)
    assert after.published == "shop-web"
    for name in (*APPS, "gateway"):
        assert after.routes[name]["default"] == before.routes[name]["default"], name
        more = after.routes[name]["all"] - before.routes[name]["all"]
        assert before.routes[name]["all"] <= after.routes[name]["all"]
        assert all(line.startswith("10.201.") and "scope link" in line for line in more), more
    for key, word in before.reaches.items():
        assert after.reaches[key] == word, key
    for (who, whom, network), word in after.reaches.items():
        if network.startswith("apps-") and who != "gateway":
            same = APPS[who][0] == APPS[whom][0]
            assert word == (whom if same else ""), (who, whom, network)
    # The gateway is on the network of each project, but does not route between the networks.
    assert set(addresses(engine, "gateway")) == {"far", "apps-shop", "apps-blog", "apps-vault"}
    blog = addresses(engine, "blog-web")["apps-blog"]
    through = addresses(engine, "gateway")["apps-shop"]
    engine.docker("rm", "-f", "shop-web")
    engine.run(
        "shop-web", "--network", "shop_default", "--cap-add", "NET_ADMIN", *OPT_IN,
        "--label", "com.docker.compose.project=shop",
    )  # fmt: skip
    site.reaches("shop-web")
    engine.docker("exec", "shop-web", "ip", "route", "add", blog, "via", through)
    assert answers(engine, "shop-web", {blog}) == {blog: ""}


@pytest.fixture
def skips_iptables(engine: Engine) -> Iterator[None]:
    """Disable iptables for bridged packets during the test, as on a host without br_netfilter."""
    setting = Path("/proc/sys/net/bridge/bridge-nf-call-iptables")
    with inside(engine.namespace):
        before = setting.read_text()
        setting.write_text("0")
    yield
    with inside(engine.namespace):
        setting.write_text(before)


SENDING = "import socket; socket.socket(socket.AF_INET, socket.SOCK_DGRAM).sendto(b'{word}', ('{to}', 9999))"


@pytest.mark.usefixtures("skips_iptables")
@pytest.mark.parametrize("forwards", [True, False])
def test_a_gateway_without_ip_forwarding_routes_nothing(site: Networks, forwards: bool) -> None:
    """With IP forwarding, but without br_netfilter, a container can send through the gateway, but gets no replies."""
    engine = site.engine
    site.begin(PER_PROJECT, "--sysctl", f"net.ipv4.ip_forward={forwards:d}")
    engine.docker("network", "create", "--internal", "inner")
    sleeping = "import time; time.sleep(9999)"
    engine.run_python("shop", sleeping, *OPT_IN, "--network", "inner", "--cap-add", "NET_ADMIN")
    site.wait(lambda: "apps--container-shop" in addresses(engine, "gateway"))
    site.wait(lambda: "apps--container-shop" in addresses(engine, "shop"))
    gateway = addresses(engine, "gateway")["apps--container-shop"]
    engine.docker("exec", "shop", "ip", "route", "add", OUTSIDE, "via", gateway)
    with inside(MIDDLE):
        listening = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    with listening:
        listening.bind((OUTSIDE, 9999))
        listening.settimeout(20)
        for word, container in (("from-shop", "shop"), ("from-gateway", "gateway")):
            program = SENDING.format(word=word, to=OUTSIDE)
            engine.docker("exec", container, sys.executable, "-c", program)
        heard = {listening.recv(100).decode()}
        if forwards:
            heard.add(listening.recv(100).decode())
    assert heard == {"from-gateway", *(["from-shop"] if forwards else [])}


def test_without_isolation_projects_share_the_network_and_nothing_else_changes(site: Networks) -> None:
    engine = site.engine
    create_networks(engine)
    deploy(engine)
    site.begin("{apps: {}}")
    site.wait(lambda: site.attachment("gateway") == ("attached", None))
    before = Seen(engine)
    deploy(engine, *OPT_IN)
    for name in APPS:
        site.reaches(name)
    after = Seen(engine)
    assert after.published == before.published == "shop-web"
    assert {name: each["default"] for name, each in after.routes.items()} == {
        name: each["default"] for name, each in before.routes.items()
    }
    assert {key: after.reaches[key] for key in before.reaches} == before.reaches
    assert after.reaches["shop-web", "blog-web", "apps"] == "blog-web"
    assert site.warnings() == []


def test_a_network_that_is_not_internal_changes_the_default_route(site: Networks) -> None:
    """Docker before version 28 uses the network with the alphabetically first name as the default route."""
    engine = site.engine
    create_networks(engine)
    deploy(engine)
    site.begin("{a-first: {internal: false}}")
    site.wait(lambda: site.attachment("gateway") == ("attached", None))
    before = Seen(engine, tuple(APPS))
    deploy(engine, *OPT_IN)
    for name in APPS:
        site.reaches(name)
    after = Seen(engine, tuple(APPS))
    assert after.reaches["sealed", "outside", OUTSIDE] == "outside"
    assert after.routes["blog-web"]["default"] != before.routes["blog-web"]["default"]
    assert site.warnings() == []  # the configuration permits this default route
    # A network with the alphabetically last name does not change an existing default route.
    site.change("{z-last: {internal: false}}")
    for name in APPS:
        site.wait(lambda name=name: list(addresses(engine, name)).count("a-first") == 0)  # type: ignore[misc]
        site.reaches(name)
    late = Seen(engine, tuple(APPS))
    assert late.routes["blog-web"]["default"] == before.routes["blog-web"]["default"]
    assert late.reaches["sealed", "outside", OUTSIDE] == "outside"


def test_a_network_of_an_earlier_version_is_kept_and_replaced_by_another_name(site: Networks) -> None:
    engine = site.engine
    owned = ("--label", "gateway.managed-by=gateway", "--label", "gateway.instance=site-a")
    engine.docker(
        "network", "create", *owned, "--label", "gateway.spec-hash=f00", "--subnet", "10.201.0.0/22", "apps"
    )
    before = engine.inspect("apps")["Id"]
    site.begin("{apps: {}}")
    engine.run("web", *OPT_IN)
    site.reaches("web")
    site.wait(lambda: len(site.warnings()) == 1)
    (line,) = site.warnings()
    assert line.startswith(
        "network apps: it is not internal: containers reach external networks through it, and it can become"
    )
    assert "internal: false" in line
    assert line in engine.docker("logs", "gateway").stderr
    planned = command("plan", "-c", str(site.folder / "gateway.yaml")).stdout
    assert "it is not internal" in " ".join(planned.split())
    assert (engine.inspect("apps")["Id"], engine.inspect("apps")["Internal"]) == (before, False)
    site.change("{apps: {internal: false}}")
    site.wait(lambda: site.warnings() == [])
    assert engine.inspect("apps")["Id"] == before
    # If the configuration renames the network, the gateway creates a network with the new name, moves the containers
    # to the new network, and removes the old network.
    site.change("{inner: {}}")
    site.wait(lambda: "apps" not in site.names())
    assert engine.inspect("inner")["Internal"] is True
    assert set(addresses(engine, "web")) == {"bridge", "inner"}
    site.reaches("web")
    assert site.warnings() == []


def test_a_gateway_without_a_route_to_the_outside_warns(site: Networks) -> None:
    engine = site.engine
    engine.docker("network", "create", "--internal", "inner")
    site.begin("{apps: {}}", own="inner")
    site.wait(lambda: any("on internal networks only (apps, inner)" in line for line in site.warnings()))
    assert answers(engine, "gateway", {OUTSIDE}) == {OUTSIDE: ""}
    status = command("status", "--admin-socket", str(site.folder / "admin.sock")).stdout
    assert "docker network connect bridge gateway" in " ".join(status.split())
    # After the command that the status recommends, the gateway reaches outside addresses.
    engine.docker("network", "connect", "bridge", "gateway")
    site.wait(lambda: site.warnings() == [])
    assert answers(engine, "gateway", {OUTSIDE}) == {OUTSIDE: "outside"}


def test_project_networks_are_created_and_removed_and_consumers_are_known_on_each(site: Networks) -> None:
    engine = site.engine
    site.begin(backend=", allow: {label: gateway.backends}")
    label = ("--label", "gateway.backends=orders")
    for name, project in (("shop-1", "shop"), ("shop-2", "shop"), ("blog-1", "blog")):
        engine.run(name, *OPT_IN, *label, "--label", f"com.docker.compose.project={project}")
    engine.run("lone", *OPT_IN, *label)
    for name in ("shop-1", "shop-2", "blog-1", "lone"):
        site.reaches(name)
    assert {each for each in site.names() if each.startswith("apps")} == {
        "apps-shop",
        "apps-blog",
        "apps--container-lone",
    }
    reported = site.get("/api/v1/consumers")["consumers"]
    assert {name: each["backends"]["orders"]["total"] > 0 for name, each in reported.items() if each["backends"]} == {
        "shop-1": True, "shop-2": True, "blog-1": True, "lone": True,
    }  # fmt: skip
    # The gateway refuses a container that has no label, although the container is on the project's network.
    engine.run("guest")
    engine.docker("network", "connect", "apps-shop", "guest")
    site.wait(lambda: "guest" in site.get("/api/v1/consumers")["consumers"])
    assert site.says("guest", within=10) == ""
    engine.docker("rm", "-f", "guest")
    # The gateway removes a network when its last container is removed, and changes nothing else.
    engine.docker("rm", "-f", "shop-1")
    engine.docker("restart", "-t", "0", "shop-2")
    site.reaches("shop-2")
    engine.docker("rm", "-f", "shop-2", "lone")
    site.wait(lambda: {each for each in site.names() if each.startswith("apps")} == {"apps-blog"}, timeout=40)
    site.reaches("blog-1")
    # If a Compose file has created a project's network, the gateway joins this network and serves its containers.
    engine.docker("network", "create", "--internal", "--subnet", "10.82.0.0/24", "apps-mail")
    engine.run("mail", "--network", "apps-mail", *label)
    site.reaches("mail")
    shown = command("plan", "-c", str(site.folder / "gateway.yaml")).stdout
    assert "apps-blog" in shown
    assert site.warnings() == []


def test_exhausted_address_ranges_block_and_name_the_setting(site: Networks) -> None:
    site.begin("{apps: {per: project, subnet: 10.202.0.0/24}}")
    site.engine.run("first", *OPT_IN)
    site.reaches("first")
    site.engine.run("second", *OPT_IN)
    site.wait(lambda: site.attachment("second") == ("blocked", "ip_exhausted"))
    status = " ".join(command("status", "--admin-socket", str(site.folder / "admin.sock")).stdout.split())
    assert "every /24 of 10.202.0.0/24 is in use: set docker.networks.apps.subnet to a larger range" in status
    site.change("{apps: {per: project, subnet: 10.202.0.0/23}}")
    site.reaches("second")


@pytest.fixture
def swarm(engines: tuple[Engine, Engine]) -> Iterator[tuple[Engine, Engine]]:
    """Both engines in one swarm; the first engine is the manager."""
    manager, worker = engines
    join(manager, worker)
    yield manager, worker
    for each in (worker, manager):
        each.remove_all()
        each.docker("swarm", "leave", "--force")


def until(condition: Callable[[], bool], timeout: float = 60) -> None:
    deadline = time.monotonic() + timeout
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.2)


def test_internal_overlays_carry_queries_across_nodes_and_keep_stacks_apart(
    swarm: tuple[Engine, Engine], tmp_path: Path
) -> None:
    manager, worker = swarm
    sites = []
    for at, each in enumerate(swarm, 1):
        folder = tmp_path / str(at)
        folder.mkdir()
        site = Networks(each, folder)
        site.networks = "{mesh: {driver: overlay}, apps: {per: project, driver: overlay}}"
        site.write(docker="services: true")
        path = folder / "gateway.yaml"
        path.write_text(path.read_text().replace("instance: site-a", f"instance: node-{at}"))
        each.run_gateway("gateway", folder, "--network", "far")
        site.wait(lambda site=site: site.attachment("gateway") == ("attached", None), timeout=40)  # type: ignore[misc]
        sites.append(site)
    leader, other = sites
    assert manager.inspect("mesh")["Internal"] is True
    # A container on the worker reaches the manager's gateway. The label adds no access to outside addresses.
    worker.docker("network", "create", "--internal", "--subnet", "10.83.0.0/24", "sealed")
    worker.run("app", "--network", "sealed", *OPT_IN, "--label", "gateway.network=mesh")
    other.wait(lambda: worker.attached("app", "mesh"), timeout=30)
    far = addresses(manager, "gateway")["mesh"]
    other.wait(lambda: other.says("app", far) == "orders-here", timeout=60)
    assert routes(worker, "app")["default"] == set()
    assert answers(worker, "app", {OUTSIDE}) == {OUTSIDE: ""}
    # Neither agent reports that the overlay network has a route to outside addresses.
    assert not any("not internal" in line for site in sites for line in site.warnings())
    # Each stack runs on both nodes. `shop` and `blog` have a route to outside addresses; `vault` has none.
    manager.docker("network", "create", "-d", "overlay", "front")
    manager.docker("network", "create", "-d", "overlay", "--internal", "back")
    serve = "echo $(hostname) >/tmp/name && exec httpd -f -p 8080 -h /tmp"
    for stack, network in STACKS.items():
        own = ("--network", network) if network else ()
        manager.docker(
            "service", "create", "--detach", "--name", f"{stack}_web", "--mode", "global", "--endpoint-mode", "dnsrr",
            "--no-resolve-image", "--stop-grace-period", "1s", *own, *DNS,
            "--label", f"com.docker.stack.namespace={stack}", "busybox", "sh", "-c", serve,
        )  # fmt: skip
    places = {(each, stack) for each in swarm for stack in STACKS}
    try:
        until(lambda: all(task(each, stack) for each, stack in places))
        before = from_tasks({(each, stack): task(each, stack) for each, stack in places}, {OUTSIDE, NAMED})
        expected = {"shop": "outside", "blog": "outside", "vault": ""}
        assert before == {(each, stack): {OUTSIDE: expected[stack], NAMED: expected[stack]} for each, stack in places}
        opt_in = ("--label-add", "gateway.enable=true", "--label-add", "gateway.network=apps")
        for stack in STACKS:
            manager.docker("service", "update", "--detach", "--no-resolve-image", *opt_in, f"{stack}_web")
        for site in sites:
            for stack in STACKS:
                site.wait(
                    lambda site=site, stack=stack: (  # type: ignore[misc]
                        site.says(task(site.engine, stack, f"apps--stack-{stack}")) == "orders-here"
                    ),
                    timeout=90,
                )
        tasks = {(each, stack): task(each, stack, f"apps--stack-{stack}") for each, stack in places}
        assert from_tasks(tasks, {OUTSIDE, NAMED}) == before
        # The network of a stack connects its tasks on both nodes, and separates the stack from others.
        places_at = {place: addresses(place[0], name)[f"apps--stack-{place[1]}"] for place, name in tasks.items()}
        for (_, stack), found in from_tasks(tasks, set(places_at.values())).items():
            assert {address for address, word in found.items() if word} == {places_at[node, stack] for node in swarm}
    finally:
        manager.docker("service", "rm", *(f"{stack}_web" for stack in STACKS))
    until(lambda: not any(each.startswith("apps--stack-") for each in leader.names()), timeout=90)


STACKS = {"shop": "", "blog": "front", "vault": "back"}
"""The additional network of each swarm stack. An empty string means that the stack has no additional network."""


def task(engine: Engine, stack: str, network: str | None = None) -> str:
    """Return the container ID of a running task of a stack. If the engine runs no such task, return an empty string.

    Args:
        engine: The engine of the node.
        stack: The stack.
        network: If set, consider only tasks on this network.
    """
    on = ("--filter", f"network={network}") if network else ()
    running = ("--filter", "status=running", "--filter", f"name={stack}_web")
    return next(iter(engine.docker("ps", "-q", *running, *on).stdout.split()), "")


def from_tasks(
    tasks: Mapping[tuple[Engine, str], str], targets: set[str]
) -> dict[tuple[Engine, str], dict[str, str]]:
    """Return the responses that each task gets from these addresses, by node and stack."""
    found = everywhere({name: place[0] for place, name in tasks.items()}, targets)
    return {place: found[name] for place, name in tasks.items()}
