"""Tests strict mode and the protection of secrets, in commands and in the running gateway."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.files import PYTHON_PATH
from tests.support.gateway_process import Gateway, command
from tests.support.requirements import need

pytestmark = pytest.mark.integration


@pytest.fixture
def open_folder(server_folder: Path) -> Path:
    """A directory that every user of this machine can access."""
    folder = server_folder / "open"
    folder.mkdir(exist_ok=True)
    folder.chmod(0o755)
    return folder


PLAIN = "backends: {a: {kind: mysql, targets: '127.0.0.1:1', check: {user: u, password_file: FILE}}}\n"


def test_validate_strict_refuses_what_validate_accepts(tmp_path: Path) -> None:
    file, password = tmp_path / "c.yaml", tmp_path / "password"
    password.write_text("x")
    file.write_text(PLAIN.replace("FILE", str(password)))
    done = command("validate", "-c", str(file))
    assert (done.returncode, done.stdout) == (0, "valid: 0 tunnels, 1 backend\n")
    done = command("validate", "--strict", "-c", str(file))
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith(f"{file}:1:12: backends.a.check.tls.mode: is off, ")
    assert "use mode: verify" in done.stderr
    file.write_text("gateway: {strict: true}\n" + file.read_text())
    done = command("run", "-c", str(file))
    assert done.returncode == 2
    assert done.stderr.startswith(f"{file}:2:12: backends.a.check.tls.mode: ")


def test_validate_and_run_refuse_world_readable_files(open_folder: Path) -> None:
    file, password = open_folder / "c.yaml", open_folder / "password"
    password.write_text("hunter2")
    password.chmod(0o644)
    file.write_text(PLAIN.replace("FILE", str(password)))
    for name in ("validate", "run"):
        done = command(name, "-c", str(file))
        assert done.returncode == 2
        assert done.stderr == (
            f"{file}:1:85: backends.a.check.password_file: everybody can read it (mode 0644): chmod 640 {password}\n"
        )
    password.chmod(0o600)
    assert command("validate", "-c", str(file)).returncode == 0
    file.write_text(PLAIN.replace("password_file: FILE", "password: hunter2"))
    for name in ("validate", "run"):
        done = command(name, "-c", str(file))
        assert done.returncode == 2
        assert f"chmod 640 {file}" in done.stderr
        assert "hunter2" not in done.stderr
    file.chmod(0o600)
    assert command("validate", "-c", str(file)).returncode == 0


def test_a_value_from_the_environment_appears_nowhere_when_a_reload_is_refused(gateway: Gateway) -> None:
    good = "backends: {a: {kind: tcp, targets: '127.0.0.1:1'}}\n"
    gateway.write(good)
    gateway.start(environment={"DBPW": "hunter2-value"})
    for mistake in (
        "{kind: mysql, targets: db, check: {user: u, timeout: '${DBPW}'}}",
        "{kind: mysql, targets: db, check: {user: u, max_lag: 'x${DBPW}'}}",
        "{kind: mysql, targets: db, via: '${DBPW}'}",
        "{kind: '${DBPW}', targets: db}",
    ):
        gateway.write(good.replace("{kind: tcp, targets: '127.0.0.1:1'}", mistake))
        done = gateway.command("reload")
        assert done.returncode != 0
        assert "${DBPW}" in done.stderr
        assert "hunter2" not in done.stderr
        code, text = gateway.client.get("/api/v1/status")
        assert code == 200
        assert "${DBPW}" in str(text)
        assert "hunter2" not in str(text)
    assert "${DBPW}" in gateway.log
    assert "hunter2" not in gateway.log


@pytest.mark.parametrize(
    ("mount", "pod", "accepted"),
    [
        ("mount --bind password password", False, True),  # Docker mounts secrets of Compose and swarms in this way
        ("mount -t tmpfs none . && cd $PWD && echo x > password && chmod 444 password", True, True),
        # Outside Kubernetes, the tmpfs can be a bind mount from the host, so the check refuses the file.
        ("mount -t tmpfs none . && cd $PWD && echo x > password && chmod 444 password", False, False),
        # Docker mounts each secret as a file, so a file in a mounted directory is not accepted.
        ("mount --bind . . && cd $PWD", False, False),
    ],
    ids=["file", "kubernetes", "memory", "folder"],
)
def test_secrets_that_a_container_runtime_mounts_are_accepted(
    open_folder: Path, tmp_path: Path, mount: str, *, pod: bool, accepted: bool
) -> None:
    need(os.geteuid() == 0, "root")
    folder, file = open_folder / "mounted", tmp_path / "c.yaml"
    folder.mkdir(exist_ok=True)
    folder.chmod(0o755)
    password = folder / "password"
    password.write_text("x")
    password.chmod(0o444)
    file.write_text(PLAIN.replace("FILE", str(password)))
    done = subprocess.run(
        [
            "unshare",
            "-m",
            "sh",
            "-c",
            f"cd {folder} && {mount} && exec {sys.executable} -m gateway validate -c {file}",
        ],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
        env={
            **os.environ,
            "PYTHONPATH": PYTHON_PATH,
            **({"KUBERNETES_SERVICE_HOST": "10.96.0.1"} if pod else {}),
        },
    )
    assert done.returncode == (0 if accepted else 2), done.stderr
    assert ("everybody can read it" in done.stderr) is not accepted
