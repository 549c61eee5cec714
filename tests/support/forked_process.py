"""Starts gateways as forks of a process that has imported the gateway.

The imports take most of the processor time of a start, and the tests start hundreds of gateways.
"""

import multiprocessing
import os
import subprocess
import sys
from pathlib import Path
from typing import override

from gateway import __main__
from gateway.demo.server_process import ServerProcess, die_with_parent

_CONTEXT = multiprocessing.get_context("forkserver")
_CONTEXT.set_forkserver_preload(["__main__", "tests.support.gateway_modules"])


class _Fork:
    """A child of the fork server, with the interface of `subprocess.Popen`."""

    def __init__(self, arguments: list[str], log: Path) -> None:
        # The fork server keeps the environment of its start.
        self._process = _CONTEXT.Process(target=_run, args=(arguments, log, dict(os.environ)), daemon=True)
        self._process.start()
        self.pid = self._process.pid or 0

    def poll(self) -> int | None:
        return self._process.exitcode

    def wait(self, timeout: float | None = None) -> int:
        self._process.join(timeout)
        code = self._process.exitcode
        if code is None:
            raise subprocess.TimeoutExpired("gateway", timeout or 0.0)
        return code


class ForkedGatewayProcess(ServerProcess):
    """A `gateway` command that runs in a fork.

    The process has the limits and the namespaces of the fork server, and not those that the test process has now.

    Args:
        arguments: The command-line arguments after `gateway`.
        log: The file for the output.
    """

    def __init__(self, arguments: list[str], log: Path) -> None:
        super().__init__(["gateway", *arguments], log)

    @override
    def spawn(self) -> None:
        self._child = _Fork(self._arguments, self._log)


def _run(arguments: list[str], log: Path, environment: dict[str, str]) -> None:
    """Run a gateway command in this process."""
    output = os.open(log, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o644)
    for standard in (1, 2):
        os.dup2(output, standard)
    # If this process kept the descriptors of the fork server, the fork server would not exit with the test process.
    os.closerange(3, os.sysconf("SC_OPEN_MAX"))
    os.setsid()
    die_with_parent()
    os.chdir("/")
    os.environ.clear()
    os.environ.update(environment)
    sys.argv = arguments
    __main__.main()
