"""Private keys, certificates and passphrases, read at each connect so that they can rotate."""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Sequence
from pathlib import Path
from typing import Any

import asyncssh

from gateway.contracts import Credential, Validity
from gateway.errors import Reason, TunnelError
from gateway.keyfiles import check_private
from gateway.ssh.options import SshOptions

_FOREVER = 2**64 - 1
"""The end of a certificate that does not expire (OpenSSH's PROTOCOL.certkeys)."""
_LATEST = 253402300799
"""The last second of the year 9999: times are not written later than that."""


@contextlib.asynccontextmanager
async def login(options: SshOptions) -> AsyncIterator[dict[str, Any]]:
    """The arguments for `asyncssh.connect` that prove who we are; good until the block ends.

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
                raise TunnelError(Reason.AUTH, f"agent {options.agent}: {told(error)}", fatal=True) from error
        yield {
            "username": options.user,
            "client_keys": keys or None,
            "password": _read("password_file", options.password.reveal) if options.password else None,
            "agent_path": None,
            "agent_forwarding": False,
            "disable_trivial_auth": True,
            "gss_host": None,
        }


def load_keys(options: SshOptions) -> list[Any]:
    """The key pairs of the identity files, with their certificates.

    Raises:
        TunnelError: A file is missing, readable by others, encrypted without a passphrase, or no key; fatal.
    """
    passphrase = _read("passphrase_file", options.passphrase.reveal) if options.passphrase else None
    if not (options.identity_files or options.agent or options.password):
        raise TunnelError(
            Reason.AUTH, "there is nothing to log in with: set identity_files, agent or password_file", fatal=True
        )
    keys: list[Any] = []
    for path in options.identity_files:
        content = check_private(path)
        try:
            keys.extend(_key_pairs(path, content, passphrase))
        except asyncssh.KeyEncryptionError as error:
            raise TunnelError(
                Reason.AUTH, f"{path}: the key cannot be decrypted: check passphrase_file", fatal=True
            ) from error
        except (asyncssh.KeyImportError, OSError) as error:
            encrypted = isinstance(error, asyncssh.KeyImportError) and "assphrase" in str(error)
            hint = " (an encrypted key needs passphrase_file)" if encrypted else ""
            raise TunnelError(Reason.AUTH, f"{path}: {told(error)}{hint}", fatal=True) from error
    if options.certificate_files:
        certificates = [each for path in options.certificate_files for each in _certificates(path)]
        try:
            keys = list(asyncssh.load_keypairs(keys, passphrase, certificates))
        except (asyncssh.KeyImportError, OSError, ValueError) as error:
            raise TunnelError(Reason.AUTH, f"certificate_files: {error}", fatal=True) from error
    return keys


def certificate_files(options: SshOptions) -> set[Path]:
    """Where certificates are, or may appear: the files of the options, and those beside the keys."""
    return {*options.certificate_files, *map(_beside, options.identity_files)}


def certificates(options: SshOptions) -> list[Credential]:
    """The certificates that expire; those that cannot be read are left out."""
    found = []
    for path in sorted(certificate_files(options)):
        try:
            held = _certificates(path) if path.exists() else ()
        except TunnelError:
            continue
        found += [
            Credential("ssh_certificate", str(path), _validity(each))
            for each in held
            if getattr(each, "_valid_before", _FOREVER) != _FOREVER
        ]
    return found


def _validity(certificate: Any) -> Validity:
    begins, expires = certificate._valid_after, certificate._valid_before  # noqa: SLF001 - no public door
    return Validity(min(begins, _LATEST), min(expires, _LATEST))


def _beside(path: Path) -> Path:
    return path.with_name(f"{path.name}-cert.pub")


def _key_pairs(path: Path, content: bytes, passphrase: str | None) -> Sequence[Any]:
    """That of a file's content, with and without the certificate that lies beside the file."""
    beside = _beside(path)
    return asyncssh.load_keypairs([(content, _certificates(beside)[0] if beside.exists() else b"")], passphrase)


def _certificates(path: Path) -> Sequence[Any]:
    try:
        found = asyncssh.load_certificates(str(path))
    except (asyncssh.KeyImportError, OSError, ValueError) as error:
        raise TunnelError(Reason.AUTH, f"{path}: {told(error)}", fatal=True) from error
    if not found:
        raise TunnelError(Reason.AUTH, f"{path}: holds no certificate (ssh-keygen -s makes KEY-cert.pub)", fatal=True)
    return found


def told(error: Exception) -> str:
    """What a system error says, without its number."""
    return (error.strerror if isinstance(error, OSError) else None) or str(error)


def _read(key: str, reveal: Any) -> str:
    try:
        return str(reveal())
    except OSError as error:
        raise TunnelError(Reason.AUTH, f"{key}: {error.filename}: {error.strerror}", fatal=True) from error
