"""Loads WireGuard files, and the key files to which the tunnel's options refer."""

from dataclasses import replace

from gateway.contracts.secret import Secret
from gateway.errors import FailureReason, GatewayError, TunnelError
from gateway.secret_files import check_owner_only, read_private_key
from gateway.vpn.options import WireGuardOptions
from gateway.vpn.regular_file import MAX_CONFIG_SIZE, read_regular_file
from gateway.vpn.wireguard_formats import WireGuardFile, check_key, parse_wireguard_file


def load_wireguard_file(options: WireGuardOptions) -> WireGuardFile:
    """Load the configuration file of a tunnel, and the keys that the options set. Can block.

    The function opens the configuration file only once, so that no other file can replace it between the check of its
    permissions and the read.

    Args:
        options: The options of the tunnel.

    Raises:
        TunnelError: A file cannot be read or is invalid, or other users can read the keys in it. The error is fatal.
    """
    try:
        loaded = read_regular_file(options.config, MAX_CONFIG_SIZE)
        file = parse_wireguard_file(loaded.data.decode())
        if file.private_key or any(peer.preshared_key for peer in file.peers):
            check_owner_only(options.config, loaded.status)
        return _with_keys(file, options)
    except TunnelError:
        raise
    except (OSError, UnicodeDecodeError, GatewayError) as error:
        raise TunnelError(FailureReason.PROTOCOL, f"config: {options.config}: {error}", fatal=True) from error


def _with_keys(file: WireGuardFile, options: WireGuardOptions) -> WireGuardFile:
    """Return a copy of a parsed file. Keys in the options replace the keys of the file."""
    if options.private_key is not None:
        file = replace(file, private_key=check_key(_reveal(options.private_key), "private_key"))
    if options.preshared_key is not None:
        if len(file.peers) != 1:
            raise GatewayError("preshared_key requires exactly one [Peer]: set PresharedKey in the file instead")
        preshared_key = check_key(_reveal(options.preshared_key), "preshared_key")
        file = replace(file, peers=(replace(file.peers[0], preshared_key=preshared_key),))
    if not file.private_key:
        raise GatewayError("has no PrivateKey: add it, or set private_key_file")
    return file


def _reveal(secret: Secret) -> str:
    text = secret.reveal() if secret.path is None else read_private_key(secret.path).decode()
    return text.strip()
