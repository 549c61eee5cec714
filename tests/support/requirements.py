"""Skips tests whose requirements are missing, and runs commands that download files for tests."""

import os
import shutil
import subprocess
from pathlib import Path

import pytest

from gateway._dataplane import is_built
from gateway.demo.server_process import find


def need(condition: bool, what: str) -> None:
    """If `condition` is false, skip the test and report `what` as missing. In CI, fail the test instead."""
    if condition:
        return
    if os.environ.get("CI"):
        pytest.fail(f"missing in CI: {what}")
    pytest.skip(f"missing: {what}")


def need_sshd() -> None:
    need(find("sshd") is not None, "sshd (package openssh-server)")


def need_data_plane() -> None:
    need(is_built(), "the engine in C (build it with `python hatch_build.py`)")


def download(*command: str, cwd: Path | None = None, creates: Path | None = None, within: float = 600) -> None:
    """Run a command that downloads files. Retry it once after an error, because network errors can be temporary.

    Args:
        command: The program and its arguments.
        cwd: The working directory of the command.
        creates: The directory that the command creates. Before the second attempt, the directory is removed.
        within: The maximum time of an attempt, in seconds.

    Raises:
        SubprocessError: Both attempts failed.
    """
    try:
        subprocess.run(command, cwd=cwd, capture_output=True, timeout=within, check=True)
    except subprocess.SubprocessError:
        if creates is not None:
            shutil.rmtree(creates, ignore_errors=True)
        done = subprocess.run(command, cwd=cwd, capture_output=True, text=True, timeout=within, check=False)
        if done.returncode:
            raise subprocess.SubprocessError(f"{command[0]}: {done.stderr[-3000:]}") from None
