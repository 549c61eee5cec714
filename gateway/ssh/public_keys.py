"""Reads the public keys of a tunnel, for the server's authorized_keys."""

from pathlib import Path

import asyncssh

from gateway.errors import GatewayError
from gateway.secret_files import unreadable
from gateway.ssh.credentials import error_text
from gateway.ssh.options import SshOptions


def public_keys(options: SshOptions) -> list[str]:
    """Return the public key of each identity file, as a line in OpenSSH's format.

    A `.pub` file beside the private key takes precedence.

    Raises:
        GatewayError: A key cannot be read.
    """
    passphrase = options.passphrase.reveal() if options.passphrase else None
    return [_public_key(path, passphrase) for path in options.identity_files]


def _public_key(path: Path, passphrase: str | None) -> str:
    pub_file = path.with_name(path.name + ".pub")
    try:
        if pub_file.exists():
            return pub_file.read_text().strip()
        return asyncssh.read_private_key(path, passphrase).export_public_key().decode().strip()
    except (OSError, asyncssh.KeyImportError) as error:
        why = unreadable(path, error) if isinstance(error, OSError) else error_text(error)
        raise GatewayError(f"{path}: {why}") from error
