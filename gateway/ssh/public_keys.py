"""Reads the public keys of a tunnel, so that they can be added to the server's authorized_keys file."""

from pathlib import Path

import asyncssh

from gateway.errors import GatewayError
from gateway.secret_files import unreadable
from gateway.ssh.credentials import read_passphrase
from gateway.ssh.options import SshOptions
from gateway.text_sanitizer import error_text


def public_keys(options: SshOptions) -> list[str]:
    """Return the public keys of the identity files. Each is one line in OpenSSH's format, without options.

    If the private key has a `.pub` file next to it, the function reads this file instead of the private key.

    Raises:
        GatewayError: A key, or the passphrase of a private key, cannot be read, or a `.pub` file contains
            something other than public keys and comments.
    """
    return [line for path in options.identity_files for line in _public_keys(path, options)]


def _public_keys(path: Path, options: SshOptions) -> list[str]:
    file = pub_file = path.with_name(path.name + ".pub")
    try:
        file = pub_file if pub_file.exists() else path
        if file is pub_file:
            lines = [line for line in pub_file.read_bytes().splitlines() if line.strip()]
            keys = [asyncssh.import_public_key(line) for line in lines if not line.lstrip().startswith(b"#")]
        else:
            keys = [asyncssh.read_private_key(path, read_passphrase(options))]
    except OSError as error:
        raise GatewayError(f"{file}: {unreadable(file, error)}") from error
    except asyncssh.KeyEncryptionError as error:
        raise GatewayError(f"{file}: the key cannot be decrypted: check passphrase_file") from error
    except (asyncssh.KeyImportError, ValueError) as error:
        raise GatewayError(f"{file}: {error_text(error)}") from error
    if not keys:
        raise GatewayError(
            f"{file}: contains no public key: ssh-keygen -y -f KEY prints the public key of a private key"
        )
    # The comment of a key can contain line breaks. Join the lines, because a second line in authorized_keys would be
    # another key, without restrictions.
    return [" ".join(key.export_public_key().decode(errors="replace").split()) for key in keys]
