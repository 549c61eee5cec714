"""Defines the certificate files of TLS clients, and creates SSL contexts from them."""

import ssl
from dataclasses import dataclass
from pathlib import Path

from gateway.errors import GatewayError


@dataclass(frozen=True)
class TlsClientFiles:
    """The certificate files of a TLS client: the trusted authorities, and the client's certificate and key.

    Args:
        ca_file: PEM file with the certificate authorities to trust. Default: those of the system.
        cert_file: PEM file with the client's certificate, if the server requests one.
        key_file: PEM file with the private key. By default, `cert_file` must contain the key.
    """

    ca_file: Path | None = None
    cert_file: Path | None = None
    key_file: Path | None = None

    @property
    def is_set(self) -> bool:
        """Whether at least one file is set."""
        return self != TlsClientFiles()

    def context(self, *, verified: bool = True) -> ssl.SSLContext:
        """Read the files, and create an SSL context for client connections. The call can block.

        Args:
            verified: Whether to verify the server's certificate and host name.

        Raises:
            GatewayError: A file cannot be used. The message begins with the configuration key of the file.
        """
        place = f"ca_file: {self.ca_file}"
        try:
            context = client_context(self.ca_file)
            if self.cert_file is not None:
                # Open the files first, because an error of `load_cert_chain` does not contain the path.
                for key, path in (("cert_file", self.cert_file), ("key_file", self.key_file)):
                    place = f"{key}: {path}"
                    if path is not None:
                        path.open("rb").close()
                place = f"cert_file: {self.cert_file}" + (f", key_file: {self.key_file}" if self.key_file else "")
                context.load_cert_chain(self.cert_file, self.key_file)
        except OSError as error:  # `ssl.SSLError` is a subclass of `OSError`
            raise GatewayError(f"{place}: {error.strerror or error}") from error
        if not verified:
            context.check_hostname = False
            context.verify_mode = ssl.CERT_NONE
        return context


def client_context(ca_file: Path | str | None = None) -> ssl.SSLContext:
    """Create an SSL context that verifies the server's certificate and host name.

    Args:
        ca_file: PEM file with the certificate authorities to trust; None to trust those of the system.

    Raises:
        OSError: The file cannot be read.
        ssl.SSLError: The file contains no usable certificate. `ssl.SSLError` is a subclass of `OSError`.
    """
    try:
        context = ssl.create_default_context(cafile=str(ca_file) if ca_file else None)
    except ssl.SSLError as error:
        raise ssl.SSLError(error.errno or 1, "contains no usable PEM certificate: replace the file") from error
    # Clear VERIFY_X509_STRICT, which Python 3.13 sets by default. This flag rejects CAs without the key usage
    # extension, which many private CAs lack. libpq, curl and Python 3.12 accept these CAs. Without the flag, OpenSSL
    # still verifies the signature, the validity, the host name and the CA flag.
    context.verify_flags &= ~ssl.VERIFY_X509_STRICT
    return context
