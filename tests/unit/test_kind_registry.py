import sys
from collections.abc import Iterator
from dataclasses import fields
from importlib import import_module
from pathlib import Path

import pytest
from click.testing import CliRunner

from gateway import backends, tunnels
from gateway.backends import kind_of_file_system, kind_of_port
from gateway.cli import cli
from gateway.contracts.backend import ProbeResult
from gateway.contracts.link import LinkStatus
from gateway.demo.sshd import make_key
from gateway.facts import FactDefinition
from gateway.importing.config_conversion import convert
from gateway.importing.source_format import ImportSource
from gateway.kind_registry import KindRegistry


@pytest.fixture
def package(tmp_path: Path) -> Iterator[str]:
    (tmp_path / "some_kinds").mkdir()
    (tmp_path / "some_kinds" / "__init__.py").write_text("")
    (tmp_path / "some_kinds" / "one.py").write_text("KIND = 1\n")
    sys.path.insert(0, str(tmp_path))
    yield "some_kinds"
    sys.path.remove(str(tmp_path))
    for name in [name for name in sys.modules if name.startswith("some_kinds")]:
        del sys.modules[name]


def test_kinds_of_an_appended_folder_are_found(package: str, tmp_path: Path) -> None:
    path = __import__(package).__path__
    kinds: KindRegistry[int] = KindRegistry(package, path)
    assert list(kinds) == ["one"]
    (tmp_path / "more" / "common").mkdir(parents=True)
    (tmp_path / "more" / "common" / "__init__.py").write_text("")
    (tmp_path / "more" / "two.py").write_text("KIND = 2\n")
    path.append(str(tmp_path / "more"))
    assert dict(kinds) == {"one": 1, "two": 2}
    assert f"{package}.two" in sys.modules
    with pytest.raises(KeyError):
        kinds["common"]


@pytest.mark.parametrize("kinds", [backends.KINDS, tunnels.KINDS])
def test_every_kind_is_consistent(
    kinds: "KindRegistry[backends.BackendKind] | KindRegistry[tunnels.TunnelKind]",
) -> None:
    schemes = [scheme for kind in kinds.values() for scheme in kind.schemes]
    assert len(schemes) == len(set(schemes))
    for name, kind in kinds.items():
        assert kind.name == name
        assert not set(kind.aliases) & kinds.keys()
        assert len({fact.key for fact in kind.facts}) == len(kind.facts)


def test_each_fact_of_a_tunnel_is_a_field_of_a_status() -> None:
    import_module("gateway.ssh.pool_status")  # a kind of tunnel imports the class of its status only when necessary

    def statuses(base: type[LinkStatus]) -> Iterator[set[str]]:
        for each in base.__subclasses__():
            yield {field.name for field in fields(each)}
            yield from statuses(each)

    found = list(statuses(LinkStatus))
    for kind in tunnels.KINDS.values():
        assert not kind.facts or any({fact.key for fact in kind.facts} <= names for names in found), kind.name


def test_metrics_of_the_same_name_belong_to_the_same_fact() -> None:
    found: dict[str, FactDefinition] = {}
    facts = [fact for kind in backends.KINDS.values() for fact in kind.facts]
    facts += [fact for kind in tunnels.KINDS.values() for fact in kind.facts]
    for fact in facts:
        assert not fact.metric or found.setdefault(fact.metric, fact) == fact


@pytest.mark.parametrize(
    ("port", "name"),
    [
        (3306, "mysql"),
        (33060, "mysql"),
        (5432, "postgres"),
        (2049, "nfs"),
        (445, "smb"),
        (6379, "redis"),
        (80, "tcp"),
    ],
)
def test_ports_of_kinds(port: int, name: str) -> None:
    assert kind_of_port(port).name == name


@pytest.mark.parametrize(
    ("file_system", "name"), [("nfs", "nfs"), ("nfs4", "nfs"), ("cifs", "smb"), ("smb3", "smb"), ("tmpfs", None)]
)
def test_file_systems_of_kinds(file_system: str, name: str | None) -> None:
    kind = kind_of_file_system(file_system)
    assert (kind.name if kind else None) == name


def test_facts_have_samples_and_text() -> None:
    number, label = (
        FactDefinition("n", "N.", "n", describe=lambda value: f"{value} n"),
        FactDefinition("t", "T.", "t", label="name"),
    )
    assert list(number.samples(True)) == [([], 1.0)]
    assert list(number.samples(2)) == [([], 2.0)]
    assert [list(number.samples(value)) for value in (None, "text", {"a": 1})] == [[], [], []]
    assert list(label.samples("text")) == [(["text"], 1.0)]
    assert list(label.samples({"a": 1, "b": 2})) == [(["a"], 1.0), (["b"], 2.0)]
    assert (number.text(None), number.text(0), label.text("text")) == ("", "0 n", "text")


@pytest.mark.parametrize("fact", [each for kind in backends.KINDS.values() for each in kind.facts])
@pytest.mark.parametrize("number", [10**400, float("nan"), float("inf")])
def test_a_number_that_is_not_finite_is_unknown(fact: FactDefinition, number: float) -> None:
    for value in (number, {"used": number, "available": 1}):
        assert ProbeResult(facts={fact: value}).facts == {fact: None}  # type: ignore[dict-item] # no `FactValue`
        assert (list(fact.samples(value)), fact.text(value)) == ([], "")


def test_a_share_is_imported_with_every_required_key() -> None:
    result = convert([ImportSource("", "ssh -N -L 445:nas:445 me@bastion", "ssh")])
    assert result.backends["nas"] == {
        "kind": "smb", "via": "bastion", "targets": ["nas:445"], "listen": "127.0.0.1:445", "share": "SHARE",
    }  # fmt: skip
    assert "backends.nas: set share to the name of the share" in result.notes


def test_a_key_permits_the_servers_of_every_kind_of_inner_tunnel(tmp_path: Path) -> None:
    make_key(tmp_path / "key")
    (tmp_path / "office.ovpn").write_text("client\nremote vpn.example.com 443 tcp\nremote vpn.example.com 1194 udp\n")
    file = tmp_path / "gateway.yaml"
    file.write_text(
        "tunnels:\n"
        f"  edge: {{kind: ssh, host: edge, user: u, identity_files: {tmp_path}/key}}\n"
        f"  inner: {{kind: ssh, host: inner, port: 2222, user: u, identity_files: {tmp_path}/key, via: edge}}\n"
        "  web: {kind: proxy, url: 'http://proxy:3128', via: edge}\n"
        f"  office: {{kind: openvpn, config: {tmp_path}/office.ovpn, via: edge}}\n"
        "  tool: {kind: command, mode: stdio, command: [nc, '{host}', '{port}']}\n"
        f"  far: {{kind: ssh, host: far, user: u, identity_files: {tmp_path}/key, via: tool}}\n"
        f"  lab: {{kind: wireguard, config: {tmp_path}/lab.conf, via: edge}}\n"
        "backends: {orders: {kind: mysql, via: edge, targets: db}, far: {kind: tcp, via: office, targets: 'x:1'}}\n"
    )
    done = CliRunner().invoke(cli, ["render", "authorized-keys", "-c", str(file)])
    assert done.exception is None, done.exception
    (edge,) = (line for line in done.output.splitlines() if "permitopen" in line)
    permitted = [part.partition('"')[2].rstrip('"') for part in edge.split(",") if part.startswith("permitopen")]
    assert permitted == ["inner:2222", "proxy:3128", "vpn.example.com:443", "db:3306"]
    assert "# no backend uses the tunnel inner: add a backend with via: inner" in done.output
