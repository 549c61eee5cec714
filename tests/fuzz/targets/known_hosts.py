"""The reader of known_hosts: every line is understood, or the file is refused with its number."""

import re
import tempfile
from pathlib import Path

from gateway.errors import Reason, TunnelError
from gateway.ssh import hostkeys
from gateway.ssh.options import SshOptions

LONGEST, UNIT, HEAD = 2048, 1, 0
WORDS = (
    "@revoked ", "@cert-authority ", "@", "host", "[host]:2222", "10.0.0.1", "*", "!host", ",", "|1|", "ssh-ed25519 ",
    "ssh-rsa ", "ecdsa-sha2-nistp256 ", "ssh-ed25519-cert-v01@openssh.com ", "AAAA", "#", "\n", "\r\n", "\t",
    "x509v3-ssh-rsa ", "\x0c", "\x1c", "\u2028", "AAAAC3NzaC1lZDI1NTE5AAAAI",
)  # fmt: skip
_MEMORY = Path("/dev/shm")  # noqa: S108 - a file of its own in it


def describe(data: bytes) -> str:
    """Return the text."""
    return repr(data.decode("utf-8", "replace"))


def check(data: bytes) -> None:
    """Read a file, and look for a host in it.

    Raises:
        AssertionError: It is refused without the line.
    """
    with tempfile.NamedTemporaryFile(dir=_MEMORY if _MEMORY.is_dir() else None) as file:
        file.write(data)
        file.flush()
        path = Path(file.name)
        try:
            match = hostkeys.trusted(SshOptions(host="host", user="user", known_hosts=(path,)))
            found = [match(host, "10.0.0.1", port) for host in ("host", "10.0.0.1") for port in (None, 22, 2222)]
        except TunnelError as error:
            assert error.reason is Reason.HOST_KEY
            assert error.fatal
            assert re.match(rf"{re.escape(str(path))}(:[1-9]\d*)?: ", error.detail), f"no place\n{error.detail}"
            return
        revoked = [line for line in data.decode().splitlines() if line.startswith("@revoked * ")]
        for each in found:
            assert len(each) == 7
            assert len(each[2]) + len(each[4]) + len(each[6]) >= len(revoked), "a revoked key vanishes"
