"""Runs servers and commands as child processes, which do not outlive this process."""

import contextlib
import ctypes
import os
import secrets
import shutil
import signal
import socket
import subprocess
import time
from pathlib import Path
from typing import Protocol

from gateway.command_tunnel.sock_diag import is_listening
from gateway.errors import GatewayError

_PR_SET_PDEATHSIG = 1
_SIGSTOP_TIMEOUT = 5.0
"""Maximum seconds to wait until SIGSTOP has stopped every thread."""
_LIBC = ctypes.CDLL(None, use_errno=True)


class DemoError(GatewayError):
    """A server of the demo cannot start, or fails."""


PORTS = range(15000, 32000)
"""Ports for servers. The kernel uses higher ports for outgoing connections (ip(7), ip_local_port_range), so no
outgoing connection uses a port that `free_port` has returned."""
_allocated: set[int] = set()


def free_port() -> int:
    """Return a free TCP port of 127.0.0.1. Never return the same port twice."""
    while True:
        port = secrets.choice(PORTS)
        if port in _allocated:
            continue
        with socket.socket() as sock, contextlib.suppress(OSError):
            sock.bind(("127.0.0.1", port))
            _allocated.add(port)
            return port


def find(program: str, *folders: str) -> str | None:
    """Return the path of a program; None if it is not installed.

    Args:
        program: The name of the program.
        folders: Absolute paths of folders to search after PATH and the system folders. The paths can contain
            wildcards.
    """
    places = [str(path) for folder in folders for path in sorted(Path("/").glob(folder.lstrip("/")), reverse=True)]
    search = os.pathsep.join([os.environ.get("PATH", ""), "/usr/sbin", "/sbin", *places])
    return shutil.which(program, path=search)


class _Child(Protocol):
    """The part of `subprocess.Popen` that `ServerProcess` uses."""

    pid: int

    def poll(self) -> int | None: ...

    def wait(self, timeout: float | None = None) -> int: ...


class ServerProcess:
    """A child process that runs a server in the foreground.

    Args:
        arguments: The command line.
        log: The file for the child's output.
        user: The user that the child runs as, if this process is root.
        environment: Variables that the child gets in addition to the environment of this process.
    """

    def __init__(
        self, arguments: list[str], log: Path, user: str | None = None, environment: dict[str, str] | None = None
    ) -> None:
        self._arguments = arguments
        self._log = log
        self._user = user if os.geteuid() == 0 else None
        self._environment = {**os.environ, **(environment or {})}
        self._child: _Child | None = None

    @property
    def pid(self) -> int:
        """The process ID of the running child.

        Raises:
            DemoError: The child is not running.
        """
        if self._child is None:
            raise DemoError(f"{self._arguments[0]} is not running")
        return self._child.pid

    @property
    def running(self) -> bool:
        """Whether the child is running."""
        return self._child is not None and self._child.poll() is None

    def start(self, port: int, timeout: float = 30.0) -> None:
        """Start the child, and wait until it listens.

        Args:
            port: The TCP port.
            timeout: Maximum time to wait, in seconds.

        Raises:
            DemoError: The child has exited, or does not listen in time.
        """
        self.spawn()
        self.wait_listening(port, timeout)

    def spawn(self) -> None:
        """Start the child, but do not wait until the child listens."""
        with self._log.open("ab") as log:
            self._child = subprocess.Popen(  # noqa: S603 - a fixed command line
                self._arguments,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
                preexec_fn=die_with_parent,  # noqa: PLW1509 - safe with threads, because it only calls prctl(2)
                user=self._user,
                env=self._environment,
                cwd="/",
            )

    def wait_listening(self, port: int, timeout: float = 30.0) -> None:
        """Wait until the child listens. Do not connect to the child, because some servers count aborted connections.

        Args:
            port: The TCP port.
            timeout: Maximum time to wait, in seconds.

        Raises:
            DemoError: The child has exited, or does not listen in time.
        """
        deadline = time.monotonic() + timeout
        while not listening(port):
            if not self.running:
                raise DemoError(f"{self._arguments[0]} exited: {self._tail()}")
            if time.monotonic() > deadline:
                raise DemoError(f"{self._arguments[0]} does not listen after {timeout:g} s: {self._tail()}")
            time.sleep(0.02)

    def send(self, number: signal.Signals) -> None:
        """Send a signal to the child. After SIGSTOP, wait until all of its threads have stopped."""
        os.kill(self.pid, number)
        deadline = time.monotonic() + _SIGSTOP_TIMEOUT
        while number is signal.SIGSTOP and not self._is_stopped() and time.monotonic() < deadline:
            time.sleep(0.005)

    def _is_stopped(self) -> bool:
        for each in Path(f"/proc/{self.pid}/task").glob("*/stat"):
            with contextlib.suppress(OSError):  # ignore a thread that exits during the loop
                if each.read_text().rpartition(")")[2].split()[0] not in "TtZ":
                    return False
        return True

    def stop(self, number: signal.Signals = signal.SIGTERM, timeout: float = 10.0) -> None:
        """Send a signal to the child, wait until it exits, and kill the rest of its process group.

        Args:
            number: The signal to send.
            timeout: Seconds until SIGKILL.
        """
        child = self._child
        if child is None:
            return
        self._child = None
        if number is not signal.SIGKILL:  # resume suspended processes, so that the signal can end them
            with contextlib.suppress(ProcessLookupError):
                os.killpg(child.pid, signal.SIGCONT)
        with contextlib.suppress(ProcessLookupError):
            os.kill(child.pid, number)
        with contextlib.suppress(subprocess.TimeoutExpired):
            child.wait(timeout)
        with contextlib.suppress(ProcessLookupError):
            os.killpg(child.pid, signal.SIGKILL)
        child.wait()

    def _tail(self) -> str:
        lines = self._log.read_text(errors="replace").splitlines()
        return " / ".join(lines[-5:]) or f"see {self._log}"


def listening(port: int) -> bool:
    """Return whether a process listens on a TCP port. Use sock_diag(7), or proc_net(5) if sock_diag(7) fails."""
    with contextlib.suppress(OSError):
        return is_listening(port)
    wanted = f":{port:04X}"
    for table in ("/proc/net/tcp", "/proc/net/tcp6"):
        for line in Path(table).read_text().splitlines()[1:]:
            fields = line.split()
            if fields[1].endswith(wanted) and fields[3] == "0A":
                return True
    return False


def run(arguments: list[str], user: str | None = None, timeout: float = 60.0) -> str:
    """Run a command, and return its output.

    Args:
        arguments: The command line.
        user: The user that the command runs as, if this process is root.
        timeout: Maximum time to wait, in seconds.

    Raises:
        DemoError: The command failed.
    """
    done = subprocess.run(  # noqa: S603 - a fixed command line
        arguments,
        capture_output=True,
        text=True,
        timeout=timeout,
        user=user if os.geteuid() == 0 else None,
        check=False,
        stdin=subprocess.DEVNULL,
        cwd="/",
    )
    if done.returncode != 0:
        raise DemoError(f"{' '.join(arguments[:2])} failed: {(done.stderr or done.stdout).strip()[-500:]}")
    return done.stdout


def die_with_parent() -> None:
    """Let the kernel kill this process when the thread that created it exits (prctl(2), PR_SET_PDEATHSIG)."""
    _LIBC.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
