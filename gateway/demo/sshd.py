"""Runs an SSH bastion: OpenSSH's sshd, or asyncssh's server if sshd is not installed."""

import contextlib
import functools
import getpass
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

from gateway.demo.server_process import ServerProcess, find, free_port, run

_CONFIG = """\
ListenAddress {address}:{port}
HostKey {folder}/host_key
{host_certificate}
AuthorizedKeysFile {folder}/authorized_keys
PidFile none
UsePAM no
StrictModes no
PermitRootLogin prohibit-password
PasswordAuthentication no
KbdInteractiveAuthentication no
AllowTcpForwarding local
AllowAgentForwarding no
X11Forwarding no
PermitTTY no
MaxStartups 200:30:400
MaxSessions 1000
LogLevel VERBOSE
{penalties}
{extra}
"""
_SIGSTOP_TIMEOUT = 1.0
"""Maximum seconds to wait until SIGSTOP has stopped a process."""


class Bastion:
    """An SSH server on a free port of a loopback address, with a new host key and a new client key.

    Args:
        folder: The folder for the server's files.
        embedded: Use the server of asyncssh even if sshd is installed.
        extra: Additional lines for sshd_config.
        restrict: Key options in authorized_keys.
        host_ca: The file of a CA key that signs the host key. known_hosts then contains the CA.
        address: The loopback address. The server of asyncssh uses only 127.0.0.1.
    """

    def __init__(
        self,
        folder: Path,
        *,
        embedded: bool = False,
        extra: str = "",
        restrict: str = "",
        host_ca: Path | None = None,
        address: str = "127.0.0.1",
    ) -> None:
        self.folder = folder
        self.address = address
        self.port = free_port()
        self.user = getpass.getuser()
        self.sshd = None if embedded else find("sshd")
        self._extra = extra
        self._host_ca = host_ca
        folder.mkdir(parents=True, exist_ok=True)
        self.client_key = folder / "client_key"
        self.known_hosts = folder / "known_hosts"
        make_key(self.client_key)
        self.authorize(restrict)
        self.new_host_key()
        self._process = ServerProcess(self._command(), folder / "log")

    @property
    def software(self) -> str:
        """The name of the program that runs as the server."""
        return "OpenSSH sshd" if self.sshd else "asyncssh server (no sshd on this machine)"

    @property
    def pid(self) -> int:
        """The ID of the listening process."""
        return self._process.pid

    def authorize(self, restrict: str = "") -> None:
        """Write authorized_keys with the client's key.

        Args:
            restrict: The key options; empty for none.
        """
        public = self.client_key.with_suffix(".pub").read_text()
        (self.folder / "authorized_keys").write_text(f"{restrict} {public}" if restrict else public)

    def new_host_key(self) -> None:
        """Create a new host key. Write sshd_config, and write the key or its CA to known_hosts."""
        make_key(self.folder / "host_key")
        public = (self.folder / "host_key.pub").read_text()
        certificate = ""
        if self._host_ca is not None:
            run(["ssh-keygen", "-q", "-s", str(self._host_ca), "-I", "bastion", "-h", "-n", self.address,
                 str(self.folder / "host_key.pub")])  # fmt: skip
            certificate = f"HostCertificate {self.folder}/host_key-cert.pub"
            authority = self._host_ca.with_suffix(".pub").read_text()
            self.known_hosts.write_text(f"@cert-authority [{self.address}]:{self.port} {authority}")
        else:
            self.known_hosts.write_text(f"[{self.address}]:{self.port} {public}")
        (self.folder / "sshd_config").write_text(
            _CONFIG.format(
                address=self.address,
                port=self.port,
                folder=self.folder,
                extra=self._extra,
                host_certificate=certificate,
                penalties=_no_penalties(self.sshd) if self.sshd else "",
            )
        )

    def start(self) -> "Bastion":
        """Start the server."""
        if self.sshd and os.geteuid() == 0:
            Path("/run/sshd").mkdir(mode=0o755, exist_ok=True)
        self._process.start(self.port)
        return self

    def stop(self, number: signal.Signals = signal.SIGTERM) -> None:
        """Stop the server and its connections with a signal."""
        self._process.stop(number)

    def crash(self) -> None:
        """Kill the server and its connections. Suspend the server first, so that it accepts no further connection."""
        self.freeze()
        self.kill_sessions()
        self.stop(signal.SIGKILL)

    def freeze(self) -> None:
        """Suspend the server and its connections (SIGSTOP) until `thaw`."""
        _freeze(self.pid)
        self.kill_sessions(signal.SIGSTOP)

    def thaw(self) -> None:
        """Resume the server and its connections (SIGCONT)."""
        os.kill(self.pid, signal.SIGCONT)
        self.kill_sessions(signal.SIGCONT)

    def sessions(self) -> list[int]:
        """Return the IDs of the server's child processes; each of them serves one connection."""
        return _children(self._process.pid)

    def kill_sessions(self, number: signal.Signals = signal.SIGKILL) -> int:
        """Send a signal to the processes of every connection. Return the number of processes."""
        sessions = self.sessions()
        if number is not signal.SIGCONT:
            # First suspend all sessions. Otherwise, a client of a killed connection could move to another
            # connection, which this method then also kills.
            for session in sessions:
                _freeze(session)
        return sum(self.kill_session(session, number) for session in sessions)

    @staticmethod
    def kill_session(session: int, number: signal.Signals = signal.SIGKILL) -> int:
        """Send SIGKILL, SIGSTOP or SIGCONT to the processes of one connection. Return the number of processes.

        Args:
            session: The ID of a process from `sessions`.
            number: The signal.
        """
        if number is not signal.SIGCONT:
            _freeze(session)  # suspend the session first, so that it cannot start further processes
        processes = [*_children(session), session]
        for pid in processes:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, number)
        return len(processes)

    def _command(self) -> list[str]:
        if self.sshd:
            return [self.sshd, "-D", "-e", "-f", str(self.folder / "sshd_config")]
        return [sys.executable, "-m", "gateway.demo.embedded_sshd", str(self.folder), str(self.port)]


def make_key(path: Path, *options: str) -> None:
    """Create a key pair in the format of OpenSSH.

    Args:
        path: The file of the private key.
        options: The type of the key (default: ssh-ed25519), and its passphrase (default: none).
    """
    import asyncssh  # noqa: PLC0415 - lazy import, because all integration tests import this module

    kind, *passphrase = options or ("ssh-ed25519",)
    key = asyncssh.generate_private_key(kind)
    path.unlink(missing_ok=True)
    path.touch(mode=0o600)
    path.write_bytes(key.export_private_key(passphrase=passphrase[0] if passphrase else None))
    path.with_suffix(".pub").write_bytes(key.export_public_key())


@functools.cache
def _no_penalties(sshd: str) -> str:
    """Return the sshd_config line that turns off penalties; empty for OpenSSH before 9.8, which has no penalties.

    With penalties, sshd refuses connections from a source address after many aborted logins (sshd_config(5),
    PerSourcePenalties). Simulated outages abort logins.
    """
    done = subprocess.run([sshd, "-V"], capture_output=True, text=True, timeout=10, check=False)  # noqa: S603 - fixed
    version = re.search(r"OpenSSH_(\d+)\.(\d+)", done.stdout + done.stderr)
    has_penalties = version is not None and tuple(map(int, version.groups())) >= (9, 8)
    return "PerSourcePenalties no" if has_penalties else ""


def _freeze(pid: int) -> None:
    """Stop a process with SIGSTOP, and wait until it has stopped. Ignore a process that has exited."""
    deadline = time.monotonic() + _SIGSTOP_TIMEOUT
    with contextlib.suppress(ProcessLookupError, FileNotFoundError):
        os.kill(pid, signal.SIGSTOP)
        while time.monotonic() < deadline:
            state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
            if state in "TZX":
                return
            time.sleep(0.001)


def _children(pid: int) -> list[int]:
    found = []
    for path in Path(f"/proc/{pid}/task").glob("*/children"):
        with contextlib.suppress(OSError):  # ignore a thread that exits during the loop
            found += [int(child) for child in path.read_text().split()]
    return found
