"""The public halves of a tunnel's keys, for the other side's authorized_keys."""

from pathlib import Path

import asyncssh

from gateway.errors import GatewayError
from gateway.keyfiles import unreadable
from gateway.ssh.credentials import told
from gateway.ssh.options import SshOptions


def public_keys(options: SshOptions) -> list[str]:
    """One line in OpenSSH's format per identity file; a `.pub` beside the key is preferred.

    Raises:
        GatewayError: A key cannot be read.
    """
    passphrase = options.passphrase.reveal() if options.passphrase else None
    return [_public(path, passphrase) for path in options.identity_files]


def _public(path: Path, passphrase: str | None) -> str:
    beside = path.with_name(path.name + ".pub")
    try:
        if beside.exists():
            return beside.read_text().strip()
        return asyncssh.read_private_key(path, passphrase).export_public_key().decode().strip()
    except (OSError, asyncssh.KeyImportError) as error:
        why = unreadable(path, error) if isinstance(error, OSError) else told(error)
        raise GatewayError(f"{path}: {why}") from error
