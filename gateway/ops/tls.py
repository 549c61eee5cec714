"""Creates the TLS context of the ops server."""

import ssl

from gateway.contracts.tls_server_files import TlsServerFiles
from gateway.errors import GatewayError, TunnelError
from gateway.secret_files import read_private_key


def server_context(files: TlsServerFiles) -> ssl.SSLContext:
    """Return a context for TLS 1.2 and later. If a client sends a certificate, the context verifies the certificate.

    Args:
        files: The files with the certificate and the key.

    Raises:
        GatewayError: A file cannot be read or is not valid.
    """
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.set_alpn_protocols(["http/1.1"])
    key = "key_file"
    try:
        read_private_key(files.key_file)
        key = "cert_file"
        context.load_cert_chain(files.cert_file, files.key_file, password=_no_passphrase)
        if files.client_ca_file is not None:
            key = "client_ca_file"
            context.load_verify_locations(files.client_ca_file)
            context.verify_mode = ssl.CERT_OPTIONAL
    except TunnelError as error:
        raise GatewayError(f"ops.tls.{key}: {error}") from error
    except (OSError, ValueError) as error:  # OSError includes ssl.SSLError
        raise GatewayError(
            f"ops.tls.{key}: {getattr(files, key)}: {_describe(error)} (PEM is required; the key must belong to the"
            " certificate and have no passphrase)"
        ) from error
    return context


def _no_passphrase() -> str:
    raise ValueError("the key has a passphrase")


def _describe(error: Exception) -> str:
    return getattr(error, "strerror", None) or getattr(error, "reason", None) or str(error)
