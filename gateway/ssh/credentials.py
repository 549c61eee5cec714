"""Loads private keys, certificates and passwords at each login, so that operators can rotate them."""

import asyncio
import base64
import contextlib
import hashlib
from collections.abc import AsyncIterator, Sequence
from pathlib import Path
from typing import Any

import asyncssh

from gateway.contracts.certificate import MonitoredCertificate, ValidityPeriod
from gateway.errors import FailureReason, TunnelError
from gateway.secret_files import read_private_key
from gateway.ssh.options import SshOptions
from gateway.text_sanitizer import error_text

_FOREVER = 2**64 - 1
"""The `valid before` time of a certificate that does not expire (OpenSSH's PROTOCOL.certkeys)."""
_MAX_TIME = 253402300799
"""The last second of the year 9999, the latest time that Python can format."""


@contextlib.asynccontextmanager
async def login_arguments(options: SshOptions) -> AsyncIterator[dict[str, Any]]:
    """Yield the arguments of `asyncssh.connect` that contain the credentials.

    Use these arguments only inside the `async with` block. On exit, the connection to the SSH agent closes.

    Raises:
        TunnelError: A file or the agent cannot be used; fatal.
    """
    keys = await asyncio.to_thread(load_keys, options)
    async with contextlib.AsyncExitStack() as stack:
        if options.agent is not None:
            try:
                agent = await stack.enter_async_context(asyncssh.connect_agent(str(options.agent)))
                keys += await agent.get_keys()
            except (OSError, ValueError) as error:
                detail = f"agent {options.agent}: {error_text(error)}: check that an SSH agent listens on this socket"
                raise TunnelError(FailureReason.AUTH, detail, fatal=True) from error
        yield {
            "username": options.user,
            "client_keys": keys or None,
            "password": _read("password_file", options.password.reveal) if options.password else None,
            "agent_path": None,
            "agent_forwarding": False,
            "disable_trivial_auth": True,
            "gss_host": None,
        }


def describe(options: SshOptions, login: dict[str, Any]) -> str:
    """Describe the credentials of a login for messages: key types, fingerprints, identity files and SSH agent.

    Args:
        options: The tunnel's options.
        login: The result of `login_arguments`.
    """
    keys = {each.key_public_data: each.key_algorithm.decode() for each in login["client_keys"] or ()}
    found = [f"{algorithm} {_fingerprint(data)}" for data, algorithm in keys.items()]
    sources = [*map(str, options.identity_files), *([f"agent {options.agent}"] if options.agent else [])]
    text = ", ".join(found) or "no key"
    if sources:
        text += f" from {', '.join(sources)}"
    return f"{text}, and a password" if options.password else text


def _fingerprint(public_data: bytes) -> str:
    """Return the fingerprint of a public key, as `ssh-keygen -l` prints it."""
    return f"SHA256:{base64.b64encode(hashlib.sha256(public_data).digest()).decode().rstrip('=')}"


def load_keys(options: SshOptions) -> list[Any]:
    """Load the key pairs of the identity files, with their certificates. The call blocks.

    Raises:
        TunnelError: No credential is configured, or a file cannot be used. For example, the file is missing or
            readable by other users, or it is encrypted and no passphrase is configured. The error is fatal.
    """
    passphrase = read_passphrase(options)
    if not (options.identity_files or options.agent or options.password):
        raise TunnelError(
            FailureReason.AUTH,
            "no credentials are configured: set identity_files, agent or password_file",
            fatal=True,
        )
    keys: list[Any] = []
    for path in options.identity_files:
        content = read_private_key(path)
        try:
            keys.extend(_key_pairs(path, content, passphrase))
        except asyncssh.KeyEncryptionError as error:
            raise TunnelError(
                FailureReason.AUTH, f"{path}: the key cannot be decrypted: check passphrase_file", fatal=True
            ) from error
        except (asyncssh.KeyImportError, OSError) as error:
            encrypted = isinstance(error, asyncssh.KeyImportError) and "assphrase" in str(error)
            hint = "set passphrase_file" if encrypted else "set the path of a private key"
            detail = f"{path}: not a usable private key ({error_text(error)}): {hint}"
            raise TunnelError(FailureReason.AUTH, detail, fatal=True) from error
    if options.certificate_files:
        certificates = [each for path in options.certificate_files for each in _certificates(path)]
        try:
            keys = list(asyncssh.load_keypairs(keys, passphrase, certificates))
        except (asyncssh.KeyImportError, OSError, ValueError) as error:
            raise TunnelError(
                FailureReason.AUTH,
                f"certificate_files: {error_text(error)}: each certificate must belong to a key in identity_files",
                fatal=True,
            ) from error
    return keys


def read_passphrase(options: SshOptions) -> str | None:
    """Return the passphrase of the private keys; None if no passphrase is configured. Can block.

    Raises:
        TunnelError: The passphrase file cannot be read; fatal.
    """
    return _read("passphrase_file", options.passphrase.reveal) if options.passphrase else None


def certificate_files(options: SshOptions) -> set[Path]:
    """Return all paths from which certificates are read: the configured files, and `KEY-cert.pub` for each key."""
    return {*options.certificate_files, *map(_certificate_path, options.identity_files)}


def certificates(options: SshOptions) -> list[MonitoredCertificate]:
    """Return the certificates that have an expiry date. Skip files that cannot be read. The call blocks."""
    credentials = []
    for path in sorted(certificate_files(options)):
        try:
            certificates_in_file = _certificates(path) if path.exists() else ()
        except TunnelError:
            continue
        credentials += [
            MonitoredCertificate("ssh_certificate", str(path), _validity(each))
            for each in certificates_in_file
            if getattr(each, "_valid_before", _FOREVER) != _FOREVER
        ]
    return credentials


def _validity(certificate: Any) -> ValidityPeriod:
    begins, expires = certificate._valid_after, certificate._valid_before  # noqa: SLF001 - asyncssh has no public equivalent
    return ValidityPeriod(min(begins, _MAX_TIME), min(expires, _MAX_TIME))


def _certificate_path(path: Path) -> Path:
    return path.with_name(f"{path.name}-cert.pub")


def _key_pairs(path: Path, content: bytes, passphrase: str | None) -> Sequence[Any]:
    """Return the key pair of an identity file, and the same pair with the certificate `KEY-cert.pub` if it exists."""
    certificate = _certificate_path(path)
    return asyncssh.load_keypairs(
        [(content, _certificates(certificate)[0] if certificate.exists() else b"")], passphrase
    )


def _certificates(path: Path) -> Sequence[Any]:
    try:
        certificates = asyncssh.load_certificates(str(path))
    except (asyncssh.KeyImportError, OSError, ValueError) as error:
        detail = f"{path}: not a usable certificate ({error_text(error)}): set the path of an OpenSSH certificate"
        raise TunnelError(FailureReason.AUTH, detail, fatal=True) from error
    if not certificates:
        raise TunnelError(
            FailureReason.AUTH, f"{path}: contains no certificate (ssh-keygen -s creates KEY-cert.pub)", fatal=True
        )
    return certificates


def _read(key: str, reveal: Any) -> str:
    try:
        return str(reveal())
    except OSError as error:
        raise TunnelError(FailureReason.AUTH, f"{key}: {error.filename}: {error.strerror}", fatal=True) from error
