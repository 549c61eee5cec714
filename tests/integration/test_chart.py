"""Tests the Helm chart with Helm 3 and 4: lint, golden files, Kubernetes schemas, pod security, configuration."""

import functools
import json
import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import kubernetes_validate  # type: ignore[import-untyped]
import pytest
import yaml

from gateway import backends
from gateway.config import ConfigSources, load
from gateway.demo.server_process import find
from tests.support.gateway_process import command
from tests.support.helm import CHART, VPN_CAPABILITIES, helm
from tests.support.prometheus import promtool
from tests.support.requirements import need

pytestmark = [pytest.mark.integration, pytest.mark.timeout(180)]

CASES = sorted(path.name.removesuffix("-values.yaml") for path in (CHART / "ci").glob("*-values.yaml"))
GOLDEN = Path(__file__).parent / "golden"
KUBERNETES = [f"1.{minor}" for minor in range(29, 38)]


def render(binary: Path, case: str, *more: str) -> str:
    done = helm(binary, "template", "site", str(CHART), "-n", "shop", "-f", f"{CHART}/ci/{case}-values.yaml", *more)
    assert done.returncode == 0, done.stderr
    return re.sub(r" +$", "", done.stdout, flags=re.MULTILINE)


@functools.cache
def objects(text: str) -> list[dict[str, Any]]:
    return [each for each in yaml.safe_load_all(text) if each]


def pods(text: str) -> Iterator[tuple[str, dict[str, Any]]]:
    for each in objects(text):
        if each["kind"] in ("Deployment", "DaemonSet"):
            yield each["kind"], each["spec"]["template"]["spec"]
        elif each["kind"] == "Pod":
            yield "Pod", each["spec"]


@pytest.mark.parametrize("case", CASES)
def test_both_helm_versions_lint_and_render_the_same(helms: dict[str, Path], case: str) -> None:
    for binary in helms.values():
        done = helm(binary, "lint", "--strict", str(CHART), "-f", f"{CHART}/ci/{case}-values.yaml")
        assert done.returncode == 0, done.stdout + done.stderr
    three, four = (render(binary, case) for binary in helms.values())
    assert three == four
    golden = GOLDEN / f"{case}.yaml"
    if os.environ.get("UPDATE_GOLDEN"):
        golden.parent.mkdir(exist_ok=True)
        golden.write_text(three)
    assert golden.read_text() == three, "UPDATE_GOLDEN=1 pytest tests/integration/test_chart.py rewrites the file"


@pytest.mark.parametrize("version", KUBERNETES)
def test_every_object_matches_the_schemas_of_kubernetes(version: str, monkeypatch: pytest.MonkeyPatch) -> None:
    # Without a cache, the library parses a file of 1 MB for each object.
    schemas = functools.cache(kubernetes_validate.utils.schema_contents)
    monkeypatch.setattr(kubernetes_validate.utils, "schema_contents", schemas)
    seen = 0
    for case in CASES:
        for each in objects((GOLDEN / f"{case}.yaml").read_text()):
            if each["apiVersion"].startswith("monitoring.coreos.com"):
                continue  # the schemas do not contain the objects of the Prometheus operator
            kubernetes_validate.validate(each, version, strict=True)
            seen += 1
    assert seen > 30


@pytest.mark.parametrize("case", CASES)
def test_pods_meet_the_restricted_profile(case: str) -> None:
    """Check pods against the restricted profile of Kubernetes, with exceptions for DaemonSets and VPNs.

    See https://kubernetes.io/docs/concepts/security/pod-security-standards/.
    """
    for kind, pod in pods((GOLDEN / f"{case}.yaml").read_text()):
        vpn = case == "vpn" and kind == "Deployment"
        assert not pod.get("hostNetwork") or kind == "DaemonSet"
        assert not pod.get("hostPID")
        assert not pod.get("hostIPC")
        kinds = {key for volume in pod.get("volumes", []) for key in volume if key != "name"}
        assert kinds <= {"configMap", "emptyDir", "secret"} | ({"hostPath"} if vpn else set())
        assert pod["securityContext"]["seccompProfile"]["type"] == "RuntimeDefault"
        assert pod["automountServiceAccountToken"] is False
        for container in pod["containers"] + pod.get("initContainers", []):
            context = container["securityContext"]
            assert context["allowPrivilegeEscalation"] is False
            assert context["readOnlyRootFilesystem"] is True
            assert context["capabilities"]["drop"] == ["ALL"]
            assert context["capabilities"].get("add", []) == (VPN_CAPABILITIES if vpn else [])
            assert vpn or context.get("runAsNonRoot", pod["securityContext"].get("runAsNonRoot")) is True
            assert "resources" in container


@pytest.mark.parametrize("case", [case for case in CASES if case != "existing"])
def test_the_gateway_reads_the_configuration_that_is_rendered(tmp_path: Path, case: str) -> None:
    found = [
        each for each in objects((GOLDEN / f"{case}.yaml").read_text()) if "gateway.yaml" in each.get("data", {})
    ]
    path = tmp_path / "gateway.yaml"
    path.write_text(found[0]["data"]["gateway.yaml"])
    config = load(ConfigSources(file=path, environment={}))
    wanted = yaml.safe_load((CHART / "ci" / f"{case}-values.yaml").read_text())["config"]
    assert config.backends.keys() == wanted["backends"].keys()
    services = {each["metadata"]["name"] for each in objects((GOLDEN / f"{case}.yaml").read_text())
                if each["kind"] == "Service"}  # fmt: skip
    if case not in ("sidecar", "daemonset"):
        reached = {name.replace("_", "-") for name, spec in config.backends.items() if spec.listen}
        assert services - {"extra"} == {*reached, *(name for name in services if name.endswith("-ops"))}


def test_every_key_is_documented_and_used_by_some_values() -> None:
    used: set[str] = set()
    for case in CASES:
        used |= set(keys(yaml.safe_load((CHART / "ci" / f"{case}-values.yaml").read_text())))
    schema = json.loads((CHART / "values.schema.json").read_text())
    wanted = set(schema_keys(schema)) - {"global", "enabled"}
    assert wanted - used == set()
    reported = set(re.findall(r"^\| `([\w.]+)`", (CHART / "README.md").read_text(), re.MULTILINE))
    assert wanted - reported == set()


FINE = {
    "nulls": [
        "--set-json", 'config.backends.orders={"kind":"tcp","targets":["a:1"],"listen":"0.0.0.0:1","check":null}',
        "--set-json", "config.ops=null", "--set-json", "podLabels=null",
    ],
    "a password in a variable": ["--set-json", 'config.backends.orders.check={"user":"u","password":"${PW}"}'],
    "loopback beside": ["--set-json", 'config.backends.orders.listen=["0.0.0.0:3306","127.0.0.1:13306"]'],
    "one port, two addresses": [
        "--set", "mode=daemonset", "--set", "config.backends.orders.listen=127.0.0.1:3306",
        "--set", "config.backends.reports.listen=127.0.0.2:3306",
    ],
    "an alias": ["--set", "existingConfigMap=x", "--set-json", 'services={"orders":3306,"orders-rw":3306}'],
    "switched on by a parent": ["--set", "enabled=true"],
    "an audit log": ["--set", "config.audit.log=stdout"],
    "an audit log in a file": ["--set", "config.audit.log=/var/lib/gateway/audit.jsonl"],
    "an audit log on a volume": [
        "--set", "config.audit.log=/audit/a.jsonl",
        "--set-json", 'extraVolumeMounts=[{"name":"a","mountPath":"/audit"}]',
    ],
    "alerts without a monitor": ["--set", "prometheusRule.enabled=true"],
}  # fmt: skip


@pytest.mark.parametrize("case", FINE)
def test_valid_values_are_accepted(helms: dict[str, Path], case: str) -> None:
    for binary in helms.values():
        text = render(binary, "deployment", *FINE[case])
        assert "absent(" not in text
        for each in objects(text):
            if not each["apiVersion"].startswith("monitoring"):
                kubernetes_validate.validate(each, "1.34", strict=True)


REQUIRED = {"nfs": {"export": "/x"}, "smb": {"share": "x"}}
"""For some backend kinds, the keys that the configuration requires in addition to `targets`."""


@pytest.mark.parametrize(
    "kind", [kind for kind in backends.KINDS.values() if kind.default_port], ids=lambda kind: kind.name
)
def test_the_network_policy_permits_the_default_port_of_each_kind(
    helms: dict[str, Path], kind: backends.BackendKind
) -> None:
    backend = {"kind": kind.name, "targets": ["10.1.2.3"], "listen": "0.0.0.0:1", **REQUIRED.get(kind.name, {})}
    policy = ["--set", "networkPolicy.enabled=true,networkPolicy.restrictEgress=true"]
    for binary in helms.values():
        text = render(binary, "deployment", *policy, "--set-json", f"config.backends.added={json.dumps(backend)}")
        rules = next(each["spec"]["egress"] for each in objects(text) if each["kind"] == "NetworkPolicy")
        (rule,) = [rule for rule in rules if rule.get("to") == [{"ipBlock": {"cidr": "10.1.2.3/32"}}]]
        assert rule["ports"] == [{"port": kind.default_port, "protocol": "TCP"}]


def test_the_network_policy_permits_the_port_of_checks_over_http(helms: dict[str, Path]) -> None:
    check = {"via_http": {"port": 8008}}
    backend = {"kind": "postgres", "targets": ["10.1.2.3:5433"], "listen": "0.0.0.0:1", "check": check}
    policy = ["--set", "networkPolicy.enabled=true,networkPolicy.restrictEgress=true"]
    for binary in helms.values():
        text = render(binary, "deployment", *policy, "--set-json", f"config.backends.added={json.dumps(backend)}")
        rules = next(each["spec"]["egress"] for each in objects(text) if each["kind"] == "NetworkPolicy")
        (rule,) = [rule for rule in rules if rule.get("to") == [{"ipBlock": {"cidr": "10.1.2.3/32"}}]]
        assert [each["port"] for each in rule["ports"]] == [5433, 8008]


@pytest.mark.parametrize(
    "options",
    [
        {"kind": "command", "mode": "stdio", "command": ["/opt/connect", "{host}", "{port}"]},
        {"kind": "ssh", "host": "203.0.113.9", "user": "u", "proxy_command": ["/opt/connect", "{host}"]},
    ],
    ids=["command", "proxy_command"],
)
def test_the_network_policy_permits_the_networks_of_a_program_s_servers(
    helms: dict[str, Path], options: dict[str, Any]
) -> None:
    tunnel = f"config.tunnels.cloud={json.dumps(options)}"
    arguments = ("--set", "networkPolicy.enabled=true,networkPolicy.restrictEgress=true", "--set-json", tunnel)
    for binary in helms.values():
        done = helm(binary, "template", "site", str(CHART), "-f", f"{CHART}/ci/deployment-values.yaml", *arguments)
        assert "networkPolicy.cidrs.cloud: the chart cannot read" in done.stderr
        text = render(binary, "deployment", *arguments, "--set-json", 'networkPolicy.cidrs.cloud=["192.0.2.0/24"]')
        rules = next(each["spec"]["egress"] for each in objects(text) if each["kind"] == "NetworkPolicy")
        assert {"to": [{"ipBlock": {"cidr": "192.0.2.0/24"}}]} in rules


def test_a_release_without_a_backend_is_refused(helms: dict[str, Path]) -> None:
    for binary in helms.values():
        done = helm(binary, "template", "site", str(CHART))
        assert done.returncode != 0
        assert "add at least one backend" in done.stderr


def keys(values: dict[str, Any], above: str = "") -> Iterator[str]:
    for key, value in values.items():
        yield above + key
        if isinstance(value, dict):
            yield from keys(value, f"{above}{key}.")


def schema_keys(schema: dict[str, Any], above: str = "") -> Iterator[str]:
    for key, inner in schema.get("properties", {}).items():
        if inner.get("additionalProperties") is False:
            yield from schema_keys(inner, f"{above}{key}.")
        else:
            yield above + key


WRONG = {
    "grace": (["--set", "shutdown.drain=60s"], "does not fit into terminationGracePeriodSeconds"),
    "duration": (["--set", "shutdown.drain=soon"], "shutdown"),
    "unknown key": (["--set", "replicaCount=2"], "replicaCount"),
    "loopback": (["--set", "config.backends.orders.listen=127.0.0.1:3306"], "use 0.0.0.0"),
    "unix socket": (["--set", "config.backends.orders.listen=/run/x.sock"], "a Service needs a port"),
    "a password": (["--set", "config.backends.orders.check.password=hunter2"], "a ConfigMap, which is not secret"),
    "one Service twice": (
        ["--set-json", 'config.backends.Orders={"kind":"tcp","targets":["a:1"],"listen":"0.0.0.0:1"}'],
        "would have the same Service",
    ),
    "no name of a Service": (
        ["--set-json", 'config.backends.1st={"kind":"tcp","targets":["a:1"],"listen":"0.0.0.0:1"}'],
        "is not a valid name of a Service",
    ),
    "vpn without its right": (
        ["--set-json", 'config.tunnels.office={"kind":"openvpn","config":"/c","isolation":"device"}'],
        "needs vpn.enabled",
    ),
    "vpn in a namespace": (
        [
            "--set",
            "vpn.enabled=true,replicas=1",
            "--set-json",
            'config.tunnels.office={"kind":"openvpn","config":"/c"}',
        ],
        "isolation: device",
    ),
    "policy without a port": (
        [
            "--set",
            "networkPolicy.restrictEgress=true",
            "--set-json",
            'config.backends.raw={"kind":"tcp","targets":["${T}"],"listen":"0.0.0.0:1"}',
        ],
        "the chart finds no port",
    ),
    "policy of an unknown configuration": (
        ["--set", "networkPolicy.restrictEgress=true,existingConfigMap=x"],
        "networkPolicy.egress",
    ),
    "a label of ours": (
        ["--set-json", 'podLabels={"app.kubernetes.io/name":"mine"}'],
        "the chart sets app.kubernetes.io/name itself",
    ),
    "secrets in the ConfigMap's mount": (
        ["--set-json", 'secrets=[{"name":"s","mountPath":"/etc/gateway/ssh"}]'],
        "use /run/secrets",
    ),
    "an address that ops sets": (["--set", "config.ops.listen=0.0.0.0:1"], "listen"),
    "a policy for outside where there is none": (
        ["--set", "service.externalTrafficPolicy=Local"],
        "only for the service types NodePort and LoadBalancer",
    ),
    "vpn on every node": (["--set", "mode=daemonset,vpn.enabled=true"], "vpn.enabled needs mode deployment"),
    "vpn twice": (["--set", "vpn.enabled=true,replicas=2"], "would disconnect each other"),
    "a password in a URL": (
        ["--set-json", 'config.tunnels.e={"kind":"proxy","url":"http://me:hunter2@proxy:3128"}'],
        "its password would be stored",
    ),
    "a password further in": (
        ["--set-json", 'config.backends.orders.check={"password":"hunter2"}'],
        "a ConfigMap, which is not secret",
    ),
    "a key that the kind does not have": (["--set", "config.backends.orders.exprot=/x"], "exprot"),
    "a key that is missing": (
        ["--set-json", 'config.backends.n={"kind":"nfs","targets":["a"],"listen":"0.0.0.0:1"}'],
        "export",
    ),
    "no such tunnel": (["--set", "config.backends.orders.via=bastoin"], 'tunnel "bastoin" does not exist'),
    "no such tunnel of a target": (
        [
            "--set-json",
            'config.backends.orders={"kind": "mysql", "targets": ["a", {"address": "b", "via": ["edge"]}]}',
        ],
        'config.backends.orders.via: tunnel "edge" does not exist',
    ),
    "one port twice": (["--set", "config.backends.reports.listen=0.0.0.0:3306"], "0.0.0.0:3306 is already used by"),
    "a password that looks like a variable": (
        ["--set-json", 'config.backends.orders.check={"password":"$2a$10$abc"}'],
        "a ConfigMap, which is not secret",
    ),
    "the port of ops": (["--set", "config.backends.reports.listen=0.0.0.0:9090"], "already used by ops.port"),
    "an audit log that the pod cannot write": (
        ["--set", "config.audit.log=/var/log/gateway/a"],
        "config.audit.log: the pod cannot write",
    ),
    "no port": (["--set", "config.backends.reports.listen=0.0.0.0:99999"], "no port between 1 and 65535"),
    "one mount twice": (
        ["--set-json", 'secrets=[{"name":"a","mountPath":"/s"},{"name":"b","mountPath":"/s"}]'],
        "/s is already used as a mount path",
    ),
    "no name for a Service": (["--set", "fullnameOverride=My_App"], "set fullnameOverride"),
    "networks of an unknown name": (
        ["--set-json", 'networkPolicy.cidrs={"unknown":["10.0.0.0/8"]}'],
        "no tunnel or backend has this name",
    ),
    "metrics that Prometheus cannot reach": (["--set", "serviceMonitor.enabled=true"], "add Prometheus"),
    "the port of probes": (["--set", "config.backends.reports.listen=0.0.0.0:9091"], "already used by ops.probePort"),
    "one port for ops and probes": (["--set", "ops.probePort=9090"], "choose another"),
    "a token that the Secret has": (["--set", "config.ops.token_file=/t"], "token_file"),
    "a Service of a backend's name": (
        ["--set", "services.orders=7000"],
        "services.orders: the backend with this name",
    ),
    "a wildcard over an address": (
        [
            "--set",
            "mode=daemonset,config.backends.orders.listen=127.0.0.2:3306",
            "--set-json",
            'config.backends.zz={"kind":"tcp","targets":["a:1"],"listen":"0.0.0.0:3306"}',
        ],
        "0.0.0.0:3306 is already used by config.backends.orders",
    ),
    "a low port of the node": (
        ["--set", "mode=daemonset,config.backends.orders.listen=127.0.0.1:445"],
        "can only use ports from 1024 on",
    ),
    "a low port of the node for ops": (
        ["--set", "mode=daemonset,ops.port=90"],
        "ops.port: a pod in the node's network",
    ),
    "probes on loopback": (["--set", "ops.address=127.0.0.1"], "the kubelet cannot reach"),
    "a state folder": (["--set", "config.gateway.state_dir=/data"], "remove this key"),
    "vpn beside an app": (["--set", "mode=sidecar,vpn.enabled=true"], "vpn.enabled needs mode deployment"),
}


@pytest.mark.parametrize("case", WRONG)
def test_wrong_values_are_refused_with_a_reason(helms: dict[str, Path], case: str) -> None:
    more, words = WRONG[case]
    for binary in helms.values():
        done = helm(binary, "template", "site", str(CHART), "-f", f"{CHART}/ci/deployment-values.yaml", *more)
        assert done.returncode != 0
        assert words in done.stderr


def test_values_that_look_like_numbers_stay_strings(helms: dict[str, Path]) -> None:
    values = ["-f", str(CHART / "ci/deployment-values.yaml"), "--set", "fullnameOverride=gw,services.no=3307"]
    texts = objects(helm(helms["4"], "template", "2024", str(CHART), *values).stdout)
    assert texts
    for made in texts:
        labels = made["metadata"]["labels"]
        assert labels["app.kubernetes.io/instance"] == "2024"
        assert isinstance(made["metadata"]["name"], str)


def test_an_ops_port_with_a_service_appears_once(helms: dict[str, Path]) -> None:
    values = ["-f", str(CHART / "ci/deployment-values.yaml"), "--set", "services.metrics=9090"]
    (pod,) = [pod for kind, pod in pods(helm(helms["4"], "template", "site", str(CHART), *values).stdout)
              if kind == "Deployment"]  # fmt: skip
    ports = [each["containerPort"] for each in pod["containers"][0]["ports"]]
    assert 9090 in ports
    assert len(ports) == len(set(ports))


def test_two_gateways_of_one_release_have_different_names(helms: dict[str, Path], tmp_path: Path) -> None:
    umbrella = tmp_path / "umbrella"
    umbrella.mkdir()
    version = yaml.safe_load((CHART / "Chart.yaml").read_text())["version"]
    parts = [
        {"name": "gateway", "version": version, "repository": f"file://{CHART}", "alias": alias}
        for alias in ("sales", "hr")
    ]
    chart = {"apiVersion": "v2", "name": "umbrella", "version": "1.0.0", "dependencies": parts}
    (umbrella / "Chart.yaml").write_text(yaml.safe_dump(chart))
    values = yaml.safe_load((CHART / "ci/deployment-values.yaml").read_text())
    other = {**values, "config": {**values["config"], "backends": {"ledger": {
        "kind": "tcp", "targets": ["a:1"], "listen": "0.0.0.0:7000"}}}}  # fmt: skip
    (umbrella / "values.yaml").write_text(yaml.safe_dump({"sales": values, "hr": other}))
    assert helm(helms["4"], "dependency", "update", str(umbrella)).returncode == 0
    done = helm(helms["4"], "template", "rel", str(umbrella))
    assert done.returncode == 0, done.stderr
    made = objects(done.stdout)
    names = [(each["kind"], each["metadata"]["name"]) for each in made]
    assert len(names) == len(set(names))
    selectors = [each["spec"]["selector"]["matchLabels"] for each in made if each["kind"] == "Deployment"]
    assert [each["app.kubernetes.io/name"] for each in selectors] in (["sales", "hr"], ["hr", "sales"])


def test_another_chart_includes_the_gateway_as_a_sidecar(helms: dict[str, Path], tmp_path: Path) -> None:
    chart = tmp_path / "app"
    (chart / "templates").mkdir(parents=True)
    (chart / "Chart.yaml").write_text(
        "apiVersion: v2\nname: app\nversion: 1.0.0\n"
        f"dependencies: [{{name: gateway, version: 0.1.0, repository: 'file://{CHART}'}}]\n"
    )
    (chart / "values.yaml").write_text(
        yaml.safe_dump({"gateway": yaml.safe_load((CHART / "ci/sidecar-values.yaml").read_text())})
    )
    (chart / "templates/app.yaml").write_text(
        "apiVersion: apps/v1\nkind: Deployment\nmetadata: {name: app}\nspec:\n"
        "  selector: {matchLabels: {app: app}}\n  template:\n    metadata: {labels: {app: app}}\n    spec:\n"
        "      initContainers:\n"
        '        {{- include "gateway.sidecar" (dict "root" .Subcharts.gateway) | nindent 8 }}\n'
        "      containers: [{name: app, image: app}]\n      volumes:\n"
        '        {{- include "gateway.volumes" .Subcharts.gateway | nindent 8 }}\n'
        "      securityContext: {fsGroup: 10001}\n"
    )
    for binary in helms.values():
        assert helm(binary, "dependency", "update", str(chart)).returncode == 0
        done = helm(binary, "template", "app", str(chart))
        assert done.returncode == 0, done.stderr
        found = {each["kind"]: each for each in objects(done.stdout)}
        pod = found["Deployment"]["spec"]["template"]["spec"]
        assert pod["initContainers"][0]["restartPolicy"] == "Always"
        assert pod["volumes"][0]["configMap"]["name"] == found["ConfigMap"]["metadata"]["name"]
        kubernetes_validate.validate(found["Deployment"], "1.34", strict=True)


WITHOUT_HELM = {
    "databases": (
        (
            "tunnels: {b: {kind: ssh, host: b, user: u, identity_files: [/run/secrets/k], "
            "known_hosts: [/run/secrets/h]}, "
            "e: {kind: proxy, url: 'http://p:1', user: u, password_file: /run/secrets/p}}\n"
            "backends: {orders: {kind: mysql, via: b, targets: [db:3306], listen: 0.0.0.0:3306, check: {user: g, "
            "password_file: /run/secrets/o, tls: {mode: verify}}}, reports: {kind: postgres, via: e, targets: [pg], "
            "listen: [0.0.0.0:5432, 0.0.0.0:5433]}}"
        ),
        ["ConfigMap", "Deployment", "Service", "Service"],
    ),
    "nfs": (
        "backends: {media: {kind: nfs, targets: [nas], export: /m, listen: 127.0.0.1:20490, volume: {name: media}}}",
        ["ConfigMap", "DaemonSet", "PersistentVolume", "PersistentVolumeClaim"],
    ),
    "smb": (
        "backends: {media: {kind: smb, targets: [nas], share: m, listen: 127.0.0.1:4450, volume: {name: media}}}",
        ["ConfigMap", "DaemonSet", "PersistentVolume", "PersistentVolumeClaim"],
    ),
}


@pytest.mark.parametrize("case", WITHOUT_HELM)
def test_manifests_without_helm(tmp_path: Path, case: str) -> None:
    text, kinds = WITHOUT_HELM[case]
    path = tmp_path / "gateway.yaml"
    path.write_text(f"gateway: {{state_dir: {tmp_path}}}\n{text}\n")
    done = command("render", "kubernetes", "-c", str(path), "--image", "registry.example.com/gateway:1")
    assert done.returncode == 0, done.stderr
    found = objects(done.stdout)
    assert [each["kind"] for each in found] == kinds
    for each in found:
        for version in KUBERNETES:
            kubernetes_validate.validate(each, version, strict=True)
    ((_, pod),) = pods(done.stdout)
    assert pod["securityContext"]["runAsNonRoot"] is True
    (container,) = pod["containers"]
    assert container["securityContext"]["capabilities"] == {"drop": ["ALL"]}
    assert container["ports"] == [{"name": "probes", "containerPort": 9091}]
    assert {container[f"{when}Probe"]["httpGet"]["port"] for when in ("startup", "liveness", "readiness")} == {
        "probes"
    }


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("backends: {a: {kind: tcp, targets: ['b:1'], listen: 127.0.0.1:1}}", "use 0.0.0.0"),
        (
            "ops: {token_file: /run/secrets/ops/t}\nbackends: {a: {kind: tcp, targets: ['b:1'], listen: 0.0.0.0:1}}",
            "not in a subfolder",
        ),
        ("backends: {A_b: {kind: tcp, targets: ['b:1'], listen: 0.0.0.0:1}}", "the name of a Service"),
        (
            "backends: {a: {kind: mysql, targets: [b], listen: 0.0.0.0:1, check: {user: u, password: hunter2}}}",
            "_file",
        ),
        (
            "docker: {}\nbackends: {a: {kind: tcp, targets: ['b:1'], listen: 0.0.0.0:1}}",
            "no access to a container engine",
        ),
        (
            (
                "tunnels: {b: {kind: ssh, host: b, user: u, identity_files: [/root/k], "
                "known_hosts: [/run/secrets/h]}}\n"
                "backends: {a: {kind: tcp, via: b, targets: ['b:1'], listen: 0.0.0.0:1}}"
            ),
            "the pod has no /root/k",
        ),
        ("backends: {a: {kind: tcp, targets: ['${HERE}:1'], listen: 0.0.0.0:1}}", "HERE"),
        ("backends: {a: {kind: nfs, targets: [n], export: /x, listen: 127.0.0.1:111}}", "choose a higher port"),
        (
            (
                "backends: {a: {kind: mysql, targets: [n], listen: 0.0.0.0:3306, "
                "check: {user: u, password_file: /run/secrets/db/password}}}"
            ),
            "not in a subfolder",
        ),
        (
            (
                "backends: {a: {kind: tcp, targets: ['b:1'], listen: 0.0.0.0:1}, "
                "n: {kind: nfs, targets: [b], export: /e, listen: 127.0.0.1:2}}"
            ),
            "write two configuration files",
        ),
        (
            "audit: {log: /var/log/gateway/a}\nbackends: {a: {kind: tcp, targets: ['b:1'], listen: 0.0.0.0:1}}",
            "audit.log: the pod cannot write to /var/log/gateway/a: use stdout",
        ),
        (
            "audit: {log: /var/lib/gateway/../a}\nbackends: {a: {kind: tcp, targets: ['b:1'], listen: 0.0.0.0:1}}",
            "audit.log",
        ),
    ],
)
def test_manifests_that_would_not_work_are_refused(tmp_path: Path, text: str, words: str) -> None:
    path = tmp_path / "gateway.yaml"
    path.write_text(f"gateway: {{state_dir: {tmp_path}}}\n{text}\n")
    done = command("render", "kubernetes", "-c", str(path))
    assert done.returncode == 2
    assert words in done.stderr
    assert "hunter2" not in done.stdout + done.stderr


LOW_PORTS = [{"name": "net.ipv4.ip_unprivileged_port_start", "value": "0"}]


@pytest.mark.parametrize(("listen", "ops"), [(389, 9090), (3389, 90)])
def test_a_low_port_is_permitted_to_the_pod(tmp_path: Path, listen: int, ops: int) -> None:
    path = tmp_path / "gateway.yaml"
    backend = f"{{kind: tcp, targets: ['b:389'], listen: 0.0.0.0:{listen}}}"
    path.write_text(f"ops: {{listen: 127.0.0.1:{ops}}}\nbackends: {{a: {backend}}}\n")
    done = command("render", "kubernetes", "-c", str(path))
    (pod,) = [pod for kind, pod in pods(done.stdout) if kind == "Deployment"]
    assert pod["securityContext"]["sysctls"] == LOW_PORTS


def test_the_chart_permits_low_ports_of_ops_and_its_test_waits_for_checked_backends(helms: dict[str, Path]) -> None:
    postgres = {"kind": "postgres", "targets": ["db:5432"], "listen": "0.0.0.0:5432"}
    backends: dict[str, dict[str, Any]] = {
        "plain": postgres,
        "checked": {**postgres, "listen": "0.0.0.0:5433", "check": {"user": "health"}},
        "patroni": {**postgres, "listen": "0.0.0.0:5434", "check": {"via_http": {"port": 8008}}},
        "other": {"kind": "mysql", "targets": ["db:3306"], "listen": "0.0.0.0:3307"},
    }
    values = json.dumps({"backends": backends})
    text = render(helms["3"], "deployment", "--set-json", f"config={values}", "--set", "ops.port=90")
    specs = dict(pods(text))
    assert specs["Deployment"]["securityContext"]["sysctls"] == LOW_PORTS
    waited = specs["Pod"]["containers"][0]["args"]
    assert [name for name in backends if name in waited] == ["checked", "patroni"]


def test_the_rules_of_a_release_select_its_own_gateways(tmp_path: Path) -> None:
    need(find("promtool") is not None, "promtool (package prometheus)")
    made = objects((GOLDEN / "everything.yaml").read_text())
    rules = next(each for each in made if each["kind"] == "PrometheusRule")["spec"]
    path = tmp_path / "rules.yaml"
    path.write_text(yaml.safe_dump(rules))
    assert promtool("check", "rules", "--lint=all", "--lint-fatal", str(path)) == ""
    alerts = {rule["alert"]: rule for group in rules["groups"] for rule in group["rules"] if "alert" in rule}
    own = '{namespace="shop", job=~"(.*/)?hub(-ops)?"}'
    assert alerts["GatewayGone"]["expr"] == f"up{own} == 0"
    assert alerts["GatewayMissing"]["expr"] == f"absent(up{own}) unless on () (up{own} == 0)"
    urls = {name: rule["annotations"]["runbook_url"] for name, rule in alerts.items()}
    assert urls == {name: f"https://docs.example.com/runbooks/{name}.md" for name in alerts}
    (dashboards,) = [each["data"] for each in objects((GOLDEN / "daemonset.yaml").read_text())
                     if each["metadata"]["name"].endswith("-dashboards")]  # fmt: skip
    titles = {name: json.loads(text)["title"] for name, text in dashboards.items()}
    assert titles == {
        "gateway-backend.json": "Gateway / Backend", "gateway-consumer.json": "Gateway / Consumer",
        "gateway-fleet.json": "Gateway / Fleet",
    }  # fmt: skip
