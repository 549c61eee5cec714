"""Tests how configurations are read. `tests/unit/cli/mistakes/` contains invalid configurations with their errors."""

import re
from itertools import pairwise
from pathlib import Path

import pytest

from gateway import backends, input_size_limits, tunnels
from gateway.cli.config_selection_options import SETTINGS
from gateway.config import Config, ConfigSources, load
from gateway.config.environment_variables import setting_names
from gateway.config.model import CommonBackendOptions, CommonCheckOptions, CommonTunnelOptions
from gateway.config.schema import hints_by_key
from gateway.config.sections import SECTIONS
from gateway.config.setting_warnings import setting_warnings
from gateway.contracts.config_types import Duration, HostPort, unix_host_port
from gateway.contracts.secret import Secret
from gateway.contracts.tls_server_files import TlsServerFiles
from gateway.docker.options import AttachRule, DockerOptions, NetworkOptions
from gateway.errors import ConfigError
from gateway.ssh.options import SshOptions

CONFIGS = Path(__file__).parents[3] / "configs"


def read(text: str, tmp_path: Path, **environment: str) -> Config:
    file = tmp_path / "gateway.yaml"
    file.write_text(text)
    return load(ConfigSources(file, environment=environment))


@pytest.mark.parametrize("name", ["small.yaml", "full.yaml"])
def test_the_shipped_configurations_are_valid(name: str) -> None:
    assert load(ConfigSources(CONFIGS / name, environment={})).backends


def test_the_full_configuration_has_every_key() -> None:
    text = (CONFIGS / "full.yaml").read_text()
    classes = [
        *SECTIONS.values(),
        CommonTunnelOptions,
        CommonBackendOptions,
        CommonCheckOptions,
        DockerOptions,
        NetworkOptions,
        AttachRule,
    ]
    classes += [kind.options for kind in tunnels.KINDS.values()]
    classes += [part for kind in backends.KINDS.values() for part in (kind.options, kind.check)]
    keys = {key.rpartition(".")[2] for cls in classes for key, _ in hints_by_key(cls)}
    # The deprecated key `workers` is not allowed together with `threads`.
    assert [key for key in sorted(keys - {"workers"}) if not re.search(rf"\b{key}(_file)?: ", text + " ")] == []


def test_the_demo_configuration_is_valid() -> None:
    names = set(re.findall(r"\$\{(DEMO_\w+)\}", (CONFIGS / "demo.yaml").read_text()))
    values = {name: str(at) if name.endswith("PORT") else "/x" for at, name in enumerate(sorted(names), 1000)}
    assert set(load(ConfigSources(CONFIGS / "demo.yaml", environment=values)).backends) == {
        "orders",
        "reports",
        "media",
    }


def test_the_defaults_of_a_configuration(tmp_path: Path) -> None:
    config = read("backends: {a: {kind: mysql, targets: db}, n: {kind: nfs, targets: nas, export: /x}}", tmp_path)
    orders = config.backends["a"]
    assert orders.targets == (HostPort("db", 3306),)
    assert (orders.hold, orders.max_connections, orders.prefer) == (10.0, 1000, "order")
    assert (orders.check.interval, orders.check.timeout, orders.check.rise, orders.check.fall) == (10.0, 3.0, 2, 3)
    assert config.backends["n"].hold == 300.0
    assert config.ops.listen == HostPort("127.0.0.1", 9090)
    assert (config.shutdown.delay, config.shutdown.drain) == (5.0, 20.0)


def test_several_targets_prefer_the_primary(tmp_path: Path) -> None:
    config = read(
        "backends: {a: {kind: postgres, targets: [one, two]}, b: {kind: tcp, targets: [a:1, b:1]}}", tmp_path
    )
    assert config.backends["a"].prefer == "primary"
    assert config.backends["b"].prefer == "order"


def test_variables_of_the_environment_are_expanded(tmp_path: Path) -> None:
    text = "backends: {a: {kind: tcp, targets: ['${HOST}:${PORT:-80}'], listen: '/run/$$x'}}"
    backend = read(text, tmp_path, HOST="db").backends["a"]
    assert backend.targets == (HostPort("db", 80),)
    assert backend.listen == (unix_host_port(Path("/run/$x")),)


def test_secrets_read_their_file_at_each_use_and_are_never_printed(tmp_path: Path) -> None:
    secret_file = tmp_path / "secret"
    secret_file.write_text("first\n")
    text = f"backends: {{a: {{kind: mysql, targets: db, check: {{user: u, password_file: {secret_file}}}}}}}"
    password = read(text, tmp_path).backends["a"].check_options.password
    assert password.reveal() == "first"
    secret_file.write_text("second")
    assert password.reveal() == "second"
    assert "hidden" not in repr(Secret("hidden"))


def test_yaml_anchors_and_merges(tmp_path: Path) -> None:
    text = """
backends:
  a: &base {kind: tcp, targets: ['a:1'], hold: 3s}
  b: {<<: *base, targets: ['b:1']}
"""
    config = read(text, tmp_path)
    assert config.backends["b"].hold == 3.0
    assert config.backends["b"].targets == (HostPort("b", 1),)


def test_aliases_that_repeat_each_other_are_bounded(tmp_path: Path) -> None:
    names = "abcdefgh"
    text = "a: &a [x, x, x, x, x, x, x, x, x]\n"
    for inner, outer in pairwise(names):
        text += f"{outer}: &{outer} [{', '.join([f'*{inner}'] * 9)}]\n"
    with pytest.raises(ConfigError, match="has more than 100000 values"):
        read(text, tmp_path)


def test_parsing_stops_at_too_many_values(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(input_size_limits, "MAX_VALUES", 1000)
    with pytest.raises(ConfigError, match="has more than 1000 values"):
        read(f"a: [{'x, ' * 2500}", tmp_path)  # the document is not complete


def test_a_file_that_is_too_large_is_refused(tmp_path: Path) -> None:
    file = tmp_path / "gateway.yaml"
    with file.open("wb") as opened:
        opened.truncate(1 << 32)
    with pytest.raises(ConfigError, match="is larger than 4 MiB"):
        load(ConfigSources(file, environment={}))


def test_thousands_of_problems_are_reported_in_part(tmp_path: Path) -> None:
    mistakes = ", ".join(f"targetz{at}: 1" for at in range(60))
    text = f"d: &d {{kind: mysql, {mistakes}}}\nbackends:\n" + "".join(f"  b{at}: *d\n" for at in range(50))
    with pytest.raises(ConfigError) as caught:
        read(text, tmp_path)
    assert len(caught.value.problems) == 201
    assert str(caught.value.problems[-1]).endswith("more problems")


def test_urls_carry_every_key() -> None:
    config = load(
        ConfigSources(
            tunnels=(
                "bastion=ssh://tunnel@b.example.com:2222?identity_files=/k1,/k2&known_hosts=/kh&keepalive.lost=5s",
            ),
            backends=(
                (
                    "orders=mysql://db-1:3306,db-2?via=bastion&listen=127.0.0.1:1,127.0.0.1:2&hold=1s&allow=10.0.0.0/8"
                    "&check.user=gateway&check.password_file=/s&check.tls.mode=verify&check.tls.ca_file=/ca"
                ),
                "media=nfs://nas/path/to/folder?listen=127.0.0.1:3",
            ),
            environment={},
        )
    )
    options = config.tunnels["bastion"].options
    assert isinstance(options, SshOptions)
    assert (options.host, options.port, options.user) == ("b.example.com", 2222, "tunnel")
    assert options.identity_files == (Path("/k1"), Path("/k2"))
    assert options.keepalive.lost == Duration(5)
    orders = config.backends["orders"]
    assert orders.targets == (HostPort("db-1", 3306), HostPort("db-2", 3306))
    assert orders.listen == (HostPort("127.0.0.1", 1), HostPort("127.0.0.1", 2))
    assert orders.check_options.tls.mode == "verify"
    assert config.backends["media"].options.export == "/path/to/folder"


def test_urls_carry_lists_and_signs_as_they_are() -> None:
    pin = "SHA256:47DEQpj8HBSa+/TImW+5JCeuQeRkm5NMpJWZG3hSuFU"
    config = load(
        ConfigSources(
            tunnels=(
                f"b=ssh://me%40here@[fd00::1]:2222?host_keys={pin}&host_keys=ssh-ed25519 AAAA&known_hosts=/a%2Cb,/c",
                "v=openvpn:///etc/v.ovpn?dns=10.8.0.1,10.8.0.2&dns=10.8.0.3",
            ),
            environment={
                "GATEWAY_BACKEND_M": "nfs://nas/m?volume.name=media&volume.mount_options=nconnect=4,noatime",
                "GATEWAY_BACKEND_S": "mysql://db?check.user=u&check.password=a%23b+c%25&allow=10.0.0.0/8,fd00::/8",
            },
        )
    )
    ssh = config.tunnels["b"].options
    assert (ssh.user, ssh.host, ssh.port) == ("me@here", "fd00::1", 2222)
    assert ssh.host_keys == (pin, "ssh-ed25519 AAAA")
    assert ssh.known_hosts == (Path("/a,b"), Path("/c"))
    assert config.tunnels["v"].options.dns == ("10.8.0.1", "10.8.0.2", "10.8.0.3")
    assert config.backends["m"].options.volume.mount_options == ("nconnect=4", "noatime")
    assert config.backends["s"].check_options.password == Secret("a#b+c%")
    assert [str(each) for each in config.backends["s"].allow.networks] == ["10.0.0.0/8", "fd00::/8"]


@pytest.mark.parametrize(
    ("tunnel", "backend", "message"),
    [
        (
            "b=ssh://t@fd00::1?agent=/a",
            "a=tcp://x:1",
            "--tunnel b: 'fd00::1' is not host:port: write an IPv6 address",
        ),
        ("b=socks5://[h:1080", "a=tcp://x:1", "--tunnel b: is not a URL"),
        ("b=socks5://h:1080", "a=mysql://[fd00::1:3306", "--backend a: is not a URL"),
        ("b=socks5://h:1080", "a=mysql://[db]:3306", "--backend a: is not a URL"),
        (
            "b=socks5://h:1080",
            "a=tcp://x:1?hold=1s#via=b",
            "--backend a: the text after # would be ignored: write %23",
        ),
        (
            "b=socks5://h:1080?dial_timeout=1s&dial_timeout=2s",
            "a=tcp://x:1",
            "--tunnel b: dial_timeout: is given twice",
        ),
        *(
            (
                f"b={url}={'k' * 40}",
                "a=tcp://x:1",
                f"--tunnel b: {url.rpartition('?')[2]}: is visible in process lists",
            )
            for url in (
                "wireguard:///x/wg.conf?private_key",
                "wireguard:///x/wg.conf?preshared_key",
                "openvpn:///x/v.ovpn?key_password",
                "openvpn:///x/v.ovpn?password",
                "ssh://u@h?passphrase",
                "socks5://h:1080?password",
            )
        ),
        ("b=socks5://h:1080", "a=mysql://x:1?kind=tcp", "--backend a: kind: is set by the scheme of the URL"),
        ("b=socks5://h:1080?kind.x=y", "a=tcp://x:1", "--tunnel b: kind.x: is set by the scheme of the URL"),
        ("b=socks5://h:1080", "a=mysql://x:1?check.password=k", "--backend a: check.password: is visible in process"),
    ],
)
def test_urls_that_would_be_misread_are_refused(tunnel: str, backend: str, message: str) -> None:
    with pytest.raises(ConfigError, match=re.escape(message)):
        load(ConfigSources(tunnels=(tunnel,), backends=(backend,), environment={}))


def test_flags_override_the_environment_which_overrides_the_file(tmp_path: Path) -> None:
    file = tmp_path / "c.yaml"
    file.write_text(
        "ops: {listen: 127.0.0.1:1}\ngateway: {instance: file}\nbackends: {a: {kind: tcp, targets: 'a:1'}}"
    )
    environment = {
        "GATEWAY_OPS_LISTEN": "127.0.0.1:2",
        "GATEWAY_INSTANCE": "environment",
        "GATEWAY_BACKEND_A": "tcp://b:2",
        "GATEWAY_BACKEND_MY_DB": "postgres://pg",
    }
    config = load(ConfigSources(file, settings={"ops-listen": "127.0.0.1:3"}, environment=environment))
    assert config.ops.listen.port == 3
    assert config.gateway.instance == "environment"
    assert config.backends["a"].targets == (HostPort("b", 2),)
    assert config.backends["my-db"].targets == (HostPort("pg", 5432),)


def test_variables_of_a_kubernetes_service_named_gateway_are_ignored() -> None:
    environment = {"GATEWAY_SERVICE_HOST": "10.0.0.1", "GATEWAY_PORT": "tcp://10.0.0.1:9090"}
    assert load(ConfigSources(backends=("a=tcp://a:1",), environment=environment)).backends


@pytest.mark.parametrize(
    ("sources", "message"),
    [
        (ConfigSources(tunnels=("b=ssh://u:secret@h",), environment={}), "password_file=FILE"),
        (
            ConfigSources(backends=("a=mysql://h?check.password=x&check.user=u",), environment={}),
            "check.password_file",
        ),
        (ConfigSources(backends=("mysql://h",), environment={}), "must be NAME=URL"),
        (ConfigSources(backends=("a=mysq://h",), environment={}), "did you mean 'mysql'"),
        (ConfigSources(backends=("a=mysql://h?lissten=127.0.0.1:1",), environment={}), "did you mean 'listen'"),
        (ConfigSources(backends=("a=tcp://h:1?hold=1s&hold=2s",), environment={}), "is given twice"),
        *(
            (ConfigSources(backends=(f"a=tcp://h:1?{query}",), environment={}), f"{second}: cannot be combined with")
            for query, second in (
                ("allow=10.0.0.0/8&allow.label=x", "allow.label"),
                ("allow.networks=10.0.0.0/8&allow=0.0.0.0/0", "allow"),
                ("listen=127.0.0.1:7&listen.unix=/x", "listen.unix"),
            )
        ),
        (ConfigSources(backends=("a=tcp://u@h:1",), environment={}), "cannot contain a user"),
        (ConfigSources(settings={"shutdown-delay": "5"}, environment={}), "--shutdown-delay: shutdown.delay"),
        (
            ConfigSources(environment={"GATEWAY_BACKEND_A": "tcp://${NOPE}:1"}),
            "GATEWAY_BACKEND_A: the environment variable NOPE",
        ),
        (ConfigSources(Path("/nonexistent/gateway.yaml"), environment={}), "cannot be read: No such file"),
    ],
)
def test_errors_name_the_invalid_flag_and_the_fix(sources: ConfigSources, message: str) -> None:
    with pytest.raises(ConfigError, match=re.escape(message)):
        load(sources)


def test_a_url_may_contain_a_password_from_the_environment() -> None:
    config = load(ConfigSources(environment={"GATEWAY_BACKEND_A": "mysql://h?check.user=u&check.password=x"}))
    assert config.backends["a"].check_options.password == Secret("x")


def test_the_flags_of_the_commands_match_the_model() -> None:
    assert list(SETTINGS) == list(setting_names())


@pytest.mark.parametrize(("workers", "threads"), [("2", 2), ("0", "auto")])
def test_workers_are_a_deprecated_synonym_of_threads(tmp_path: Path, workers: str, threads: object) -> None:
    backend = "backends: {a: {kind: tcp, targets: ['a:1']}}\n"
    config = read(f"gateway: {{workers: {workers}}}\n{backend}", tmp_path)
    assert config == read(f"gateway: {{threads: {threads}}}\n{backend}", tmp_path)
    assert config.gateway.threads == threads
    (warning,) = setting_warnings(config)
    assert warning == (
        f"{tmp_path}/gateway.yaml:1:20: gateway.workers: is deprecated, because threads have replaced the worker"
        f" processes: set gateway.threads to {threads} instead"
    )
    assert read(backend, tmp_path, GATEWAY_WORKERS=workers).gateway.threads == threads


def test_valid_but_unwise_settings_give_advice(tmp_path: Path) -> None:
    config = read(
        "tunnels: {b: {kind: ssh, host: h, user: u, insecure_host_key: true}, c: {kind: ssh, host: h, user: u}}\n"
        "backends:\n"
        "  one: {kind: nfs, via: b, targets: nas, export: /one}\n"
        "  two: {kind: nfs, via: b, targets: [other, nas], export: /two, hold: 11m}\n"
        "  elsewhere: {kind: nfs, via: c, targets: nas, export: /one}\n"
        "  same: {kind: tcp, via: b, targets: 'nas:2049'}\n",
        tmp_path,
    )
    first, second, third = setting_warnings(config)
    assert first.startswith("tunnels.b.insecure_host_key: disables host key verification")
    assert second.startswith("backend two: hold is 660 s, but the kernel waits for a mount for at most 600 s")
    assert third.startswith("backend two: nas:2049 is also the server of backend one,")


def test_inner_keys_and_lists_of_a_section_are_settings_too(tmp_path: Path) -> None:
    path = tmp_path / "gateway.yaml"
    path.write_text("ops: {tls: {cert_file: /c, key_file: /k}}\nbackends: {a: {kind: tcp, targets: ['a:1']}}\n")
    given = {"GATEWAY_OPS_TLS_KEY_FILE": "/of/the/environment", "GATEWAY_OPS_HOSTS": "a.example, b.example,"}
    ops = load(ConfigSources(path, settings={"ops-tls-client-ca-file": "/ca"}, environment=given)).ops
    assert ops.tls == TlsServerFiles(Path("/c"), Path("/of/the/environment"), Path("/ca"))
    assert ops.hosts == ("a.example", "b.example")
    with pytest.raises(ConfigError, match=r"GATEWAY_OPS_TLS_KEY_FILE: ops\.tls\.cert_file: is missing"):
        load(ConfigSources(environment={**given, "GATEWAY_BACKEND_A": "tcp://a:1"}))


@pytest.mark.parametrize(
    ("ops", "wanted"),
    [
        ("{}", []),
        ("{listen: '[::1]:9090'}", []),
        ("{listen: '0.0.0.0:9090'}", ["ops.listen: 0.0.0.0:9090 shows"]),
        (
            "{listen: '0.0.0.0:9090', token_file: /t}",
            ["ops.token_file: clients send the token to 0.0.0.0:9090 without encryption"],
        ),
        ("{listen: '0.0.0.0:9090', token_file: /t, tls: {cert_file: /c, key_file: /k}}", []),
        ("{listen: '0.0.0.0:9090', tls: {cert_file: /c, key_file: /k}}", ["ops.listen: 0.0.0.0:9090 shows"]),
        ("{listen: '0.0.0.0:9090', tls: {cert_file: /c, key_file: /k, client_ca_file: /a}}", []),
    ],
)
def test_advice_about_ops(tmp_path: Path, ops: str, wanted: list[str]) -> None:
    config = read(f"ops: {ops}\nbackends: {{a: {{kind: tcp, targets: ['a:1']}}}}\n", tmp_path)
    found = setting_warnings(config)
    assert len(found) == len(wanted)
    assert all(sentence.startswith(start) for sentence, start in zip(found, wanted, strict=True))
    assert config.ops.authenticated == ("token_file" in ops or "client_ca_file" in ops)


@pytest.mark.parametrize("text", [r'log: {level: "\U00110000"}', r'log: {level: "\UFFFFFFFF"}'])
def test_an_escape_for_a_character_that_does_not_exist_is_an_error(tmp_path: Path, text: str) -> None:
    file = tmp_path / "gateway.yaml"
    file.write_text(text)
    with pytest.raises(
        ConfigError, match=r"gateway\.yaml:1:\d+: .*an escape sequence for a character that does not exist"
    ):
        load(ConfigSources(file, environment={}))
