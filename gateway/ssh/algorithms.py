"""Defines the default SSH algorithms, checks the configured algorithms, and negotiates algorithms with servers."""

import difflib
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import asyncssh
from asyncssh.encryption import encryption_needs_mac, get_encryption_algs
from asyncssh.kex import get_kex_algs
from asyncssh.mac import get_mac_algs
from asyncssh.packet import SSHPacket
from asyncssh.public_key import get_certificate_algs, get_public_key_algs

from gateway.text_sanitizer import one_line

KEX = (
    "mlkem768x25519-sha256",
    "sntrup761x25519-sha512",
    "sntrup761x25519-sha512@openssh.com",
    "mlkem768nistp256-sha256",
    "mlkem1024nistp384-sha384",
    "curve25519-sha256",
    "curve25519-sha256@libssh.org",
    "curve448-sha512",
    "ecdh-sha2-nistp256",
    "ecdh-sha2-nistp384",
    "ecdh-sha2-nistp521",
    "diffie-hellman-group16-sha512",
    "diffie-hellman-group18-sha512",
    "diffie-hellman-group14-sha256",
)
"""The default key exchange algorithms, post-quantum hybrids first. The list omits Diffie-Hellman group exchange,
in which asyncssh accepts groups as small as 1024 bits."""
CIPHERS = (
    "aes128-gcm@openssh.com",
    "aes256-gcm@openssh.com",
    "chacha20-poly1305@openssh.com",
    "aes256-ctr",
    "aes192-ctr",
    "aes128-ctr",
)
"""The default ciphers. AES-GCM is first, because it is several times faster than the other ciphers on processors
with AES instructions."""
MACS = (
    "hmac-sha2-256-etm@openssh.com",
    "hmac-sha2-512-etm@openssh.com",
    "umac-128-etm@openssh.com",
    "hmac-sha2-256",
    "hmac-sha2-512",
    "umac-128@openssh.com",
)
_CERTIFICATE = "-cert-v01@openssh.com"
_KEYS = (
    "ssh-ed25519",
    "ecdsa-sha2-nistp256",
    "ecdsa-sha2-nistp384",
    "ecdsa-sha2-nistp521",
    "sk-ssh-ed25519@openssh.com",
    "sk-ecdsa-sha2-nistp256@openssh.com",
    "ssh-ed448",
    "rsa-sha2-512",
    "rsa-sha2-256",
)
HOST_KEYS = (*(f"{name.removesuffix('@openssh.com')}{_CERTIFICATE}" for name in _KEYS), *_KEYS)
"""The default host key algorithms, in OpenSSH's order (ssh_config(5), HostKeyAlgorithms)."""

DEFAULTS = {"kex": KEX, "ciphers": CIPHERS, "macs": MACS, "host_key_algorithms": HOST_KEYS}
"""The default algorithms by configuration key, in order of preference. Weak algorithms are excluded: SHA-1, DSA, MD5,
and 64-bit MACs."""
_SUPPORTED: dict[str, Callable[[], Sequence[bytes]]] = {
    "kex": get_kex_algs,
    "ciphers": get_encryption_algs,
    "macs": get_mac_algs,
    "host_key_algorithms": lambda: [*get_certificate_algs(), *get_public_key_algs()],
}
_LABELS = {"kex": "key exchange", "ciphers": "cipher", "macs": "MAC", "host_key_algorithms": "host key algorithm"}
_MAX_LISTED = 400
"""Error messages show at most this many characters of a server's list of algorithms."""


class NoCommonAlgorithmError(asyncssh.KeyExchangeFailed):
    """The server supports none of the configured algorithms of one category, such as ciphers.

    Args:
        key: The configuration key of the category.
        offered: The algorithms of this category that the server supports.
    """

    def __init__(self, key: str, offered: Sequence[bytes]) -> None:
        names = ", ".join(name.decode("ascii", "backslashreplace") for name in offered) or "none"
        listed = one_line(names, _MAX_LISTED)
        super().__init__(
            f"no {_LABELS[key]} in common: the server offers {listed}; if you trust one of these, add it to {key}"
        )
        self.key = key


def supported(key: str) -> list[str]:
    """Return the algorithms of one category that asyncssh supports on this machine, except GSSAPI algorithms.

    Args:
        key: The configuration key of the category, such as `ciphers`.
    """
    return [name.decode("ascii") for name in _SUPPORTED[key]() if not name.startswith(b"gss-")]


def validate(key: str, names: Sequence[str]) -> None:
    """Check a configured list of algorithms.

    Args:
        key: The configuration key of the category.
        names: The configured algorithms.

    Raises:
        ValueError: An algorithm is not known, or this machine supports none of the algorithms.
    """
    available = supported(key)
    # Accept default algorithms even if this machine's OpenSSL does not support them: several machines can share one
    # configuration.
    for name in names:
        if name not in available and name not in DEFAULTS[key]:
            close = difflib.get_close_matches(name, [*DEFAULTS[key], *available], n=1)
            hint = f"; did you mean {close[0]!r}?" if close else f": use one of {', '.join(DEFAULTS[key])}"
            raise ValueError(f"{key}: {name!r} is not a known algorithm{hint}")
    if not any(name in available for name in names):
        usual = [name for name in DEFAULTS[key] if name in available]
        raise ValueError(
            f"{key}: this machine supports none of the listed algorithms: use one of {', '.join(usual or available)}"
        )


def usable(key: str, names: Sequence[str]) -> list[str]:
    """Return the `names` that asyncssh supports on this machine, in the same order."""
    available = supported(key)
    return [name for name in names if name in available]


# The functions below return properties of host key algorithms and of certificates.


def is_certificate(algorithm: str) -> bool:
    """Return whether a host key algorithm uses OpenSSH certificates."""
    return algorithm.endswith(_CERTIFICATE)


def signature_algorithm_of(algorithm: str) -> str:
    """Return the signature algorithm of a host key algorithm: the name without the certificate suffix."""
    if not is_certificate(algorithm):
        return algorithm
    name = algorithm.removesuffix(_CERTIFICATE)
    return f"{name}@openssh.com" if name.startswith("sk-") else name


def key_type_of(algorithm: str) -> str:
    """Return the key type of a host key algorithm. Several algorithms use `ssh-rsa` keys (RFC 8332, section 3)."""
    name = signature_algorithm_of(algorithm).removeprefix("webauthn-")
    return "ssh-rsa" if name.startswith(("rsa-sha2-", "ssh-rsa-sha")) else name


def key_blob_type(algorithm: str) -> str:
    """Return the type name at the start of an encoded host key or certificate for this algorithm."""
    key_type = key_type_of(algorithm)
    return f"{key_type.removesuffix('@openssh.com')}{_CERTIFICATE}" if is_certificate(algorithm) else key_type


def ca_signature_algorithm(certificate: Any) -> str:
    """Return the algorithm with which the CA signed an OpenSSH certificate (OpenSSH's PROTOCOL.certkeys)."""
    packet = SSHPacket(certificate.public_data)
    # Skip the fields before the signature: type name, nonce, public key, serial number and type (12 bytes), key ID,
    # principals, validity period (16 bytes), critical options, extensions, a reserved field, and the CA's key.
    packet.get_string()
    packet.get_string()
    packet.get_bytes(len(certificate.key.encode_ssh_public()))
    packet.get_bytes(12)
    packet.get_string()
    packet.get_string()
    packet.get_bytes(16)
    for _ in range(4):
        packet.get_string()
    return SSHPacket(packet.get_string()).get_string().decode("ascii", "backslashreplace")


# The functions below handle the negotiation of algorithms with a server.


def negotiate(proposal: SSHPacket, client: Mapping[str, Sequence[bytes]]) -> tuple[str, list[str]]:
    """Choose algorithms that both the client and the server support (RFC 4253, section 7.1).

    Args:
        proposal: The server's SSH_MSG_KEXINIT, from which the caller has already read the cookie.
        client: The client's algorithms for each configuration key, in order of preference.

    Returns:
        The negotiated host key algorithm, and the list of all host key algorithms that the server offers.

    Raises:
        NoCommonAlgorithmError: In one category, the client and the server have no common algorithm.
    """
    _choose("kex", client, proposal.get_namelist())
    offered = proposal.get_namelist()
    chosen = _choose("host_key_algorithms", client, offered)
    ciphers = [_choose("ciphers", client, proposal.get_namelist()) for _ in range(2)]
    for cipher in ciphers:
        macs = proposal.get_namelist()
        if encryption_needs_mac(cipher):
            _choose("macs", client, macs)
    return chosen.decode("ascii"), [name.decode("ascii", "backslashreplace") for name in offered]


def _choose(key: str, client: Mapping[str, Sequence[bytes]], server: Sequence[bytes]) -> bytes:
    for name in client[key]:
        if name in server:
            return name
    raise NoCommonAlgorithmError(key, server)


def needs_strict_kex(cipher: str, mac: str) -> bool:
    """Return whether a connection with this cipher and this MAC algorithm needs strict key exchange.

    Without strict key exchange, an attacker can drop packets without detection (CVE-2023-48795). ChaCha20 and the
    encrypt-then-MAC algorithms are vulnerable. AES-GCM is not vulnerable.
    """
    return cipher.startswith("chacha20") or mac.endswith("-etm@openssh.com")
