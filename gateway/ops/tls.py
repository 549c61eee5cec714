"""TLS of the ops server."""

import ssl
from dataclasses import dataclass
from pathlib import Path

from gateway.errors import GatewayError, TunnelError
from gateway.secret_files import read_private_key


@dataclass(frozen=True)
class TlsFiles:
    """Where certificate and key stand, in PEM.

    Args:
        cert_file: The certificate, with the intermediate ones after it.
        key_file: Its private key, without a passphrase.
        client_ca_file: Who signs the certificates of clients; None: none is asked for.
    """

    cert_file: Path
    key_file: Path
    client_ca_file: Path | None = None


def context(files: TlsFiles) -> ssl.SSLContext:
    """A server's context for TLS 1.2 and later; client certificates are verified where one is shown.

    Raises:
        GatewayError: A file cannot be used.
    """
    made = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    made.minimum_version = ssl.TLSVersion.TLSv1_2
    made.set_alpn_protocols(["http/1.1"])
    key = "key_file"
    try:
        read_private_key(files.key_file)
        key = "cert_file"
        made.load_cert_chain(files.cert_file, files.key_file, password=_no_passphrase)
        if files.client_ca_file is not None:
            key = "client_ca_file"
            made.load_verify_locations(files.client_ca_file)
            made.verify_mode = ssl.CERT_OPTIONAL
    except TunnelError as error:
        raise GatewayError(f"ops.tls.{key}: {error}") from error
    except (OSError, ValueError) as error:  # OSError includes ssl.SSLError
        raise GatewayError(
            f"ops.tls.{key}: {getattr(files, key)}: {_told(error)} (PEM; the key must belong to the certificate"
            " and have no passphrase)"
        ) from error
    return made


def _no_passphrase() -> str:
    raise ValueError("the key has a passphrase")


def _told(error: Exception) -> str:
    return getattr(error, "strerror", None) or getattr(error, "reason", None) or str(error)
