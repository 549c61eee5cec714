"""Runs the gateway as a separate process, and runs gateway commands."""

import json
import os
import signal
import subprocess
import sys
import tempfile
import textwrap
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from gateway.demo.server_process import ServerProcess, free_port
from gateway.ops.ops_api_client import OpsApiClient
from tests.support.files import PYTHON_PATH
from tests.support.forked_process import ForkedProcess, ForkedServerProcess, can_fork

_COMMAND_TIMEOUT = 40.0


@dataclass
class Gateway:
    """A `gateway run` process.

    Args:
        folder: The directory for the gateway's files.
    """

    folder: Path
    ops_port: int = field(default_factory=free_port)
    process: ServerProcess | None = None
    started: float = 0.0
    wrapper: list[str] = field(default_factory=list)
    """A command to which the gateway's command line is appended, such as `systemd-socket-activate`."""

    @property
    def config(self) -> Path:
        return self.folder / "gateway.yaml"

    @property
    def admin_socket(self) -> Path:
        return self.folder / "admin.sock"

    @property
    def client(self) -> OpsApiClient:
        return OpsApiClient(None, str(self.admin_socket))

    @property
    def http(self) -> OpsApiClient:
        return OpsApiClient(f"http://127.0.0.1:{self.ops_port}", "")

    @property
    def log(self) -> str:
        return (self.folder / "gateway.log").read_text()

    def write(self, body: str, shutdown: str = "{delay: 0s, drain: 3s}") -> None:
        head = f"""
            gateway: {{instance: test, state_dir: {self.folder}/state}}
            ops: {{listen: 127.0.0.1:{self.ops_port}, admin_socket: {self.admin_socket}}}
            shutdown: {shutdown}
        """
        self.config.write_text(textwrap.dedent(head) + textwrap.dedent(body))

    def start(self, *arguments: str, environment: dict[str, str] | None = None) -> "Gateway":
        run = ["run", *(["-c", str(self.config)] if self.config.exists() else []), *arguments]
        log = self.folder / "gateway.log"
        if self.wrapper or not can_fork(environment):
            command = [*self.wrapper, sys.executable, "-m", "gateway", *run]
            self.process = ServerProcess(command, log, environment={"PYTHONPATH": PYTHON_PATH, **(environment or {})})
        else:
            self.process = ForkedServerProcess(run, log, environment)
        self.started = time.monotonic()
        self.process.start(self.ops_port)
        return self

    @property
    def pid(self) -> int:
        assert self.process is not None
        return self.process.pid

    def stop(self) -> None:
        if self.process is not None:
            self.process.stop(signal.SIGTERM)

    def status(self) -> dict[str, Any]:
        code, body = self.client.get("/api/v1/status")
        assert code == 200
        return dict(body)

    def backend(self, name: str) -> dict[str, Any]:
        return dict(self.status()["backends"][name])

    def state(self, name: str) -> tuple[str, str | None]:
        backend = self.backend(name)
        return backend["state"], backend["reason"]

    def tunnel(self, name: str) -> dict[str, Any]:
        return dict(self.status()["tunnels"][name])

    def wait(self, condition: Callable[[], bool], timeout: float = 60.0) -> float:
        """Wait until the condition is true; return the duration of the wait in seconds."""
        started = time.monotonic()
        while True:
            # Evaluate the condition once more after the timeout. A busy machine can pause this process for a long
            # time between two evaluations.
            late = time.monotonic() - started > timeout
            if condition():
                return time.monotonic() - started
            if late:
                status = json.dumps(self.status(), indent=1)
                pytest.fail(f"the condition does not hold within {timeout} s; status: {status}\n{self.log}")
            # The condition usually sends a request to the gateway, and the request uses processor time. Therefore,
            # evaluate the condition less often during a long wait.
            time.sleep(min(0.5, max(0.05, (time.monotonic() - started) / 50)))

    def wait_up(self, *names: str, timeout: float = 60.0) -> float:
        return self.wait(lambda: all(self.state(name)[0] == "up" for name in names), timeout)

    def wait_state(self, name: str, state: str, reason: str | None, timeout: float = 60.0) -> float:
        return self.wait(lambda: self.state(name) == (state, reason), timeout)

    def command(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        return command(*arguments, "--admin-socket", str(self.admin_socket))

    def descriptors(self) -> int:
        return len(list(Path(f"/proc/{self.pid}/fd").iterdir()))


def command(
    *arguments: str, environment: dict[str, str] | None = None, timeout: float = _COMMAND_TIMEOUT
) -> subprocess.CompletedProcess[str]:
    """Run a gateway command, and wait until it exits. A large value of COLUMNS prevents line breaks in the output."""
    variables = {"COLUMNS": "1000", **(environment or {})}
    if not can_fork(environment):
        return subprocess.run(
            [sys.executable, "-m", "gateway", *arguments],
            capture_output=True,
            text=True,
            timeout=timeout,
            check=False,
            env={**os.environ, "PYTHONPATH": PYTHON_PATH, **variables},
        )
    with tempfile.TemporaryDirectory() as folder:
        output, errors = Path(folder, "output"), Path(folder, "errors")
        process = ForkedProcess(list(arguments), output, errors, str(Path.cwd()), variables)
        try:
            code = process.wait(timeout)
        except BaseException:
            process.kill()
            process.wait()
            raise
        return subprocess.CompletedProcess(["gateway", *arguments], code, output.read_text(), errors.read_text())


def complete_audit(*options: str, environment: dict[str, str] | None = None) -> subprocess.CompletedProcess[str]:
    """Run `gateway audit`. Repeat the audit if it has not read all files.

    The audit has a time limit for reading files, which a busy machine can exceed.
    """
    for _ in range(10):
        done = command("audit", *options, environment=environment)
        if "stopped reading files" not in done.stdout:
            return done
    pytest.fail(f"ten audits have reached their time limit:\n{done.stdout}")
