"""Reads the public keys of a tunnel, so that they can be added to the server's authorized_keys file."""

from pathlib import Path

import asyncssh

from gateway.errors import GatewayError
from gateway.secret_files import unreadable
from gateway.ssh.credentials import read_passphrase
from gateway.ssh.options import SshOptions
from gateway.text_sanitizer import error_text


def public_keys(options: SshOptions) -> list[str]:
    """Return the public key of each identity file, as a line in OpenSSH's format.

    If the private key has a `.pub` file next to it, the function reads this file instead of the private key.

    Raises:
        GatewayError: A key, or the passphrase of a private key, cannot be read.
    """
    return [_public_key(path, options) for path in options.identity_files]


def _public_key(path: Path, options: SshOptions) -> str:
    pub_file = path.with_name(path.name + ".pub")
    try:
        if pub_file.exists():
            return pub_file.read_text().strip()
        return asyncssh.read_private_key(path, read_passphrase(options)).export_public_key().decode().strip()
    except (OSError, asyncssh.KeyImportError) as error:
        why = unreadable(path, error) if isinstance(error, OSError) else error_text(error)
        raise GatewayError(f"{path}: {why}") from error
