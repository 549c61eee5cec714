"""An SSH bastion: OpenSSH's sshd where it is installed, asyncssh's own server elsewhere."""

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

from gateway.demo.process import Process, find, free_port, run

_CONFIG = """\
ListenAddress 127.0.0.1:{port}
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
_STANDSTILL = 1.0
"""Seconds that a process may take to stop where it is."""


class Bastion:
    """An SSH server that forwards, with fresh keys on both sides.

    Args:
        folder: Where its files go.
        embedded: Use asyncssh's server even where there is an sshd.
        extra: More lines of sshd_config.
        restrict: What stands before the key in authorized_keys.
        host_ca: A key file that signs the host key; clients then trust the authority.
    """

    def __init__(
        self,
        folder: Path,
        *,
        embedded: bool = False,
        extra: str = "",
        restrict: str = "",
        host_ca: Path | None = None,
    ) -> None:
        self.folder = folder
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
        self._process = Process(self._command(), folder / "log")

    @property
    def software(self) -> str:
        """What runs."""
        return "OpenSSH sshd" if self.sshd else "asyncssh server (no sshd on this machine)"

    @property
    def pid(self) -> int:
        """The listening process."""
        return self._process.pid

    def authorize(self, restrict: str = "") -> None:
        """Let the client's key in, with these options before it."""
        public = self.client_key.with_suffix(".pub").read_text()
        (self.folder / "authorized_keys").write_text(f"{restrict} {public}" if restrict else public)

    def new_host_key(self) -> None:
        """Make a host key, and tell it to clients."""
        make_key(self.folder / "host_key")
        public = (self.folder / "host_key.pub").read_text()
        certificate = ""
        if self._host_ca is not None:
            run(["ssh-keygen", "-q", "-s", str(self._host_ca), "-I", "bastion", "-h", "-n", "127.0.0.1",
                 str(self.folder / "host_key.pub")])  # fmt: skip
            certificate = f"HostCertificate {self.folder}/host_key-cert.pub"
            authority = self._host_ca.with_suffix(".pub").read_text()
            self.known_hosts.write_text(f"@cert-authority [127.0.0.1]:{self.port} {authority}")
        else:
            self.known_hosts.write_text(f"[127.0.0.1]:{self.port} {public}")
        (self.folder / "sshd_config").write_text(
            _CONFIG.format(
                port=self.port,
                folder=self.folder,
                extra=self._extra,
                host_certificate=certificate,
                penalties=_no_penalties(self.sshd) if self.sshd else "",
            )
        )

    def start(self) -> "Bastion":
        """Start listening."""
        if self.sshd and os.geteuid() == 0:
            Path("/run/sshd").mkdir(mode=0o755, exist_ok=True)
        self._process.start(self.port)
        return self

    def stop(self, number: signal.Signals = signal.SIGTERM) -> None:
        """End it with its connections."""
        self._process.stop(number)

    def crash(self) -> None:
        """End it with its connections, at once and so that none comes in between."""
        self.freeze()
        self.kill_sessions()
        self.stop(signal.SIGKILL)

    def freeze(self) -> None:
        """Stop it and its connections where they are, until `thaw`."""
        _freeze(self.pid)
        self.kill_sessions(signal.SIGSTOP)

    def thaw(self) -> None:
        """Let it and its connections go on."""
        os.kill(self.pid, signal.SIGCONT)
        self.kill_sessions(signal.SIGCONT)

    def sessions(self) -> list[int]:
        """The processes that serve one connection each."""
        return _children(self._process.pid)

    def kill_sessions(self, number: signal.Signals = signal.SIGKILL) -> int:
        """Send a signal to every connection's processes; says how many."""
        return sum(self.kill_session(session, number) for session in self.sessions())

    @staticmethod
    def kill_session(session: int, number: signal.Signals = signal.SIGKILL) -> int:
        """Send SIGKILL, SIGSTOP or SIGCONT to one connection's processes; says how many."""
        if number is not signal.SIGCONT:
            _freeze(session)  # it may be about to start another process, which would be spared
        victims = [*_children(session), session]
        for pid in victims:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, number)
        return len(victims)

    def _command(self) -> list[str]:
        if self.sshd:
            return [self.sshd, "-D", "-e", "-f", str(self.folder / "sshd_config")]
        return [sys.executable, "-m", "gateway.demo.embedded_sshd", str(self.folder), str(self.port)]


def make_key(path: Path, *options: str) -> None:
    """A fresh key pair in OpenSSH's format, ed25519 unless `options` say otherwise."""
    import asyncssh  # noqa: PLC0415 - the tests import this module early

    kind, *passphrase = options or ("ssh-ed25519",)
    key = asyncssh.generate_private_key(kind)
    path.unlink(missing_ok=True)
    path.touch(mode=0o600)
    path.write_bytes(key.export_private_key(passphrase=passphrase[0] if passphrase else None))
    path.with_suffix(".pub").write_bytes(key.export_public_key())


@functools.cache
def _no_penalties(sshd: str) -> str:
    """A login that was frozen counts as one that crashed, and for 90 s nobody here would be let in (sshd_config(5)).

    OpenSSH knows of penalties since 9.8.
    """
    told = subprocess.run([sshd, "-V"], capture_output=True, text=True, timeout=10, check=False)  # noqa: S603 - ours
    version = re.search(r"OpenSSH_(\d+)\.(\d+)", told.stdout + told.stderr)
    known = version is not None and tuple(map(int, version.groups())) >= (9, 8)
    return "PerSourcePenalties no" if known else ""


def _freeze(pid: int) -> None:
    """Stop a process, and wait until it stands still; one that is gone or hangs in the kernel is left."""
    deadline = time.monotonic() + _STANDSTILL
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
        with contextlib.suppress(OSError):  # a thread, or all of them, may end meanwhile
            found += [int(child) for child in path.read_text().split()]
    return found
