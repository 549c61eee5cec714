"""Tests the alert rules and the dashboards with Prometheus."""

import itertools
import re
import textwrap
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from gateway import backends, tunnels
from gateway.demo.mariadb import MariaDB
from gateway.demo.nfs import NfsServer
from gateway.demo.postgres import Postgres
from gateway.demo.server_process import find, free_port
from gateway.demo.sshd import Bastion
from gateway.metric_types import Histogram
from gateway.ops.kind_specific_metrics import fact_families
from gateway.ops.metrics import families
from gateway.ops.status_views import ServiceView
from tests.support import certificates
from tests.support.clients import connect_unix, is_refused, query_mysql, read_nfs
from tests.support.configs import database_check, ssh_tunnel
from tests.support.files import REPOSITORY
from tests.support.gateway_process import Gateway
from tests.support.prometheus import (
    Prometheus,
    Series,
    dashboard_queries,
    promtool,
    rules,
    run_rule_tests,
    scraped_series,
)
from tests.support.requirements import need

pytestmark = [pytest.mark.integration, pytest.mark.timeout(180)]

WITHOUT_DATA = {
    "backend/Replication lag/0": "needs a replica: test_reasons.py measures the lag of real replicas",
    "consumer/Engine/0": "needs Docker: test_docker.py checks that its metrics have samples",
    "consumer/Attachments by state/0": "needs Docker",
    "consumer/Changes and errors/0": "needs Docker",
    "consumer/Changes and errors/1": "needs Docker, and a failed change",
    "consumer/Unavailable containers/0": "needs Docker",
    "consumer/Containers that the gateway started/0": "needs Docker",
    "consumer/Rejected clients/0": "a consumer of a unix socket has no quota here",
}
"""For each dashboard query that returns no data in this test, the reason."""
HOURS = 5
"""The length of the series that `repeated` returns, in hours."""
BLOCKED = 50
"""The number of backends behind the tunnel that is down."""


def series(metric: str, **labels: str) -> str:
    inner = ",".join(f'{key}="{value}"' for key, value in {"job": "gateway", "instance": "a", **labels}.items())
    return f"{metric}{{{inner}}}"


def one(metric: str, values: str, **labels: str) -> dict[str, str]:
    return {series(metric, **labels): values}


GATEWAY = {**one("up", "1x60"), **one("gateway_build_info", "1x60", version="1")}
GONE = {**one("up", "1x5 0x60"), **one("gateway_build_info", "1x5 stale", version="1")}
ORDERS = {"backend": "orders"}
TARGET = {**ORDERS, "target": "db:3306"}
STATES = ("up", "degraded", "down", "unknown", "blocked", "paused")


def state(name: str, backend: str = "orders") -> dict[str, str]:
    """Return the series of a backend's state: one for each possible state, as the gateway exports them."""
    usable = name in ("up", "degraded")
    states = {
        series("gateway_backend_state", state=each, backend=backend): f"{int(each == name)}x60" for each in STATES
    }
    return {series("gateway_backend_up", backend=backend): f"{int(usable)}x60", **states}


UP, UNCHECKED, PAUSED = state("up"), state("unknown"), state("paused")
BIG = one("gateway_connections_total", "0+100x60", **ORDERS)
FEW = one("gateway_connections_total", "0+0.01x60", **ORDERS)


def latency(slow: int) -> dict[str, str]:
    """Return a histogram with 100 responses per minute, of which `slow` take longer than one second."""
    metric = "gateway_response_latency_seconds"
    return {
        **one(f"{metric}_bucket", f"0+{100 - slow}x60", le="1.0", **ORDERS),
        **one(f"{metric}_bucket", "0+100x60", le="+Inf", **ORDERS),
        **one(f"{metric}_count", "0+100x60", **ORDERS),
    }


def lag(late: int) -> dict[str, str]:
    metric = "gateway_event_loop_lag_seconds_bucket"
    return {**one(metric, f"0+{100 - late}x60", le="0.25"), **one(metric, "0+100x60", le="0.5"),
            **one(metric, "0+100x60", le="+Inf")}  # fmt: skip


def space(available: int) -> dict[str, str]:
    return {**one("gateway_nfs_space_bytes", "1000x60", kind="total", **TARGET),
            **one("gateway_nfs_space_bytes", f"{available}x60", kind="available", **TARGET)}  # fmt: skip


def clients(active: int) -> dict[str, str]:
    return {**one("gateway_connections_active", f"{active}x60", **ORDERS),
            **one("gateway_connections_limit", "100x60", **ORDERS)}  # fmt: skip


def failing(reason: str, per_minute: int = 6) -> dict[str, str]:
    return one("gateway_check_failures_total", f"0+{per_minute}x60", reason=reason, **TARGET)


def rejected(reason: str, per_minute: int = 6) -> dict[str, str]:
    return one("gateway_connections_rejected_total", f"0+{per_minute}x60", reason=reason, **ORDERS)


def docker_errors(values: str) -> dict[str, str]:
    return one("gateway_docker_errors_total", values, action="connect", reason="conflict")


def tunnel(name: str, *, up: int, waiting: int = 0, rtt: float = 0.01) -> dict[str, str]:
    return {
        **one("gateway_tunnel_up", f"{up}x60", tunnel=name),
        **one("gateway_tunnel_state", f"{waiting}x60", tunnel=name, state="waiting"),
        **one("gateway_tunnel_rtt_seconds", f"{rtt}x60", tunnel=name),
    }


def repeated(values: str) -> str:
    """Return the samples of a gauge that repeats `values`: one per minute, for five hours."""
    return " ".join(itertools.islice(itertools.cycle(values.split()), HOURS * 60))


def repeated_counter(steps: str) -> str:
    """Return the samples of a counter that repeats the increments `steps`: one per minute, for five hours."""
    return " ".join(map(str, itertools.accumulate(map(int, repeated(steps).split()))))


SOON, LATER = 13 * 86400 + 40 * 60, 15 * 86400 + 40 * 60
CASES: dict[str, tuple[Series, Series]] = {
    "GatewayGone": (GONE, {**GATEWAY, series("up", instance="b", job="node"): "0x60"}),
    "GatewayMissing": ({'up{job="node",instance="a"}': "1x60"}, GATEWAY),
    "GatewayRestarting": (
        # The gateway restarts every three minutes, and is down at the minute of the evaluation.
        {**one("up", repeated("1 0 1")), **one("gateway_build_info", repeated("1 stale 1"), version="1"),
         **one("process_start_time_seconds", " ".join(f"{number} stale {number + 1}" for number in range(20)))},
        {**one("process_start_time_seconds", "1x27 2x5 3x60"),  # two restarts
         series("process_start_time_seconds", job="node"): "0+1x60"},
    ),
    "GatewayTunnelDown": (
        # The tunnel `edge` is down, and the tunnel `bastion` inside `edge` waits. The backend `orders` is blocked,
        # rejects clients, and has reached its limit.
        {**tunnel("edge", up=0), **tunnel("bastion", up=0, waiting=1),
         series("gateway_way_up", tunnel="edge", backend="other"): "0x60", **state("degraded", "other"),
         **one("gateway_way_up", "0x60", tunnel="edge", **ORDERS), **state("blocked"), **BIG,
         **rejected("tunnel"), **rejected("max_connections"), **clients(100)},
        # The tunnel `edge` was down only briefly, and no backend uses the tunnel `unused`.
        {**one("gateway_tunnel_up", "1x35 0x1 1x60", tunnel="edge"),
         **one("gateway_tunnel_up", "0x60", tunnel="unused"),
         **one("gateway_tunnel_state", "1x60", tunnel="unused", state="idle")},
    ),
    "GatewayTunnelFlapping": (
        # The tunnel `edge` is down every second minute. The tunnel `bastion` inside `edge` then waits. Half of the
        # clients are rejected.
        {**one("gateway_tunnel_up", repeated("1 0"), tunnel="edge"),
         **one("gateway_tunnel_connects_total", repeated_counter("0 1"), tunnel="edge"),
         **one("gateway_tunnel_up", repeated("1 0"), tunnel="bastion"),
         **one("gateway_tunnel_state", repeated("0 1"), tunnel="bastion", state="waiting"),
         **one("gateway_tunnel_connects_total", repeated_counter("0 1"), tunnel="bastion"),
         **one("gateway_backend_up", repeated("1 0"), **ORDERS),
         **one("gateway_backend_state", repeated("0 1"), state="blocked", **ORDERS),
         **one("gateway_backend_state", repeated("1 0"), state="up", **ORDERS), **BIG,
         **one("gateway_connections_rejected_total", repeated_counter("0 100"), reason="tunnel", **ORDERS)},
        # The tunnel `edge`, which has four SSH connections, reconnects once. The tunnel `bastion` reconnects twice in
        # an hour.
        {**one("gateway_tunnel_connects_total", "4x36 8x60", tunnel="edge"),
         **one("gateway_tunnel_connects_total", "1x10 2x30 3x60", tunnel="bastion")},
    ),
    "GatewayTunnelSlow": (tunnel("edge", up=1, rtt=0.7), tunnel("edge", up=1, rtt=0.3)),
    "GatewayBackendDown": (
        {**state("down"), **failing("refused"), **failing("auth"), **rejected("refused", 50),
         **rejected("not_allowed"), **clients(100), **BIG, **tunnel("edge", up=1),
         **one("gateway_way_up", "0x60", tunnel="edge", **ORDERS),
         **one("gateway_database_replication_lag_seconds", "40x60", **TARGET)},
        state("blocked"),
    ),
    "GatewayBackendDegraded": ({**state("degraded"), **failing("refused")}, {**state("up")}),
    "GatewayPathDown": (
        {**UP, **tunnel("edge", up=1), **one("gateway_way_up", "0x60", tunnel="edge", **ORDERS)},
        {**UP, **tunnel("edge", up=1), **one("gateway_way_up", "1x60", tunnel="edge", **ORDERS)},
    ),
    "GatewayHostBlocked": ({**state("down"), **failing("host_blocked")}, {**UP, **failing("timeout", 1)}),
    "GatewayCheckCannotLogIn": ({**state("degraded"), **failing("auth")}, {**UP, **failing("auth", 0)}),
    "GatewayReplicationLag": (
        # The replication has stopped. The backend is degraded, but `check.max_lag` is not set, so no check fails.
        {**state("degraded"), **one("gateway_database_replication_lag_seconds", "40x60", **TARGET)},
        # While the backend `orders` is paused, its lag is the last measured value. The lag of `other` is small.
        {**PAUSED, **one("gateway_database_replication_lag_seconds", "40x60", **TARGET), **state("up", "other"),
         series("gateway_database_replication_lag_seconds", backend="other", target="db:3307"): "20x60"},
    ),
    "GatewayNfsSpaceLow": (space(99), space(101)),
    "GatewayBackendAvailabilityBurn": (
        {**UNCHECKED, **BIG, **rejected("timeout", 2)},
        # A tunnel causes the failures of `orders`, and `idle` has too few clients for an alert.
        {**UP, **BIG, **rejected("tunnel", 90), series("gateway_connections_total", backend="idle"): "0+0.02x60",
         series("gateway_connections_rejected_total", backend="idle", reason="timeout"): "0+0.01x60"},
    ),
    "GatewayBackendLatencyBurn": (
        {**UP, **latency(20), **one("gateway_way_up", "1x60", tunnel="edge", **ORDERS),
         **tunnel("edge", up=1)},
        {**UP, **latency(2)},
    ),
    "GatewayClientsRejected": (
        {**UNCHECKED, series("gateway_connections_rejected_total", reason="not_allowed", **ORDERS): "_x35 1x60"},
        {**UP, **rejected("not_allowed", 0), **rejected("tunnel", 50)},
    ),
    "GatewayConnectionsNearLimit": ({**UNCHECKED, **clients(81)}, {**UP, **clients(79)}),
    "GatewayCredentialExpiresSoon": (
        one("gateway_credential_expiry_timestamp_seconds", f"{SOON}x60", kind="tls", name="orders"),
        {**one("gateway_credential_expiry_timestamp_seconds", f"{LATER}x60", kind="tls", name="orders"),
         **one("gateway_credential_expiry_timestamp_seconds", f"{SOON}x60", kind="ssh_certificate", name="edge")},
    ),
    "GatewayCredentialExpired": (
        one("gateway_credential_expiry_timestamp_seconds", "60x60", kind="tls", name="ops"),
        one("gateway_credential_expiry_timestamp_seconds", f"{LATER}x60", kind="tls", name="ops"),
    ),
    "GatewayLoopLag": (lag(5), lag(0)),
    "GatewayDescriptorsLow": (
        {**one("process_open_fds", "90x60"), **one("process_max_fds", "100x60")},
        {**one("process_open_fds", "50x60"), **one("process_max_fds", "100x60"),
         series("process_open_fds", job="node"): "9x60", series("process_max_fds", job="node"): "10x60"},
    ),
    "GatewayReloadFailed": (
        one("gateway_config_last_reload_successful", "0x60"),
        one("gateway_config_last_reload_successful", "1x60"),
    ),
    "GatewayAuditIncomplete": (
        one("gateway_audit_dropped_total", "0x35 5x60"), one("gateway_audit_dropped_total", "5x60"),
    ),
    "GatewayDockerDown": (
        {**one("gateway_docker_up", "0x60"), **docker_errors("0+1x60")},
        one("gateway_docker_up", "1x35 0x2 1x60"),
    ),
    "GatewayDockerErrors": (
        {**one("gateway_docker_up", "1x60"), **docker_errors("_x35 1x60")},
        {**one("gateway_docker_up", "1x60"), **docker_errors("1x60")},
    ),
    "GatewayContainersDead": (
        {**one("gateway_containers_dead", "2x60", reason="volume"),
         **one("gateway_containers_dead", "0x60", reason="network")},
        one("gateway_containers_dead", "0x60", reason="volume"),
    ),
}  # fmt: skip
"""For each alert, two sets of series. With the first set, only this alert fires. With the second, no alert fires."""


def repeated_failures() -> dict[str, tuple[Series, dict[int, list[str]]]]:
    """Return test cases by name: the series, and the alerts that must fire at given minutes."""
    present = {**GATEWAY, **one("up", f"1x{HOURS * 60}"), **one("gateway_build_info", f"1x{HOURS * 60}", version="1")}
    clients = one("gateway_connections_total", f"0+100x{HOURS * 60}", **ORDERS)
    # The backend is down during one of every six minutes, and 30 % of the clients fail.
    restarts = {
        **one("gateway_backend_up", repeated("1 1 1 1 1 0"), **ORDERS),
        **one("gateway_backend_state", repeated("0 0 0 0 0 1"), state="down", **ORDERS),
        **one("gateway_backend_state", repeated("1 1 1 1 1 0"), state="up", **ORDERS),
        **one(
            "gateway_connections_rejected_total", repeated_counter("16 16 16 16 16 100"), reason="refused", **ORDERS
        ),
    }
    # The backend is down for twenty minutes, during which all clients fail. Afterwards, the backend works again.
    outage = {
        **one("gateway_backend_up", f"1x39 0x19 1x{HOURS * 60}", **ORDERS),
        **one("gateway_backend_state", f"0x39 1x19 0x{HOURS * 60}", state="down", **ORDERS),
        **one("gateway_backend_state", f"1x39 0x19 1x{HOURS * 60}", state="up", **ORDERS),
        **one("gateway_connections_rejected_total", f"0x40 100+100x18 2000x{HOURS * 60}", reason="refused", **ORDERS),
    }
    burn, down, flaps = ["GatewayBackendAvailabilityBurn"], ["GatewayBackendDown"], ["GatewayTunnelFlapping"]
    flapping = CASES["GatewayTunnelFlapping"][0]
    # The check fails because of `check.max_lag`, although the metric of the lag is missing.
    late = {**failing("lag"), **state("degraded")}
    return {
        "lag above max_lag": ({**GATEWAY, **late}, {40: ["GatewayReplicationLag"]}),
        "restarts": ({**present, **clients, **restarts}, dict.fromkeys((60, 121, 182, 243, 295), burn)),
        "outage": (
            {**present, **clients, **outage},
            {minute: down if minute < 60 else [] for minute in (45, 59, 62, 75, 89, 95, 200)},
        ),
        "flaps": ({**present, **flapping}, dict.fromkeys((30, 151, 290), flaps)),
    }


@dataclass
class MonitoredSite:
    gateway: Gateway
    prometheus: Prometheus


@pytest.fixture(scope="module")
def monitored(
    tmp_path_factory: pytest.TempPathFactory,
    shared_bastion: Bastion,
    shared_mariadb: MariaDB,
    shared_postgres: Postgres,
    shared_nfs: NfsServer,
) -> Iterator[MonitoredSite]:
    """A gateway with backends of several kinds, and a Prometheus that scrapes the gateway."""
    need(find("prometheus") is not None, "prometheus (package prometheus)")
    folder = tmp_path_factory.mktemp("monitored")
    gateway = Gateway(folder)
    ports = {name: free_port() for name in ("orders", "media", "closed", "private", "unused")}
    issued = certificates.issue(folder / "certificates")
    sock = folder / "reports.sock"
    times = "interval: 500ms, fast_interval: 500ms, down_interval: 500ms"
    gateway.write(f"""
        fleet: {{members: ["127.0.0.1:{gateway.ops_port}"], interval: 1s, tls: {{ca_file: {issued.ca}}}}}
        tunnels:
          bastion: {ssh_tunnel(shared_bastion)}
          dead: {{kind: ssh, host: 127.0.0.1, port: {ports["unused"]}, user: x, agent: {folder}/agent,
                  known_hosts: [{shared_bastion.known_hosts}]}}
        backends:
          orders:
            kind: mysql
            via: bastion
            targets: ["127.0.0.1:{shared_mariadb.port}"]
            listen: 127.0.0.1:{ports["orders"]}
            check: {database_check(shared_mariadb, folder, times)}
          reports:
            kind: postgres
            via: bastion
            targets: ["127.0.0.1:{shared_postgres.port}"]
            listen: [{{unix: {sock}, consumer: billing}}]
            check: {database_check(shared_postgres, folder, times)}
          media:
            kind: nfs
            via: bastion
            targets: ["127.0.0.1:{shared_nfs.port}"]
            export: /media
            listen: 127.0.0.1:{ports["media"]}
            allow_unprivileged_ports: true
            check: {{{times}}}
          closed:
            kind: tcp
            via: bastion
            targets: ["127.0.0.1:{ports["unused"]}"]
            listen: 127.0.0.1:{ports["closed"]}
            hold: 0s
            check: {{{times}}}
          private:
            kind: tcp
            targets: ["127.0.0.1:{ports["unused"]}"]
            listen: 127.0.0.1:{ports["private"]}
            allow: [192.0.2.0/24]
    """)
    prometheus = Prometheus(folder, gateway.ops_port)
    try:
        gateway.start()
        gateway.wait_up("orders", "reports", "media")
        prometheus.start()
        yield MonitoredSite(gateway, prometheus)
    finally:
        prometheus.stop()
        gateway.stop()


def exported() -> set[str]:
    """Return the names of all metrics that a gateway can export, with every kind of backend and tunnel."""
    facts = [fact for kinds in (backends.KINDS, tunnels.KINDS) for kind in kinds.values() for fact in kind.facts]
    view = ServiceView("", "", "", 0.0, False, False, True, 0.0, "", [], [], Histogram())
    return {each.name for each in (*families(view), *fact_families(facts).values())}


def test_promtool_accepts_rules_queries_and_the_example(tmp_path: Path) -> None:
    need(find("promtool") is not None, "promtool (package prometheus)")
    folder = REPOSITORY / "configs" / "prometheus"
    assert promtool("check", "config", str(folder / "prometheus.yaml")) == ""
    queries = "\n".join(
        f"  - {{record: 'panel:{number}:x', expr: {query!r}}}"
        for number, query in enumerate(dashboard_queries().values())
    )
    path = tmp_path / "dashboards.yaml"
    path.write_text(f"groups:\n- name: dashboards\n  rules:\n{queries}\n")
    assert promtool("check", "rules", "--lint=all", "--lint-fatal", str(path), *map(str, [
        folder / "recording.yaml", folder / "alerts.yaml"])) == ""  # fmt: skip
    used = " ".join([*dashboard_queries().values(), *(rule["expr"] for rule in rules())])
    names = exported()
    for name in set(re.findall(r"(?<![:\w])gateway_\w+", used)):
        assert re.sub(r"_(total|bucket|sum|count)$", "", name) in names, name


def test_each_alert_has_a_runbook_and_a_description() -> None:
    alerts = {rule["alert"]: rule for rule in rules() if "alert" in rule}
    pages = {path.stem for path in (REPOSITORY / "docs" / "runbooks").glob("*.md")}
    assert pages == alerts.keys()
    overview = (REPOSITORY / "docs" / "monitoring.md").read_text()
    for name, rule in alerts.items():
        assert rule["annotations"].keys() == {"summary", "description", "runbook_url"}
        assert rule["annotations"]["runbook_url"].endswith(f"/{name}.md")
        assert f"[{name}](runbooks/{name}.md) | {rule['labels']['severity']} |" in overview


def test_the_chart_has_the_same_rules_and_dashboards() -> None:
    """The chart contains copies of the rules and dashboards, because Helm can read only files inside the chart."""
    for own, folder in (("prometheus", "rules"), ("grafana", "dashboards")):
        copies = {path.name: path.read_text() for path in (REPOSITORY / "charts/gateway" / folder).iterdir()}
        files = {path.name: path.read_text() for path in (REPOSITORY / "configs" / own).iterdir()}
        files.pop("prometheus.yaml", None)
        assert files == copies


def test_each_alert_fires_alone_and_stays_quiet(tmp_path: Path) -> None:
    need(find("promtool") is not None, "promtool (package prometheus)")
    assert CASES.keys() == {rule["alert"] for rule in rules() if "alert" in rule}
    tests: dict[str, tuple[Series, dict[int, list[str]]]] = {}
    for alert, (firing, quiet) in CASES.items():
        present = {} if alert in ("GatewayGone", "GatewayMissing") else GATEWAY
        tests[f"{alert} fires"] = ({**present, **firing}, {40: [alert]})
        tests[f"{alert} does not fire"] = ({**GATEWAY, **quiet}, {40: []})
    tests |= repeated_failures()
    assert run_rule_tests(tmp_path, tests) == ""


def test_fifty_backends_behind_a_dead_tunnel_raise_one_alert(gateway: Gateway, tmp_path: Path) -> None:
    need(find("promtool") is not None, "promtool (package prometheus)")
    port = free_port()
    gateway.write(
        textwrap.dedent(f"""
            tunnels:
              edge: {{kind: proxy, url: "socks5://127.0.0.1:{free_port()}"}}
              inner: {{kind: proxy, via: edge, url: "socks5://127.0.0.1:{free_port()}"}}
            backends:
              held: {{kind: tcp, via: edge, targets: ["127.0.0.1:9"], listen: "127.0.0.1:{port}", hold: 0s}}
        """)
        + "".join(
            f"  b{number}: {{kind: tcp, via: {'edge' if number % 2 else 'inner'}, targets: ['127.0.0.1:9']}}\n"
            for number in range(BLOCKED - 1)
        )
    )
    gateway.start()
    gateway.wait(lambda: {each["state"] for each in gateway.status()["backends"].values()} == {"blocked"})
    assert is_refused(port)
    code, metrics = gateway.http.get("/metrics")
    assert code == 200
    found = {**GATEWAY, **scraped_series(metrics, 60)}
    assert len([each for each in found if each.startswith("gateway_backend_up{")]) == BLOCKED
    assert run_rule_tests(tmp_path, {"dead tunnel": (found, {30: ["GatewayTunnelDown"]})}) == ""


def test_every_dashboard_query_returns_data(
    monitored: MonitoredSite, shared_mariadb: MariaDB, shared_postgres: Postgres
) -> None:
    gateway, prometheus = monitored.gateway, monitored.prometheus
    listen = {name: each["listen"][0] for name, each in gateway.status()["backends"].items()}

    def use() -> None:
        """Cause client traffic, a rejected client, and a failed connection to a target."""
        query_mysql(shared_mariadb, int(listen["orders"].rpartition(":")[2]))
        assert is_refused(int(listen["private"].rpartition(":")[2]))
        assert is_refused(int(listen["closed"].rpartition(":")[2]))
        with connect_unix(Path(listen["reports"])) as sock:
            sock.sendall(b"\x00\x00\x00\x08\x04\xd2\x16\x2f")  # an SSLRequest
            assert sock.recv(1) in (b"S", b"N")

    read_nfs(int(listen["media"].rpartition(":")[2]))
    queries = dashboard_queries()
    assert WITHOUT_DATA.keys() <= queries.keys()
    wanted = {name: query for name, query in queries.items() if name not in WITHOUT_DATA}
    assert list(prometheus.empty(wanted, use, within=60)) == []

    def targets() -> set[tuple[str, str]]:
        return {(each["labels"]["job"], each["health"]) for each in prometheus.api("targets")["activeTargets"]}

    # A scrape that takes longer than a second fails, and the target is down until the next scrape.
    gateway.wait(lambda: targets() == {("gateway", "up"), ("gateway-fleet", "up")})
