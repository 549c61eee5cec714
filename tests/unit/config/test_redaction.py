"""Secrets do not appear in errors about the configuration."""

from pathlib import Path

import pytest

from gateway.app.ops_settings import file_problems, ops_settings
from gateway.config import ConfigSources, load
from gateway.config.redaction import Redactor, redact
from gateway.config.referenced_file_checks import check_files
from gateway.contracts.secret import Secret
from gateway.errors import ConfigError, GatewayError
from gateway.ops.settings import read_secrets

VALUE = "hunter2'/\\x"


def errors(text: str, folder: Path, **environment: str) -> list[str]:
    file = folder / "gateway.yaml"
    file.write_text(text)
    file.chmod(0o600)
    with pytest.raises(ConfigError) as caught:
        load(ConfigSources(file, environment=environment))
    return [str(each) for each in caught.value.problems]


# Tests that errors do not show values from the environment.


@pytest.mark.parametrize(
    "text",
    [
        "backends: {a: {kind: mysql, targets: db, check: {interval: '${DBPW}'}}}",
        "backends: {a: {kind: mysql, targets: db, check: {user: u, max_lag: 'x${DBPW}'}}}",
        "backends: {a: {kind: mysql, targets: db, max_connections: '${DBPW}'}}",
        "backends: {a: {kind: mysql, targets: db, prefer: '${DBPW}'}}",
        "backends: {a: {kind: mysql, targets: 'db:${DBPW}'}}",
        "backends: {a: {kind: mysql, targets: db, listen: '${DBPW}'}}",
        "backends: {a: {kind: mysql, targets: db, via: '${DBPW}'}}",
        "backends: {a: {kind: '${DBPW}', targets: db}}",
        "backends: {a: {kind: mysql, targets: db, allow: ['${DBPW}']}}",
        "tunnels: {t: {kind: ssh, host: 'x@${DBPW}', user: u}}\nbackends: {a: {kind: mysql, targets: db}}",
        "tunnels: {t: {kind: ssh, host: h, user: u, host_keys: 'SHA256:${DBPW}'}}\nbackends: {}",
        "tunnels: {t: {kind: proxy, url: '${DBPW}'}}\nbackends: {a: {kind: mysql, targets: db}}",
        "docker: {host: '${DBPW}'}\nbackends: {a: {kind: mysql, targets: db}}",
        "log: {level: '${DBPW}'}\nbackends: {a: {kind: mysql, targets: db}}",
    ],
)  # fmt: skip
def test_a_value_from_the_environment_does_not_appear_in_errors(tmp_path: Path, text: str) -> None:
    found = errors(text, tmp_path, DBPW=VALUE)
    assert found
    for each in found:
        assert "hunter2" not in each
    assert any("${DBPW}" in each for each in found)


def test_a_value_within_a_url_of_the_environment_does_not_appear_in_errors() -> None:
    url = "mysql://db?check.interval=${DBPW}&prefer=${DBPW}"
    with pytest.raises(ConfigError) as caught:
        load(ConfigSources(environment={"GATEWAY_BACKEND_A": url, "DBPW": "hunter2%2Fx"}))
    assert len(caught.value.problems) == 2
    assert "hunter2" not in str(caught.value)


@pytest.mark.parametrize(
    ("variable", "value"),
    [
        ("GATEWAY_BACKEND_DB", "mysql://db?check.user=u&check.timeout=hunter2x"),
        ("GATEWAY_BACKEND_DB", "mysql://db?allow=10.0.0.0/8,hunter2x"),
        ("GATEWAY_TUNNEL_T", "ssh://u@h?kex=hunter2x"),
        ("GATEWAY_OPS_LISTEN", "hunter2x"),
        ("GATEWAY_OPS_HOSTS", "good.example,hunter2 x"),
        ("GATEWAY_OPS_PROBE_LISTEN", "hunter2"),
    ],
)
def test_a_value_of_a_gateway_variable_does_not_appear_in_errors(variable: str, value: str) -> None:
    environment = {"GATEWAY_BACKEND_A": "tcp://a:1", variable: value}
    with pytest.raises(ConfigError) as caught:
        load(ConfigSources(environment=environment))
    assert "hunter2" not in str(caught.value)
    assert f"${{{variable}}}" in str(caught.value)


def test_a_name_in_a_gateway_variable_still_appears_in_other_errors(tmp_path: Path) -> None:
    file = tmp_path / "gateway.yaml"
    file.write_text("backends: {b: {kind: tcp, targets: 'b:1', via: bastoin}}")
    environment = {"GATEWAY_BACKEND_A": "tcp://a:1?via=bastion", "GATEWAY_TUNNEL_BASTION": "ssh://u@h"}
    with pytest.raises(ConfigError, match="there is no tunnel 'bastoin'; did you mean 'bastion'"):
        load(ConfigSources(file, environment=environment))


@pytest.mark.parametrize("key", ["token_file", "metrics_token_file", "tls.cert_file"])
def test_a_secret_instead_of_a_file_of_ops_does_not_appear_in_errors(tmp_path: Path, key: str) -> None:
    token, other = tmp_path / "token", tmp_path / "other"
    for each in (token, other):
        each.write_text("x" * 32)
        each.chmod(0o600)
    written = {"token_file": str(other), "tls.key_file": str(token), key: "${TOKEN}"}
    inner = ", ".join(f"{name.removeprefix('tls.')}: '{value}'" for name, value in written.items() if "tls." in name)
    tls = f", tls: {{{inner}}}" if key.startswith("tls") else ""
    text = ", ".join(f"{name}: '{value}'" for name, value in written.items() if "tls." not in name)
    file = tmp_path / "gateway.yaml"
    file.write_text(f"ops: {{{text}{tls}}}\nbackends: {{a: {{kind: tcp, targets: 'a:1'}}}}")
    config = load(ConfigSources(file, environment={"TOKEN": "hunter2hunter2hunter2"}))
    (problem,) = file_problems(config)
    assert "${TOKEN}" in problem.message
    assert "hunter2" not in str(problem)
    with pytest.raises(GatewayError) as caught:  # `gateway run` and reloads call `read_secrets`.
        read_secrets(ops_settings(config))
    assert "hunter2" not in f"{caught.value}{caught.value.__cause__}"


def test_a_secret_of_ops_in_a_gateway_variable_does_not_appear_in_errors() -> None:
    environment = {"GATEWAY_BACKEND_A": "tcp://a:1", "GATEWAY_OPS_TOKEN_FILE": "hunter2hunter2hunter2"}
    (problem,) = file_problems(load(ConfigSources(environment=environment)))
    assert (problem.place, "hunter2" in problem.message) == ("GATEWAY_OPS_TOKEN_FILE", False)


@pytest.mark.parametrize("password", ["*hunter2x", "!hunter2!x", "!<hunter2", "&hunter2 &hunter2"])
def test_an_unquoted_password_does_not_appear_in_errors_about_yaml(tmp_path: Path, password: str) -> None:
    text = f"backends: {{a: {{kind: mysql, targets: db, check: {{user: u, password: {password}}}}}}}"
    found = errors(text, tmp_path)
    assert found
    assert "hunter2" not in "".join(found)


def test_the_content_of_a_key_instead_of_its_path_does_not_appear_in_errors(tmp_path: Path) -> None:
    key = "-----BEGIN OPENSSH PRIVATE KEY-----\nabcdef\n-----END OPENSSH PRIVATE KEY-----"
    text = "tunnels: {t: {kind: ssh, host: h, user: u, identity_files: '${KEY}'}}"
    (found,) = errors(text, tmp_path, KEY=key)
    assert "abcdef" not in found
    assert "set the path of that file" in found


def test_errors_show_paths_from_the_environment(tmp_path: Path) -> None:
    file = tmp_path / "gateway.yaml"
    file.write_text(
        "tunnels: {t: {kind: ssh, host: h, user: u, agent: '${SSH_AUTH_SOCK}', known_hosts: '${HOME}/${NAME}'}}\n"
        "backends: {a: {kind: mysql, targets: db, check: {user: u, password_file: '${HOME}/secret'}}}"
    )
    environment = {"HOME": "/absent/home", "SSH_AUTH_SOCK": "/absent/agent", "NAME": "hosts"}
    problems = check_files(load(ConfigSources(file, environment=environment)))
    assert [each.message.partition(":")[0] for each in problems] == [
        "/absent/agent", "${HOME}/${NAME}", "/absent/home/secret"
    ]  # fmt: skip


def test_a_password_instead_of_its_file_does_not_appear_in_errors(tmp_path: Path) -> None:
    text = "backends: {a: {kind: mysql, targets: db, check: {user: u, password_file: '${DBPW}'}}}"
    file = tmp_path / "gateway.yaml"
    file.write_text(text)
    for password in ("hunter2", "/hunter2"):
        config = load(ConfigSources(file, environment={"DBPW": password}))
        (problem,) = check_files(config)
        assert (problem.key, problem.message) == (
            "backends.a.check.password_file",
            "${DBPW}: No such file or directory: create the file, or correct the path",
        )
    with pytest.raises(OSError, match="No such file") as caught:
        Secret(path=Path("hunter2")).reveal()
    assert "hunter2" not in str(caught.value)
    assert "hunter2" not in repr(Secret(path=Path("hunter2")))


def test_short_values_do_not_mangle_other_words() -> None:
    values = {"abc": "${A}", "true": "${B}", "x": "${C}"}
    assert redact("'abc' differs from abcd, true", values) == "'${A}' differs from abcd, true"
    assert redact("secretvalue2", {"secretvalue": "${A}", "secretvalue2": "${B}"}) == "${B}"


@pytest.mark.parametrize(
    ("message", "shown"),
    [
        ("'secret' is not one of x; did you mean 'secrets'?", "'$' is not one of x; did you mean 'secrets'?"),
        ("'secret' is not one of secrets, x", "'$' is not one of secrets, x"),
        ("no tunnel 'secret'; did you mean 'secrets'?", "no tunnel '$'; did you mean 'secrets'?"),
        ("no tunnel 'secret': use one of secrets", "no tunnel '$': use one of secrets"),
        ("unknown kind 'secret': use 'secrets'", "unknown kind '$': use 'secrets'"),
        ("'x is not one of secret' is not valid", "'x is not one of $' is not valid"),
        ("'; did you mean 'secret'?' is not one of x", "'; did you mean '$'?' is not one of x"),
        ("30secret; did you mean 30secrets?", "30$; did you mean 30$s?"),
    ],
)  # fmt: skip
def test_a_suggestion_is_not_redacted(message: str, shown: str) -> None:
    assert Redactor({"secret": "$"}).redact(message, "") == shown
