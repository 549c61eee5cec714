"""Starts gateways and gateway commands as forks of a process that has imported the gateway.

The imports take most of the processor time of a start, and the tests start hundreds of these processes.
"""

import atexit
import contextlib
import multiprocessing
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from multiprocessing import forkserver, reduction
from pathlib import Path
from typing import Any

from pyroute2 import netns  # type: ignore[import-untyped]

from gateway import __main__
from gateway.demo.server_process import ServerProcess, die_with_parent
from tests.support.files import PYTHON_PATH
from tests.support.worker_ports import use_own_ports

_CONTEXT = multiprocessing.get_context("forkserver")
_GATEWAY_MODULES = "tests.support.gateway_modules"
# Import pytest in the fork server too: without xdist, each fork runs the main module again, which imports pytest.
_CONTEXT.set_forkserver_preload(["pytest", _GATEWAY_MODULES, "tests.support.forked_process"])

_NAMESPACE_FILE = Path("/proc/thread-self/ns/net")
_NAMESPACE = _NAMESPACE_FILE.readlink()
_FIRST_NAMESPACE = os.open(_NAMESPACE_FILE, os.O_RDONLY)
_READ_AT_START = ("PYTHON", "LD_", "LC_", "LANG", "TZ", "TMPDIR", "OTEL_")
"""Prefixes of variables of the tests that the interpreter reads only at its start, or that modules read only when
they are imported."""


def can_fork(environment: dict[str, str] | None = None) -> bool:
    """Return False if a fork would ignore the value of one of these variables. See `_READ_AT_START`."""
    changed = {name for name, value in (environment or {}).items() if os.environ.get(name) != value}
    return not any(name.startswith(_READ_AT_START) for name in changed)


@contextlib.contextmanager
def _namespace_to_enter() -> Iterator["_Descriptor | None"]:
    """Yield this thread's network namespace for a fork to enter; None if the fork server runs in this namespace.

    The fork server always runs in the network namespace in which this process was started. If it is not running yet,
    start it in that namespace, not in a test's namespace, where it would be killed with the test's processes.
    """
    if _NAMESPACE_FILE.readlink() == _NAMESPACE:
        yield None
        return
    namespace = os.open(_NAMESPACE_FILE, os.O_RDONLY)
    try:
        try:
            netns.setns(_FIRST_NAMESPACE)
            forkserver.ensure_running()
        finally:
            netns.setns(namespace)
        yield _Descriptor(namespace)
    finally:
        os.close(namespace)


class _Descriptor:
    """A file descriptor as an argument of a new process. The process gets the number of a duplicate."""

    def __init__(self, number: int) -> None:
        self.number = number

    def __reduce__(self) -> tuple[Callable[..., int], tuple[Any, ...]]:
        return _detach, (reduction.DupFd(self.number),)


def _detach(passed: Any) -> int:
    return int(passed.detach())


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
        # Pass all variables: a fork inherits the environment variables that the fork server had at its start.
        variables = {**os.environ, "PYTHONPATH": PYTHON_PATH, **(environment or {})}
        with _namespace_to_enter() as namespace:
            self._process = _CONTEXT.Process(
                target=_run, args=(arguments, output, errors, folder, variables, namespace), daemon=True
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
        environment: Variables to add to the environment of this process.
    """

    def __init__(self, arguments: list[str], log: Path, environment: dict[str, str] | None = None) -> None:
        super().__init__(["gateway", *arguments], log)
        self._variables = environment

    def spawn(self) -> None:
        self._child = ForkedProcess(self._arguments[1:], self._log, self._log, "/", self._variables)


def _kill_all() -> None:
    """Kill the remaining forks. At exit, `multiprocessing` would wait for them without a timeout."""
    for process in multiprocessing.active_children():
        process.kill()


atexit.register(_kill_all)


def _run(
    arguments: list[str], output: Path, errors: Path, folder: str, environment: dict[str, str], namespace: int | None
) -> None:
    """Run a gateway command in this process. `namespace` is a descriptor of the network namespace to enter."""
    die_with_parent()
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
    for file, standard in ((output, 1), (errors, 2)):
        os.dup2(os.open(file, os.O_WRONLY | os.O_APPEND), standard)
    if namespace is not None:
        netns.setns(namespace)
    # If the fork server cannot import a preloaded module, `multiprocessing` ignores the error.
    assert _GATEWAY_MODULES in sys.modules, f"cannot import {_GATEWAY_MODULES}: import it to see the error"
    # If this process kept the descriptors of the fork server, the fork server would not exit with the test process.
    os.closerange(3, os.sysconf("SC_OPEN_MAX"))
    sys.stdin = open(0, closefd=False)  # noqa: SIM115 - multiprocessing has opened another descriptor
    os.setsid()
    os.chdir(folder)
    os.environ.clear()
    os.environ.update(environment)
    use_own_ports()
    sys.argv = ["gateway", *arguments]
    __main__.main()
