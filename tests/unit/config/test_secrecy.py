"""Secrets are not world-readable, and do not appear in errors."""

import re
from pathlib import Path

import pytest

from gateway import secret_files
from gateway.app.ops_settings import file_problems, ops_settings
from gateway.config import Sources, load
from gateway.config.files import check_files
from gateway.config.redaction import redact
from gateway.contracts.security import Secret
from gateway.errors import ConfigError, GatewayError, TunnelError
from gateway.ops.settings import read_secrets
from gateway.secret_files import ExposedError, check_not_exposed, read_private_key, read_secret

VALUE = "hunter2'/\\x"


@pytest.fixture
def open_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return a folder that the gateway considers reachable by all users, whatever its parent folders are."""
    monkeypatch.setattr(secret_files, "_is_traversable", lambda path: path.is_relative_to(tmp_path / "open"))
    folder = tmp_path / "open"
    folder.mkdir()
    return folder


def errors(text: str, folder: Path, **environment: str) -> list[str]:
    file = folder / "gateway.yaml"
    file.write_text(text)
    file.chmod(0o600)
    with pytest.raises(ConfigError) as caught:
        load(Sources(file, environment=environment))
    return [str(each) for each in caught.value.problems]


# Errors do not show values from the environment.


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
        load(Sources(environment={"GATEWAY_BACKEND_A": url, "DBPW": "hunter2%2Fx"}))
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
        load(Sources(environment=environment))
    assert "hunter2" not in str(caught.value)
    assert f"${{{variable}}}" in str(caught.value)


def test_a_name_in_a_gateway_variable_still_appears_in_other_errors(tmp_path: Path) -> None:
    file = tmp_path / "gateway.yaml"
    file.write_text("backends: {b: {kind: tcp, targets: 'b:1', via: bastoin}}")
    environment = {"GATEWAY_BACKEND_A": "tcp://a:1?via=bastion", "GATEWAY_TUNNEL_BASTION": "ssh://u@h"}
    with pytest.raises(ConfigError, match="there is no tunnel 'bastoin'; did you mean 'bastion'"):
        load(Sources(file, environment=environment))


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
    config = load(Sources(file, environment={"TOKEN": "hunter2hunter2hunter2"}))
    (problem,) = file_problems(config)
    assert "${TOKEN}" in problem.message
    assert "hunter2" not in str(problem)
    with pytest.raises(GatewayError) as caught:  # `run` and reloads call this function.
        read_secrets(ops_settings(config))
    assert "hunter2" not in f"{caught.value}{caught.value.__cause__}"


def test_a_secret_of_ops_in_a_gateway_variable_does_not_appear_in_errors() -> None:
    environment = {"GATEWAY_BACKEND_A": "tcp://a:1", "GATEWAY_OPS_TOKEN_FILE": "hunter2hunter2hunter2"}
    (problem,) = file_problems(load(Sources(environment=environment)))
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
    assert "set the path of the file" in found


def test_a_password_instead_of_its_file_does_not_appear_in_errors(tmp_path: Path) -> None:
    text = "backends: {a: {kind: mysql, targets: db, check: {user: u, password_file: '${DBPW}'}}}"
    file = tmp_path / "gateway.yaml"
    file.write_text(text)
    for password in ("hunter2", "/hunter2"):
        config = load(Sources(file, environment={"DBPW": password}))
        (problem,) = check_files(config)
        assert (problem.key, problem.message) == (
            "backends.a.check.password_file",
            "${DBPW}: No such file or directory",
        )
    with pytest.raises(OSError, match="No such file") as caught:
        Secret(path=Path("hunter2")).reveal()
    assert "hunter2" not in str(caught.value)
    assert "hunter2" not in repr(Secret(path=Path("hunter2")))


def test_short_values_do_not_mangle_other_words() -> None:
    values = {"abc": "${A}", "true": "${B}", "x": "${C}"}
    assert redact("'abc' differs from abcd, true", values) == "'${A}' differs from abcd, true"
    assert redact("secretvalue2", {"secretvalue": "${A}", "secretvalue2": "${B}"}) == "${B}"


# A file with secrets must not be readable by all users.


def test_a_world_readable_password_file_is_refused_with_advice(open_folder: Path) -> None:
    password = open_folder / "password"
    password.write_text("x")
    password.chmod(0o644)
    text = f"backends: {{a: {{kind: mysql, targets: db, check: {{user: u, password_file: {password}}}}}}}"
    (found,) = errors(text, open_folder)
    assert re.search(
        rf"gateway.yaml:1:74: backends.a.check.password_file: .*\(mode 0644\): chmod 640 {password}$", found
    )
    # The mode of a file may change while the service runs.
    with pytest.raises(OSError, match="chmod 640"):
        Secret(path=password).reveal()
    password.chmod(0o640)
    assert Secret(path=password).reveal() == "x"


def test_a_world_readable_configuration_with_a_secret_is_refused(open_folder: Path) -> None:
    file = open_folder / "gateway.yaml"
    literal = "backends: {a: {kind: mysql, targets: db, check: {user: u, password: hunter2}}}"
    for text, mode, refused in (
        (literal, 0o644, True),
        (literal, 0o640, False),
        (literal.replace("hunter2", "'${DBPW}'"), 0o644, False),  # The password is not in the file.
        (literal.replace(", password: hunter2", ""), 0o644, False),
    ):
        file.write_text(text)
        file.chmod(mode)
        if not refused:
            load(Sources(file, environment={"DBPW": "x"}))
            continue
        with pytest.raises(
            ConfigError, match=r"1:69: backends.a.check.password: .*chmod 640 .*password_file"
        ) as caught:
            load(Sources(file, environment={}))
        assert "hunter2" not in str(caught.value)


def test_files_in_a_folder_that_other_users_cannot_enter_are_accepted(tmp_path: Path) -> None:
    tmp_path.chmod(0o700)
    path = tmp_path / "password"
    path.write_text("x")
    path.chmod(0o644)
    check_not_exposed(path)
    assert not secret_files._is_traversable(path)
    assert secret_files._is_traversable(Path("/etc/passwd"))
    with pytest.raises(ExposedError):
        read_secret(Path("/etc/passwd"))


MOUNTS = """\
20 1 0:20 / / rw - overlay overlay rw
21 20 0:21 / /run rw - tmpfs tmpfs rw
22 20 0:22 / /run/secrets/password rw - ext4 /dev/vda rw
23 20 0:23 / /run/secrets/swarm\\040secret ro - tmpfs tmpfs ro
24 20 0:24 / /run/secrets/kubernetes ro - tmpfs tmpfs rw
25 20 0:25 / /etc/gateway ro - ext4 /dev/vda rw
26 20 0:26 / /mnt/ramdisk rw - tmpfs tmpfs rw
"""


@pytest.mark.parametrize(
    ("path", "on_host", "in_pod"),
    [
        ("/run/secrets/password", True, True),  # Docker Compose mounts the file itself.
        ("/run/secrets/swarm secret", True, True),
        ("/run/secrets/kubernetes/..data/key", False, True),
        ("/run/secrets/other", False, True),
        ("/mnt/ramdisk/key", False, True),
        ("/etc/gateway/gateway.yaml", False, False),  # A mounted folder of the host.
        ("/srv/secret", False, False),
    ],
)
def test_the_mode_of_a_file_that_a_container_runtime_mounts_is_accepted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, path: str, *, on_host: bool, in_pod: bool
) -> None:
    mounts = tmp_path / "mountinfo"
    mounts.write_text(MOUNTS)
    monkeypatch.setattr(secret_files, "_MOUNTS", mounts)
    monkeypatch.setattr(Path, "resolve", lambda path: path)
    monkeypatch.delenv("KUBERNETES_SERVICE_HOST", raising=False)
    assert secret_files._is_runtime_mount(Path(path)) is on_host
    monkeypatch.setenv("KUBERNETES_SERVICE_HOST", "10.96.0.1")
    assert secret_files._is_runtime_mount(Path(path)) is in_pod


def test_a_world_readable_key_that_a_container_runtime_mounts_is_used(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    key = tmp_path / "key"
    key.write_bytes(b"secret")
    key.chmod(0o444)
    with pytest.raises(TunnelError, match="chmod 600"):
        read_private_key(key)
    mounts = tmp_path / "mountinfo"
    mounts.write_text(f"1 0 0:1 / / rw - ext4 x rw\n2 1 0:1 / {key} ro - ext4 x rw\n")
    monkeypatch.setattr(secret_files, "_MOUNTS", mounts)
    assert read_private_key(key) == b"secret"


# The parser refuses documents that are too large.


def test_parsing_stops_at_too_many_values(tmp_path: Path) -> None:
    (found,) = errors(f"a: [{'x, ' * 250_000}]", tmp_path)
    assert "has more than 100000 values" in found


def test_a_file_that_is_too_large_is_refused(tmp_path: Path) -> None:
    file = tmp_path / "gateway.yaml"
    with file.open("wb") as opened:
        opened.truncate(1 << 32)
    with pytest.raises(ConfigError, match="is larger than 4 MiB"):
        load(Sources(file, environment={}))


def test_only_the_first_of_thousands_of_problems_are_reported(tmp_path: Path) -> None:
    mistakes = ", ".join(f"targetz{at}: 1" for at in range(60))
    text = f"d: &d {{kind: mysql, {mistakes}}}\nbackends:\n" + "".join(f"  b{at}: *d\n" for at in range(50))
    found = errors(text, tmp_path)
    assert len(found) == 201
    assert found[-1].endswith("more problems")
