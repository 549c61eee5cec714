import os
from pathlib import Path

import pytest

from gateway import default_file_paths
from gateway.errors import GatewayError


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Simulate a user without write access to system folders. Return the runtime folder of this user."""
    own, runtime = os.geteuid(), tmp_path / "runtime"
    runtime.mkdir()
    monkeypatch.setattr(default_file_paths, "_SYSTEM_RUN", tmp_path / "none")
    monkeypatch.setattr(default_file_paths, "_SYSTEM_STATE", tmp_path / "none")
    monkeypatch.setattr(default_file_paths, "_private_folder", lambda: tmp_path / "private")
    monkeypatch.setattr(os, "geteuid", lambda: own or 12345)
    if own == 0:
        os.chown(runtime, 12345, -1)
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(runtime))
    return runtime


def test_a_user_has_a_socket_in_the_runtime_folder(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert default_file_paths.admin_socket() == folder / "gateway" / "admin.sock"
    monkeypatch.setenv("XDG_RUNTIME_DIR", "/proc")  # The owner of /proc is root.
    private = folder.parent / "private"
    assert default_file_paths.admin_socket() == private / "admin.sock"
    monkeypatch.setenv("XDG_STATE_HOME", "/home/x/state")
    assert default_file_paths.state_dir() == Path("/home/x/state/gateway")


def test_a_folder_of_another_user_below_tmp_is_refused(folder: Path) -> None:
    socket = folder.parent / "private" / "admin.sock"
    assert default_file_paths.is_trusted(socket)
    socket.parent.mkdir(mode=0o700)
    if os.getuid() == 0:
        os.chown(socket.parent, 12345, -1)
    default_file_paths.make_folder(socket)
    socket.parent.chmod(0o777)
    assert not default_file_paths.is_trusted(socket)
    with pytest.raises(GatewayError, match="other users can write to it: remove it"):
        default_file_paths.make_folder(socket)
