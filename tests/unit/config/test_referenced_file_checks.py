"""The gateway refuses a configuration or password file if the file contains a secret and all users can read it."""

from pathlib import Path

import pytest

from gateway import secret_files
from gateway.config import ConfigSources, load
from gateway.contracts.secret import Secret
from gateway.errors import ConfigError


@pytest.fixture
def open_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return a folder that the code considers accessible to all users, even if a parent folder is private."""
    monkeypatch.setattr(secret_files, "_is_traversable", lambda path: path.is_relative_to(tmp_path / "open"))
    folder = tmp_path / "open"
    folder.mkdir()
    return folder


def test_a_world_readable_password_file_is_refused_with_advice(open_folder: Path) -> None:
    password = open_folder / "password"
    password.write_text("x")
    password.chmod(0o644)
    text = f"backends: {{a: {{kind: mysql, targets: db, check: {{user: u, password_file: {password}}}}}}}"
    file = open_folder / "gateway.yaml"
    file.write_text(text)
    file.chmod(0o600)
    wanted = rf"gateway.yaml:1:74: backends.a.check.password_file: .*\(mode 0644\): chmod 640 {password}$"
    with pytest.raises(ConfigError, match=wanted):
        load(ConfigSources(file, environment={}))
    # The mode of the password file can change while the service runs.
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
        (literal.replace("hunter2", "'${DBPW}'"), 0o644, False),  # the file does not contain the secret
        (literal.replace(", password: hunter2", ""), 0o644, False),
    ):
        file.write_text(text)
        file.chmod(mode)
        if not refused:
            load(ConfigSources(file, environment={"DBPW": "x"}))
            continue
        with pytest.raises(
            ConfigError, match=r"1:69: backends.a.check.password: .*chmod 640 .*password_file"
        ) as caught:
            load(ConfigSources(file, environment={}))
        assert "hunter2" not in str(caught.value)
