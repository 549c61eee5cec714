"""Strict mode refuses weak settings; each error gives the position of the setting and an alternative."""

import re
from pathlib import Path

import pytest

from gateway.config import Config, ConfigSources, load
from gateway.config.setting_warnings import setting_warnings
from gateway.config.strict_mode import strict_mode_violations
from gateway.errors import ConfigError

SOUND = """\
gateway: {strict: true}
tunnels:
  bastion: {kind: ssh, host: b, user: u, identity_files: /k, known_hosts: /h}
  egress: {kind: proxy, url: "https://proxy.example.com", user: u, password_file: /run/secrets/proxy}
  inner: {kind: proxy, url: "socks5://proxy.internal:1080", via: bastion}
backends:
  orders:
    kind: mysql
    via: bastion
    targets: db
    listen: 0.0.0.0:3306
    allow: 10.0.0.0/8
    check: {user: u, password_file: /run/secrets/check, tls: {mode: verify}}
  local: {kind: tcp, targets: "a:1", listen: /run/gateway/a.sock}
docker: {host: "tcp://engine:2376", tls: {ca_file: /ca.pem}}
fleet: {members: ["https://gw:9090", "127.0.0.1:9090"], token_file: /run/secrets/fleet}
traces: {endpoint: "https://otel:4318/v1/traces", token_file: /run/secrets/otel}
"""


def read(text: str, folder: Path, strict: str | None = None) -> Config:
    file = folder / "gateway.yaml"
    file.write_text(text)
    file.chmod(0o600)
    return load(ConfigSources(file, settings={"strict": strict} if strict else {}, environment={}))


def refused(text: str, folder: Path) -> list[str]:
    with pytest.raises(ConfigError) as caught:
        read(text, folder, "true")
    return [str(problem).removeprefix(f"{folder}/gateway.yaml:") for problem in caught.value.problems]


def test_a_strict_configuration_is_accepted(tmp_path: Path) -> None:
    assert read(SOUND, tmp_path).gateway.strict


@pytest.mark.parametrize(
    ("old", "new", "reported", "advised"),
    [
        ("tls: {mode: verify}", "tls: {mode: off}", "13:69: backends.orders.check.tls.mode: .*mode: verify", 0),
        (", tls: {mode: verify}", "", "7:3: backends.orders.check.tls.mode: is off, .*mode: verify", 0),
        ("mode: verify", "mode: require", "13:69: backends.orders.check.tls.mode: .*mode: verify", 0),
        ("    allow: 10.0.0.0/8\n", "", "7:3: backends.orders.allow: is absent, .*label: gateway.backends", 0),
        ("10.0.0.0/8", "[10.0.0.0/8, 0.0.0.0/0]", "12:12: backends.orders.allow: .*IPv4: list the networks", 0),
        ("10.0.0.0/8", "[128.0.0.0/1, 0.0.0.0/1]", "12:12: backends.orders.allow: .*IPv4: list the networks", 0),
        ("https://gw:9090", "gw:9090", "16:61: fleet.token_file: .*gw:9090 without encryption: use https://", 1),
        ("https://otel", "http://otel", "17:62: traces.token_file: .*otel:4318 without encryption", 1),
        ("10.0.0.0/8", "['::/0']", "12:12: backends.orders.allow: .*IPv6: list the networks", 0),
        ("user: u,", "user: u, kex: [curve25519-sha256, diffie-hellman-group1-sha1],",
         "3:47: tunnels.bastion.kex: lists diffie-hellman-group1-sha1,", 0),
        ("user: u,", "user: u, ciphers: [3des-cbc],", "3:51: tunnels.bastion.ciphers: lists 3des-cbc,", 0),
        ("user: u,", "user: u, macs: [hmac-md5],", "3:48: tunnels.bastion.macs: lists hmac-md5,", 0),
        ("user: u,", "user: u, host_key_algorithms: [ssh-rsa],",
         "3:63: tunnels.bastion.host_key_algorithms: lists ssh-rsa,", 0),
        ("known_hosts: /h", "insecure_host_key: true", "3:81: tunnels.bastion.insecure_host_key: .*known_hosts", 1),
        (", tls: {ca_file: /ca.pem}", "", "15:16: docker.host: .*use tls", 1),
        ("https://proxy", "http://proxy", "4:30: tunnels.egress.url: .*use https://", 1),
        ("https://proxy", "socks5://proxy", "4:30: tunnels.egress.url: .*use https://", 1),
        (", via: bastion}", "}", "5:29: tunnels.inner.url: .*set via to an SSH tunnel", 0),
        ("password_file: /run/secrets/check", "password: x", "13:32: backends.orders.check.password: .*_file", 0),
        ("backends:\n", "ops: {listen: 0.0.0.0:9090}\nbackends:\n", "6:15: ops.listen: .*127.0.0.1", 1),
    ],
)  # fmt: skip
def test_each_weakness_is_refused_with_its_position_and_the_alternative(
    tmp_path: Path, old: str, new: str, reported: str, advised: int
) -> None:
    text = SOUND.replace(old, new, 1)
    assert text != SOUND
    (line,) = refused(text, tmp_path)
    assert re.match(reported, line), line
    lenient = read(text.replace("strict: true", "strict: false"), tmp_path)
    key = line.split(": ")[1]
    assert [each.problem.key for each in strict_mode_violations(lenient)] == [key]
    assert [sentence.startswith(f"{key}: ") for sentence in setting_warnings(lenient)] == [True] * advised


def test_plain_members_of_the_fleet_file_are_refused(tmp_path: Path) -> None:
    members = tmp_path / "members"
    text = SOUND.replace("fleet: {", f"fleet: {{file: {members}, ")
    for harmless in ("https://gw:9090\nlocalhost:9090\n", "\xff", "nonsense"):
        members.write_text(harmless, "latin-1")
        read(text, tmp_path)
    members.write_text("https://gw:9090\ndns+gw:9090\n")
    (line,) = refused(text, tmp_path)
    assert re.match(r"16:15: fleet.file: .*members: the token is sent to dns\+gw:9090 without encryption", line), line
    read(re.sub(r", token_file: /run/secrets/fleet", "", text), tmp_path)


def test_a_secret_from_the_environment_is_inline_too(tmp_path: Path) -> None:
    environment = {
        "GATEWAY_STRICT": "true",
        "GATEWAY_BACKEND_ORDERS": "mysql://db?check.user=u&check.password=x&check.tls.mode=verify",
    }
    with pytest.raises(
        ConfigError, match=r"^GATEWAY_BACKEND_ORDERS: backends.orders.check.password: .*password_file"
    ):
        load(ConfigSources(environment=environment))


@pytest.mark.parametrize(
    ("listen", "refuses"), [("127.0.0.1:9090", 0), ("[::1]:9090", 0), ("10.0.0.1:9090", 1), ("'[::]:9090'", 1)]
)
def test_only_an_ops_listener_that_other_hosts_reach_is_open(tmp_path: Path, listen: str, refuses: int) -> None:
    text = f"ops: {{listen: {listen!r}}}\n".replace("\"'", "'").replace("'\"", "'")
    config = read(text + "backends: {a: {kind: tcp, targets: 'a:1'}}", tmp_path)
    assert len(strict_mode_violations(config)) == refuses


def test_an_unencrypted_password_gives_advice_if_no_tunnel_encrypts_it(tmp_path: Path) -> None:
    backend = "{kind: mysql, targets: TARGET, VIA check: {user: u, password_file: /x}}"
    tunnels = (
        "tunnels: {b: {kind: ssh, host: h, user: u}, p: {kind: proxy, url: 'https://p'},"
        " i: {kind: proxy, url: 'https://p', via: b}}\n"
    )
    for via, target, warned in (("", "db", 1), ("", "127.0.0.1", 0), ("via: b,", "db", 0), ("via: p,", "db", 1),
                                ("via: i,", "db", 0), ("via: [b, i],", "10.0.0.1", 0),
                                ("via: [b, p],", "10.0.0.1", 1)):  # fmt: skip
        text = backend.replace("VIA", via).replace("TARGET", target)
        assert len(setting_warnings(read(f"{tunnels}backends: {{a: {text}}}", tmp_path))) == warned, (via, target)


def test_a_name_that_tunnels_of_several_kinds_resolve_gives_advice(tmp_path: Path) -> None:
    text = """
tunnels: {b: {kind: ssh, host: h, user: u}, c: {kind: ssh, host: h, user: u}, p: {kind: proxy, url: 'https://p'}}
backends: {a: {kind: tcp, via: [b, p], targets: ['db:1', '10.0.0.1:2', {address: 'other:1', via: [b, c]}]}}
"""
    (line,) = setting_warnings(read(text, tmp_path))
    (other,) = setting_warnings(read(text.replace("via: [b, c]", "via: [p, c]").replace("'db:1', ", ""), tmp_path))
    assert ": backends.a.targets[1].via: p (proxy) and c (ssh) resolve other " in other
    assert line.removeprefix(f"{tmp_path}/gateway.yaml:").startswith(
        "3:32: backends.a.via: b (ssh) and p (proxy) res"
    )
    assert "db" in line


def test_a_tunnel_server_that_tunnels_of_several_kinds_resolve_gives_advice(tmp_path: Path) -> None:
    (tmp_path / "vpn.ovpn").write_text(
        "client\ndev tun\nremote vpn.internal 443 tcp\nremote vpn.internal 1194 tcp\nremote 10.0.0.1 443 tcp\n"
        "remote-cert-tls server\n<ca>\n-----BEGIN CERTIFICATE-----\nMA==\n-----END CERTIFICATE-----\n</ca>\n"
    )
    text = """
tunnels:
  p: {kind: proxy, url: 'https://p'}
  c: {kind: command, mode: stdio, command: [cat]}
  inner: {kind: proxy, url: 'socks5://bastion.internal:1080', via: [p, c]}
  vpn: {kind: openvpn, config: FOLDER/vpn.ovpn, via: [c, p]}
  address: {kind: ssh, host: 10.0.0.1, user: u, via: [p, c]}
  alike: {kind: ssh, host: bastion.internal, user: u, via: [p, inner]}
backends: {a: {kind: tcp, via: inner, targets: db:1}}
""".replace("FOLDER", str(tmp_path))
    inner, vpn = (each for each in setting_warnings(read(text, tmp_path)) if "resolve" in each)
    assert inner.removeprefix(f"{tmp_path}/gateway.yaml:").startswith(
        "5:68: tunnels.inner.via: p (proxy) and c (command)"
    )
    assert " resolve bastion.internal with different name servers" in inner
    assert "tunnels.vpn.via: c (command) and p (proxy) resolve vpn.internal" in vpn


@pytest.mark.parametrize(
    "tunnel", ["kind: command, mode: stdio, command: [nc]", "kind: ssh, host: h, user: u, proxy_command: [nc]"]
)
def test_an_environment_variable_that_is_not_set_gives_advice(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, tunnel: str
) -> None:
    monkeypatch.setenv("PRESENT", "")
    monkeypatch.delenv("ABSENT", raising=False)
    text = f"""
backends: {{a: {{kind: tcp, targets: 'h:1', via: t}}}}
tunnels:
  t: {{{tunnel},
      environment: [PRESENT, ABSENT]}}
"""
    (warning,) = setting_warnings(read(text, tmp_path))
    assert ":5:20: tunnels.t.environment: not set in the gateway's environment: ABSENT (" in warning
    monkeypatch.setenv("ABSENT", "x")
    assert setting_warnings(read(text, tmp_path)) == []


def test_a_key_without_effect_gives_advice(tmp_path: Path) -> None:
    text = """
tunnels: {b: {kind: ssh, host: h, user: u}, c: {kind: ssh, host: h, user: u}}
backends:
  a: {kind: redis, targets: h, via: b, prefer_way: latency, check: {user: u}}
"""
    preference, user = setting_warnings(read(text, tmp_path))
    assert ":4:52: backends.a.prefer_way: has no effect, because the backend has only one path" in preference
    assert ":4:75: backends.a.check.user: has no password" in user
    (user,) = setting_warnings(read(text.replace("via: b", "via: [b, c]"), tmp_path))
    assert "check.user" in user
    assert (
        setting_warnings(
            read(
                text.replace("prefer_way: latency, check: {user: u}", "check: {user: u, password_command: [x]}"),
                tmp_path,
            )
        )
        == []
    )


def test_a_backend_with_grants_requires_them(tmp_path: Path) -> None:
    granted = SOUND.replace("ca.pem}}", "ca.pem}, grants: [{project: shop, backends: orders}]}")
    (sentence,) = setting_warnings(read(granted, tmp_path))
    assert sentence.startswith("backends.orders.allow: docker.grants have no effect")
    labeled = granted.replace("allow: 10.0.0.0/8", "allow: {label: gateway.backends}")
    assert setting_warnings(read(labeled, tmp_path)) == []
    (line,) = refused(labeled.replace("gateway.backends", "gateway.backend"), tmp_path)
    assert re.match(r"12:20: backends.orders.allow.label: .* use gateway.backends", line), line


def test_strict_mode_reports_all_problems_together(tmp_path: Path) -> None:
    text = SOUND.replace("    allow: 10.0.0.0/8\n", "").replace("mode: verify", "mode: off") + "nonsense: {}\n"
    keys = [line.split(": ")[1] for line in refused(text, tmp_path)]
    assert keys == ["backends.orders.allow", "backends.orders.check.tls.mode", "nonsense"]
