"""Runs SSH servers of several implementations, each with new keys."""

import os
import subprocess
import sys
import tempfile
from pathlib import Path

from gateway.demo.server_process import find, run
from gateway.demo.sshd import Bastion, make_key
from tests.support.requirements import need, need_sshd

PEERS = Path(__file__).with_name("peers")
_GO = Path(tempfile.gettempdir()) / f"gateway-go-{os.getuid()}"


class OpenSsh(Bastion):
    """OpenSSH's sshd.

    Args:
        folder: The directory for the server's files.
        first: Lines for the start of sshd_config. They take precedence over later lines (sshd_config(5)).
        rekey: The number of bytes after which the server starts a key exchange; 0 means the server's default.
    """

    half_closes = True
    """Whether the server continues to send data on a channel that the client has half-closed."""
    forks = True
    """Whether the server runs a separate process for each connection."""
    moves_for_keys = 40 << 20
    """The number of bytes that a test with `rekey` must transfer in each direction to cause a key exchange."""

    def __init__(self, folder: Path, *, first: str = "", rekey: int = 0, host_ca: Path | None = None) -> None:
        need_sshd()
        super().__init__(folder, host_ca=host_ca)
        config = folder / "sshd_config"
        limit = f"RekeyLimit {rekey}\n" if rekey else ""
        config.write_text(f"{first}\n{limit}{config.read_text()}")


class Certified(OpenSsh):
    """An sshd that proves its identity with a host certificate, and accepts only users with certificates."""

    def __init__(self, folder: Path, *, rekey: int = 0) -> None:
        need(find("ssh-keygen") is not None, "ssh-keygen (package openssh-client)")
        folder.mkdir()
        for name in ("host_ca", "user_ca"):
            make_key(folder / name)
        super().__init__(
            folder, first=f"TrustedUserCAKeys {folder}/user_ca.pub", rekey=rekey, host_ca=folder / "host_ca"
        )
        run(["ssh-keygen", "-q", "-s", str(folder / "user_ca"), "-I", "gateway", "-n", self.user,
             str(folder / "client_key.pub")])  # fmt: skip
        (folder / "authorized_keys").write_text("")


class SeveralKeys(OpenSsh):
    """An sshd that offers RSA, ECDSA and Ed25519 host keys; known_hosts contains only one of them.

    Args:
        folder: The directory for the server's files.
        known: The algorithm of the key in known_hosts.
        rekey: See `OpenSsh`.
    """

    KINDS = ("ssh-rsa", "ecdsa-sha2-nistp256", "ssh-ed25519")

    def __init__(self, folder: Path, *, known: str = "ecdsa-sha2-nistp256", rekey: int = 0) -> None:
        folder.mkdir()
        for kind in self.KINDS[:2]:
            make_key(folder / kind, kind)
        super().__init__(folder, first="\n".join(f"HostKey {folder}/{kind}" for kind in self.KINDS[:2]), rekey=rekey)
        public = folder / ("host_key.pub" if known == "ssh-ed25519" else f"{known}.pub")
        self.known_hosts.write_text(f"[127.0.0.1]:{self.port} {public.read_text()}")


class Dropbear(OpenSsh):
    """The SSH server Dropbear. It ignores `rekey`. It starts a key exchange after 1 GiB (KEX_REKEY_DATA)."""

    moves_for_keys = 560_000_000

    def __init__(self, folder: Path, *, rekey: int = 0) -> None:
        del rekey
        need(find("dropbear") is not None, "dropbear (package dropbear-bin)")
        Bastion.__init__(self, folder)
        run(["dropbearconvert", "openssh", "dropbear", str(folder / "host_key"), str(folder / "dropbear_key")])

    def _command(self) -> list[str]:
        # Dropbear rejects authorized_keys if other users can write to a parent directory, such as /tmp. A
        # file path through /proc avoids this check.
        start = f'cd "$1" && exec "$0" -F -E -s -m -r dropbear_key -D /proc/$$/cwd -P pid -p 127.0.0.1:{self.port}'
        return ["sh", "-c", start, find("dropbear") or "dropbear", str(self.folder)]


class AsyncSsh(Bastion):
    """An SSH server based on asyncssh."""

    half_closes, forks, moves_for_keys = True, False, OpenSsh.moves_for_keys

    def __init__(self, folder: Path, *, rekey: int = 0) -> None:
        self._rekey = rekey
        super().__init__(folder, embedded=True)

    def _command(self) -> list[str]:
        return [sys.executable, str(PEERS / "asyncssh_sshd.py"), str(self.folder), str(self.port), str(self._rekey)]


class Paramiko(AsyncSsh):
    """An SSH server based on paramiko."""

    def _command(self) -> list[str]:
        return [sys.executable, str(PEERS / "paramiko_sshd.py"), str(self.folder), str(self.port), str(self._rekey)]


class Go(AsyncSsh):
    """An SSH server based on golang.org/x/crypto/ssh, built from Debian's packages without downloads."""

    half_closes = False

    def __init__(self, folder: Path, *, rekey: int = 0) -> None:
        self._program = build_go()
        super().__init__(folder, rekey=rekey)

    def _command(self) -> list[str]:
        return [str(self._program), "-listen", f"127.0.0.1:{self.port}", "-host-key", f"{self.folder}/host_key",
                "-authorized", f"{self.folder}/authorized_keys", "-rekey", str(self._rekey)]  # fmt: skip


def build_go() -> Path:
    """Build the SSH server of the class `Go`, and return the file path of the program."""
    source = Path("/usr/share/gocode")
    need(
        find("go") is not None and (source / "src/golang.org/x/crypto/ssh").is_dir(),
        "Go and its SSH library (packages golang-go golang-golang-x-crypto-dev)",
    )
    _GO.mkdir(mode=0o700, exist_ok=True)
    program = _GO / "go_sshd"
    subprocess.run(
        ["go", "build", "-o", program, PEERS / "go_sshd.go"],
        env={**os.environ, "GO111MODULE": "off", "GOPATH": str(source), "GOCACHE": str(_GO / "cache"), "GOFLAGS": ""},
        check=True,
        timeout=300,
    )
    return program
