"""Tests whether the gateway refuses a program that other users can change.

In strict mode, the gateway also refuses a program that the members of a group can change.
"""

import os
import stat
from collections.abc import Iterator
from pathlib import Path

import pytest

from gateway.errors import GatewayError
from gateway.processes.permission_checked_program import insecure_program, resolve_program
from gateway.processes.program_file_permissions import lookup_steps
from gateway.tunnels import KINDS
from tests.support.files import scratch

OTHER = 12345


@pytest.fixture
def program() -> Iterator[Path]:
    """A program in a folder that other users can traverse."""
    with scratch() as folder:
        (folder / "bin").mkdir(mode=0o755)
        path = folder / "bin" / "cloud"
        path.write_text("#!/bin/sh\n")
        path.chmod(stat.S_IRWXU)
        yield path


def weak(program: Path) -> list[str]:
    return [each.message for each in insecure_program("command", [str(program)])]


def test_a_program_of_root_or_of_the_gateway_is_secure(program: Path) -> None:
    assert resolve_program([str(program)]) == (str(program), str(program))
    assert weak(program) == weak(Path("/bin/sh")) == weak(program.parent / "none") == []


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root, to change owners")
@pytest.mark.parametrize("part", ["file", "folder"])
def test_strict_mode_refuses_a_program_that_a_group_can_change(program: Path, part: str) -> None:
    changed = program if part == "file" else program.parent
    os.chown(changed, -1, OTHER)
    assert weak(program) == []
    changed.chmod(0o775)
    what = "change it" if part == "file" else f"replace it in {changed}"
    message = f"runs {program}: the group {OTHER} can {what} (mode 0775): chmod g-w {changed}"
    assert weak(program) == [message]
    for kind, options in (
        ("command", {"command": (str(program),), "mode": "stdio"}),
        ("ssh", {"host": "h", "user": "u", "proxy_command": (str(program),)}),
    ):
        found = KINDS[kind].insecure_settings(KINDS[kind].options(**options), False)
        assert [each.message for each in found] == [message]
    resolve_program([str(program)])
    changed.chmod(0o1775 if part == "folder" else 0o755)
    assert weak(program) == []


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root, to change owners")
@pytest.mark.parametrize("part", ["file", "folder"])
def test_a_program_of_another_user_is_refused_for_root(
    program: Path, part: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    changed = program if part == "file" else program.parent
    os.chown(changed, OTHER, -1)
    problem = f"the user {OTHER}, who owns {changed}, can .*: chown root {changed}"
    with pytest.raises(GatewayError, match=problem):
        resolve_program([str(program)])
    monkeypatch.setattr(os, "geteuid", lambda: OTHER + 1)
    resolve_program([str(program)])
    assert len(weak(program)) == 1
    monkeypatch.setattr(os, "geteuid", lambda: OTHER)
    assert weak(program) == []


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root, to change owners")
@pytest.mark.parametrize("kind", ["folder", "sticky folder"])
def test_another_user_cannot_change_a_link_on_the_way_to_a_program(program: Path, kind: str) -> None:
    folder, other = program.parents[1], program.parents[1] / "other"
    other.mkdir(mode=0o755)
    (other / "directory").symlink_to(program.parent)
    (other / "cloud").symlink_to("directory/../bin/cloud")
    first = program.parent / "first"
    first.symlink_to(f"../{other.name}/cloud")
    assert resolve_program([str(first)]) == (str(first), str(program))
    if kind == "folder":
        changed = other
        os.chown(other, OTHER, -1)
    else:
        changed = other / "directory"
        other.chmod(0o1777)
        assert resolve_program([str(first)]).file == str(program)
        os.chown(changed, OTHER, -1, follow_symlinks=False)
    with pytest.raises(GatewayError, match=f"the user {OTHER}, who owns {changed}, can replace it"):
        resolve_program([str(first)])
    (other / "loop").symlink_to("loop")
    with pytest.raises(OSError, match="Too many levels"):
        lookup_steps(folder / "other/loop")
