"""Programs and downloads that tests need."""

import os
import subprocess
from pathlib import Path

import pytest

from gateway.demo.process import find


def need(condition: bool, what: str) -> None:
    """Skip with the missing requirement as the reason; in CI, fail."""
    if condition:
        return
    if os.environ.get("CI"):
        pytest.fail(f"missing in CI: {what}")
    pytest.skip(f"missing: {what}")


def need_sshd() -> None:
    """Skip, or fail in CI, if OpenSSH's server is missing."""
    need(find("sshd") is not None, "sshd (package openssh-server)")


def download(*command: str, cwd: Path | None = None, within: float = 180) -> None:
    """Run a command that downloads something, and retry it once: the network is not under test.

    Raises:
        SubprocessError: It failed both times; with what it said.
    """
    try:
        subprocess.run(command, cwd=cwd, capture_output=True, timeout=within, check=True)
    except subprocess.SubprocessError:
        done = subprocess.run(command, cwd=cwd, capture_output=True, text=True, timeout=within, check=False)
        if done.returncode:
            raise subprocess.SubprocessError(f"{command[0]}: {done.stderr[-3000:]}") from None
