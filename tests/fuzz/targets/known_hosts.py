"""Fuzz the parser of known_hosts. The parser must parse every line, or report the number of a line with an error."""

import re

from gateway.errors import FailureReason, TunnelError
from gateway.ssh import known_hosts
from tests.fuzz.files import as_file

LONGEST, UNIT, HEAD = 2048, 1, 0
WORDS = (
    "@revoked ", "@cert-authority ", "@", "host", "[host]:2222", "10.0.0.1", "*", "!host", ",", "|1|", "ssh-ed25519 ",
    "ssh-rsa ", "ecdsa-sha2-nistp256 ", "ssh-ed25519-cert-v01@openssh.com ", "AAAA", "#", "\n", "\r\n", "\t",
    "x509v3-ssh-rsa ", "\x0c", "\x1c", "\u2028", "AAAAC3NzaC1lZDI1NTE5AAAAI",
)  # fmt: skip
_SERVERS = (("host", 22, "10.0.0.1"), ("host", 2222, ""), ("10.0.0.1", 22, "10.0.0.1"), ("fd00::1", 22, "fd00::1"))


def describe(data: bytes) -> str:
    """Return the known_hosts file as text."""
    return repr(data.decode("utf-8", "replace"))


def check(data: bytes) -> None:
    """Parse the known_hosts file `data`, and look up the keys of hosts.

    Raises:
        AssertionError: The parser reports an error that does not begin with the path of the file, or does not find a
            revoked key.
    """
    with as_file(data) as path:
        try:
            known = known_hosts.load_known_hosts((path,))
        except TunnelError as error:
            assert _is_fatal(error)
            assert re.match(rf"{re.escape(str(path))}(:[1-9]\d*)?: ", error.detail), f"no line number\n{error.detail}"
            return
        finally:
            known_hosts._parsed.clear()
    revoked = sum(line.startswith("@revoked * ssh-") for line in data.decode().splitlines())
    for server in _SERVERS:
        try:
            found = known.look_up(*server)
        except TunnelError as error:
            assert _is_fatal(error)
            assert "trusts a certificate" in error.detail
        else:
            assert len(found.revoked) >= revoked, "the parser lost a revoked key"


def _is_fatal(error: TunnelError) -> bool:
    return error.fatal and error.reason is FailureReason.HOST_KEY
