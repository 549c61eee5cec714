"""Tests how sources are merged, and values that would silently permit too much or have no effect."""

from pathlib import Path

import pytest

from gateway.app.config_diff import diff_configs
from gateway.backends.mysql import MysqlCheckOptions
from gateway.config import Config, ConfigSources, load
from gateway.errors import ConfigError, UsageError

BACKEND = "backends: {a: {kind: tcp, targets: 'db:1', listen: 127.0.0.1:7000, %s}}\n"


def read(text: str, folder: Path, settings: dict[str, str] | None = None, **environment: str) -> Config:
    file = folder / "gateway.yaml"
    file.write_text(text)
    return load(ConfigSources(file, settings=settings or {}, environment=environment))


def problem(text: str, folder: Path, settings: dict[str, str] | None = None, **environment: str) -> str:
    with pytest.raises(ConfigError) as caught:
        read(text, folder, settings, **environment)
    return str(caught.value)


@pytest.mark.parametrize("allow", ["allow: []", "allow: {networks: []}"])
def test_an_empty_list_of_networks_does_not_admit_all_clients(allow: str, tmp_path: Path) -> None:
    assert "is an empty list: add a value, or remove the key" in problem(BACKEND % allow, tmp_path)


@pytest.mark.parametrize(
    "text",
    [
        BACKEND.replace("127.0.0.1:7000", "{unix: /run/a.sock, uid: []}") % "hold: 1s",
        BACKEND % "hold: 1s" + "docker: {networks: {apps: {backends: []}}}\n",
        BACKEND % "hold: 1s" + "docker: {networks: {apps: {}}, attach: [{names: [web], backends: []}]}\n",
    ],
)
def test_other_empty_lists_do_not_permit_everything(text: str, tmp_path: Path) -> None:
    assert "is an empty list" in problem(text, tmp_path)


def test_an_empty_list_in_a_url_is_an_error(tmp_path: Path) -> None:
    text = problem(
        "{}\n", tmp_path, GATEWAY_BACKEND_A="tcp://db:1?listen=0.0.0.0:7000&allow=${NETWORKS}", NETWORKS=""
    )
    assert "backends.a.allow" in text


def test_an_empty_variable_does_not_remove_a_setting(tmp_path: Path) -> None:
    token = tmp_path / "token"
    token.write_text("t" * 40)
    token.chmod(0o600)
    text = BACKEND % "hold: 1s" + f"ops: {{token_file: {token}, hosts: [a.example.com]}}\n"
    config = read(text, tmp_path, GATEWAY_OPS_TOKEN_FILE="", GATEWAY_OPS_HOSTS="", GATEWAY_STRICT="")
    assert (config.ops.token_file, config.ops.hosts) == (token, ("a.example.com",))
    for flag in ("ops-token-file", "ops-hosts"):
        assert "is empty: add a value" in problem(text, tmp_path, {flag: ""})


@pytest.mark.parametrize("password", ["hunter&topsecret", "hunter#topsecret", "a=b,c?d"])
def test_a_variable_in_the_query_of_a_url_is_one_value(password: str, tmp_path: Path) -> None:
    url = "mysql://db?check.user=u&check.password=${PW}"
    check = read("{}\n", tmp_path, GATEWAY_BACKEND_A=url, PW=password).backends["a"].check_options
    assert isinstance(check, MysqlCheckOptions)
    assert check.password is not None
    assert check.password.reveal() == password


@pytest.mark.parametrize("url", ["ssh://user:pa/ss@bastion", "ssh://user:pass@bastion"])
def test_a_password_in_the_url_of_a_tunnel_is_an_error(url: str, tmp_path: Path) -> None:
    text = problem(BACKEND % "hold: 1s", tmp_path, GATEWAY_TUNNEL_T=f"{url}?known_hosts=/k")
    assert "the URL contains a password" in text


@pytest.mark.parametrize("listen", ["unix://run/app.sock", "unix:app.sock"])
def test_a_unix_listener_needs_an_absolute_path(listen: str, tmp_path: Path) -> None:
    text = problem(BACKEND.replace("127.0.0.1:7000", f"'{listen}'") % "hold: 1s", tmp_path)
    assert "must contain an absolute path, as in unix:///run/app.sock" in text


@pytest.mark.parametrize("endpoint", ["http://[localhost]:4318/v1/traces", "http://[::1/v1/traces", "http://h:x/v1"])
def test_an_invalid_address_of_a_collector_is_an_error(endpoint: str, tmp_path: Path) -> None:
    text = problem(BACKEND % "hold: 1s" + f"traces: {{endpoint: '{endpoint}'}}\n", tmp_path)
    assert "traces: endpoint:" in text or "traces.endpoint" in text


def test_a_new_hostname_does_not_prevent_a_reload(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("socket.gethostname", lambda: "localhost")
    old = read(BACKEND % "hold: 1s", tmp_path)
    monkeypatch.setattr("socket.gethostname", lambda: "db-1")
    assert diff_configs(old, read(BACKEND % "hold: 2s", tmp_path)).backends_changed == {"a"}
    with pytest.raises(UsageError, match=r"gateway\.instance"):
        diff_configs(old, read(BACKEND % "hold: 2s" + "gateway: {instance: x}\n", tmp_path))
