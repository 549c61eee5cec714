"""Starts gateways and gateway commands as forks of a process that has imported the gateway.

The imports take most of the processor time of a start, and the tests start hundreds of these processes.
"""

import atexit
import multiprocessing
import os
import subprocess
import sys
from pathlib import Path

from gateway import __main__
from gateway.demo.server_process import ServerProcess, die_with_parent
from tests.support.files import PYTHON_PATH

_CONTEXT = multiprocessing.get_context("forkserver")
_GATEWAY_MODULES = "tests.support.gateway_modules"
# Without xdist, each fork runs the main module, which imports pytest.
_CONTEXT.set_forkserver_preload(["pytest", _GATEWAY_MODULES, "tests.support.forked_process"])


def _network_namespace() -> str:
    return str(Path("/proc/thread-self/ns/net").readlink())


_NAMESPACE = _network_namespace()


def can_fork() -> bool:
    """Return whether a fork has the network namespace of this thread.

    A fork has the namespaces and resource limits that this process had when it started its first fork. This function
    compares only the network namespace, because the tests change no other namespace of this process.
    """
    return _network_namespace() == _NAMESPACE


class ForkedProcess:
    """A gateway command that runs in a fork, with the methods of `subprocess.Popen` that `ServerProcess` uses.

    Args:
        arguments: The command-line arguments after `gateway`.
        output: The file for standard output.
        errors: The file for standard error.
        folder: The working directory.
        environment: Variables to add to the environment of this process.
    """

    def __init__(
        self, arguments: list[str], output: Path, errors: Path, folder: str, environment: dict[str, str] | None = None
    ) -> None:
        for file in (output, errors):
            file.touch()
        # The fork server still has the environment variables from its start.
        variables = {**os.environ, "PYTHONPATH": PYTHON_PATH, **(environment or {})}
        self._process = _CONTEXT.Process(
            target=_run, args=(arguments, output, errors, folder, variables), daemon=True
        )
        self._process.start()
        assert self._process.pid is not None
        self.pid: int = self._process.pid

    def poll(self) -> int | None:
        return self._process.exitcode

    def wait(self, timeout: float | None = None) -> int:
        self._process.join(timeout)
        code = self._process.exitcode
        if code is None:
            raise subprocess.TimeoutExpired("gateway", timeout or 0.0)
        return code

    def kill(self) -> None:
        self._process.kill()


class ForkedServerProcess(ServerProcess):
    """A gateway service that runs in a fork.

    Args:
        arguments: The command-line arguments after `gateway`.
        log: The file for the output.
    """

    def __init__(self, arguments: list[str], log: Path) -> None:
        super().__init__(["gateway", *arguments], log)

    def spawn(self) -> None:
        self._child = ForkedProcess(self._arguments[1:], self._log, self._log, "/")


def _kill_all() -> None:
    """Kill the remaining forks. At exit, `multiprocessing` would wait for them without a timeout."""
    for process in multiprocessing.active_children():
        process.kill()


atexit.register(_kill_all)


def _run(arguments: list[str], output: Path, errors: Path, folder: str, environment: dict[str, str]) -> None:
    """Run a gateway command in this process."""
    die_with_parent()
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
    for file, standard in ((output, 1), (errors, 2)):
        os.dup2(os.open(file, os.O_WRONLY | os.O_APPEND), standard)
    # `multiprocessing` ignores a failed import of the fork server.
    assert _GATEWAY_MODULES in sys.modules, f"cannot import {_GATEWAY_MODULES}: import it to see the error"
    # If this process kept the descriptors of the fork server, the fork server would not exit with the test process.
    os.closerange(3, os.sysconf("SC_OPEN_MAX"))
    sys.stdin = open(0, closefd=False)  # noqa: SIM115 - multiprocessing has opened another descriptor
    os.setsid()
    os.chdir(folder)
    os.environ.clear()
    os.environ.update(environment)
    sys.argv = ["gateway", *arguments]
    __main__.main()
