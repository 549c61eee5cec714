"""Checks and downloads what tests need."""

import os
import shutil
import subprocess
from pathlib import Path

import pytest

from gateway._dataplane import is_built
from gateway.demo.server_process import find


def need(condition: bool, what: str) -> None:
    """If a requirement is missing, skip the test and report the requirement; in CI, fail the test."""
    if condition:
        return
    if os.environ.get("CI"):
        pytest.fail(f"missing in CI: {what}")
    pytest.skip(f"missing: {what}")


def need_sshd() -> None:
    """Skip the test, or fail it in CI, if OpenSSH's server is missing."""
    need(find("sshd") is not None, "sshd (package openssh-server)")


def need_data_plane() -> None:
    """Skip the test, or fail it in CI, if the native engine was not built."""
    need(is_built(), "the engine in C (build it with `python hatch_build.py`)")


def download(*command: str, cwd: Path | None = None, creates: Path | None = None, within: float = 600) -> None:
    """Run a command that downloads something; retry it once, because the network is not under test.

    Args:
        command: The program and its arguments.
        cwd: The working directory of the command.
        creates: A directory that the command creates; it is removed before the second attempt.
        within: The maximum time of an attempt, in seconds.

    Raises:
        SubprocessError: The command failed twice; the message contains its error output.
    """
    try:
        subprocess.run(command, cwd=cwd, capture_output=True, timeout=within, check=True)
    except subprocess.SubprocessError:
        if creates is not None:
            shutil.rmtree(creates, ignore_errors=True)
        done = subprocess.run(command, cwd=cwd, capture_output=True, text=True, timeout=within, check=False)
        if done.returncode:
            raise subprocess.SubprocessError(f"{command[0]}: {done.stderr[-3000:]}") from None
