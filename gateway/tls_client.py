"""TLS context for all TLS clients of Gateway."""

import ssl
from pathlib import Path


def client_context(ca_file: Path | str | None = None) -> ssl.SSLContext:
    """Return a context that verifies the server's certificate and host name.

    Args:
        ca_file: PEM file with the trusted certificate authorities; None: the system's.

    Raises:
        OSError: The file cannot be read.
        ssl.SSLError: The file contains no usable certificate. This is a subclass of `OSError`.
    """
    try:
        context = ssl.create_default_context(cafile=str(ca_file) if ca_file else None)
    except ssl.SSLError as error:
        raise ssl.SSLError(error.errno or 1, "contains no usable PEM certificate") from error
    # Python 3.13 sets this flag by default. It rejects a CA without the key usage extension, as many private CAs are.
    # libpq, curl and Python 3.12 accept them. Signature, validity, host name and CA flag are verified without it.
    context.verify_flags &= ~ssl.VERIFY_X509_STRICT
    return context
