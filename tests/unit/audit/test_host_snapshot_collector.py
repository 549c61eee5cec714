"""Tests which facts about a container the audit reads from the files of its host."""

import ctypes
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from gateway.audit.host_filesystem_model import HostMount
from gateway.audit.host_snapshot_collector import with_files
from gateway.audit.snapshot_model import AuditedContainer, AuditSnapshot

PR_GET_NAME, PR_SET_NAME = 16, 15


@pytest.fixture
def truncated_name() -> Iterator[None]:
    """Give this process a name that ends in the middle of a character, as the kernel truncates long names."""
    libc = ctypes.CDLL(None)
    before = ctypes.create_string_buffer(16)
    libc.prctl(PR_GET_NAME, before)
    libc.prctl(PR_SET_NAME, b"service-donn\xc3")
    try:
        yield
    finally:
        libc.prctl(PR_SET_NAME, before)


def audited(folder: Path, user: str = "", pid: int = 0) -> AuditedContainer:
    inspection: dict[str, Any] = {
        "Config": {"User": user},
        "HostConfig": {},
        "State": {"Pid": pid},
        "GraphDriver": {"Data": {"UpperDir": str(folder / "upper"), "LowerDir": str(folder / "lower")}},
    }
    container = AuditedContainer("c0ffee", "app", inspection=inspection)
    snapshot = AuditSnapshot((container,), host_mounts=(HostMount("/", "ext4", "/dev/vda1", {}),))
    (found,) = with_files(snapshot, {"Name": "host"}, []).containers
    return found


def layers(folder: Path, *lower: str) -> None:
    for name in ("upper/srv/app/app.sqlite3", *lower):
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("x")
    (folder / "lower").mkdir(exist_ok=True)


@pytest.mark.parametrize(("lower", "expected"), [((), False), (("lower/srv/app/program",), True)])
def test_a_directory_of_the_layer_may_contain_files_of_the_image(
    tmp_path: Path, lower: tuple[str, ...], expected: bool
) -> None:
    layers(tmp_path, *lower)
    found = audited(tmp_path)
    assert found.changes is not None
    assert "/srv/app/app.sqlite3" in found.changes
    assert found.image_has_layer_directory is expected


@pytest.mark.usefixtures("truncated_name")
def test_the_user_of_a_running_container_is_that_of_its_process(tmp_path: Path) -> None:
    layers(tmp_path)
    for user, is_configured in ((str(os.geteuid()), True), ("4711", False)):
        found = audited(tmp_path, user, os.getpid()).user
        assert found is not None
        assert (found.uid, found.is_configured) == (os.geteuid(), is_configured)
    stopped = audited(tmp_path, "4711").user
    assert stopped is not None
    assert (stopped.uid, stopped.is_configured) == (4711, True)
