"""Creates TLS 1.3 contexts with a pre-shared key (RFC 8446, section 2.2), for connections between gateways."""

import hashlib
import ssl

from gateway.contracts.secret import Secret
from gateway.errors import GatewayError

SUPPORTED = bool(getattr(ssl, "HAS_PSK", False))
"""Whether the ssl module supports pre-shared keys (Python 3.13)."""
NOT_SUPPORTED = "requires Python 3.13 or later for TLS with a pre-shared key: use the gateway's image"
MIN_SECRET_LENGTH = 32
"""Minimum length of the secret, in characters. Anyone who records one handshake can guess a short secret offline."""
_IDENTITY = "gateway"


def contexts(secret: Secret) -> tuple[ssl.SSLContext, ssl.SSLContext]:
    """Return a TLS context for the server and one for the client. This function can block, because it reads a file.

    Args:
        secret: The pre-shared secret, which must be the same on every node.

    Raises:
        GatewayError: The secret cannot be read or is too short, or Python is too old.
    """
    if not SUPPORTED:
        raise GatewayError(f"docker.peers: {NOT_SUPPORTED}")
    try:
        text = secret.reveal()
    except OSError as error:
        raise GatewayError(f"docker.peers.secret_file: {secret.display_path}: {error.strerror}") from error
    if len(text) < MIN_SECRET_LENGTH:
        raise GatewayError(
            f"docker.peers.secret_file: {secret.display_path}: the secret has fewer than {MIN_SECRET_LENGTH}"
            " characters: create one with openssl rand -hex 32"
        )
    key = hashlib.sha256(b"gateway peers\0" + text.encode()).digest()
    listening, connecting = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER), ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    for context in (listening, connecting):
        context.minimum_version = ssl.TLSVersion.TLSv1_3
    listening.num_tickets = 0
    # The client trusts no certificate authority, so it accepts only a server that has the pre-shared key.
    connecting.check_hostname = False
    connecting.verify_mode = ssl.CERT_REQUIRED
    listening.set_psk_server_callback(lambda _: key, None)
    connecting.set_psk_client_callback(lambda _: (_IDENTITY, key))
    return listening, connecting
