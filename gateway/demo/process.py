"""Child processes that never outlive us."""

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

from gateway.errors import GatewayError

_PR_SET_PDEATHSIG = 1
_STOPPING = 5.0
"""Seconds that a SIGSTOP may take until it has reached every thread."""
_LIBC = ctypes.CDLL(None, use_errno=True)


class DemoError(GatewayError):
    """A server of the demo cannot be started."""


PORTS = range(15000, 32000)
"""Below what the kernel gives to outgoing connections, which would take a port between its choice and its use."""
_given: set[int] = set()


def free_port() -> int:
    """A TCP port on 127.0.0.1 that nobody listens on, and that this process was not given before."""
    while True:
        port = secrets.choice(PORTS)
        if port in _given:
            continue
        with socket.socket() as sock, contextlib.suppress(OSError):
            sock.bind(("127.0.0.1", port))
            _given.add(port)
            return port


def find(program: str, *folders: str) -> str | None:
    """The path of `program` on PATH, in the system folders, or in `folders` (which may hold wildcards)."""
    places = [str(path) for folder in folders for path in sorted(Path("/").glob(folder.lstrip("/")), reverse=True)]
    search = os.pathsep.join([os.environ.get("PATH", ""), "/usr/sbin", "/sbin", *places])
    return shutil.which(program, path=search)


class Process:
    """One server in the foreground, as a child that dies with us.

    Args:
        arguments: The command line.
        log: Where its output goes.
        user: Whom to run as, when we are root.
        environment: Added to ours.
    """

    def __init__(
        self, arguments: list[str], log: Path, user: str | None = None, environment: dict[str, str] | None = None
    ) -> None:
        self._arguments = arguments
        self._log = log
        self._user = user if os.geteuid() == 0 else None
        self._environment = {**os.environ, **(environment or {})}
        self._child: subprocess.Popen[bytes] | None = None

    @property
    def pid(self) -> int:
        """The running child's process ID."""
        if self._child is None:
            raise DemoError(f"{self._arguments[0]} is not running")
        return self._child.pid

    @property
    def running(self) -> bool:
        """Whether the child lives."""
        return self._child is not None and self._child.poll() is None

    def start(self, port: int, timeout: float = 30.0) -> None:
        """Start, and wait until 127.0.0.1:`port` is listened on.

        Raises:
            DemoError: It ended, or did not listen within `timeout` seconds.
        """
        self.spawn()
        self.wait_listening(port, timeout)

    def spawn(self) -> None:
        """Start, and do not wait."""
        with self._log.open("ab") as log:
            self._child = subprocess.Popen(  # noqa: S603 - our own command line
                self._arguments,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
                preexec_fn=_die_with_parent,  # noqa: PLW1509 - one prctl, before any thread matters
                user=self._user,
                env=self._environment,
                cwd="/",
            )

    def wait_listening(self, port: int, timeout: float = 30.0) -> None:
        """Wait until 127.0.0.1:`port` is listened on, without connecting: some servers count that."""
        deadline = time.monotonic() + timeout
        while not listening(port):
            if not self.running:
                raise DemoError(f"{self._arguments[0]} ended: {self._tail()}")
            if time.monotonic() > deadline:
                raise DemoError(f"{self._arguments[0]} does not listen after {timeout:g} s: {self._tail()}")
            time.sleep(0.02)

    def send(self, number: signal.Signals) -> None:
        """Send a signal to the child; after SIGSTOP, wait until all of its threads have stopped."""
        os.kill(self.pid, number)
        deadline = time.monotonic() + _STOPPING
        while number is signal.SIGSTOP and not self._is_stopped() and time.monotonic() < deadline:
            time.sleep(0.005)

    def _is_stopped(self) -> bool:
        stats = [each.read_text() for each in Path(f"/proc/{self.pid}/task").glob("*/stat")]
        return all(stat.rpartition(")")[2].split()[0] in "TtZ" for stat in stats)

    def stop(self, number: signal.Signals = signal.SIGTERM, timeout: float = 10.0) -> None:
        """End the child and everything it started."""
        child = self._child
        if child is None:
            return
        self._child = None
        with contextlib.suppress(ProcessLookupError):
            if number is not signal.SIGKILL:  # that one reaches what is stopped, too
                os.killpg(child.pid, signal.SIGCONT)
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
    """Whether somebody listens on TCP port `port` of this host, from the kernel's table."""
    wanted = f":{port:04X}"
    for table in ("/proc/net/tcp", "/proc/net/tcp6"):
        for line in Path(table).read_text().splitlines()[1:]:
            fields = line.split()
            if fields[1].endswith(wanted) and fields[3] == "0A":
                return True
    return False


def run(arguments: list[str], user: str | None = None, timeout: float = 60.0) -> str:
    """Run a command to its end.

    Raises:
        DemoError: It failed.
    """
    done = subprocess.run(  # noqa: S603 - our own command line
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


def _die_with_parent() -> None:
    _LIBC.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
