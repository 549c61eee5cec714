"""The TLS context of every client in the project."""

import ssl
from pathlib import Path


def client_context(ca_file: Path | str | None = None) -> ssl.SSLContext:
    """A context that verifies the server's certificate and its name.

    Args:
        ca_file: Certificate authorities to trust in PEM; None: the system's.

    Raises:
        OSError: The file cannot be read or holds no certificate (`ssl.SSLError`); says which.
    """
    try:
        context = ssl.create_default_context(cafile=str(ca_file) if ca_file else None)
    except ssl.SSLError as error:
        raise ssl.SSLError(error.errno or 1, "holds no certificate in PEM that can be used") from error
    # Python 3.13 sets this by default. It refuses a CA without the extension "key usage", as many private CAs are;
    # libpq, curl and Python 3.12 accept these. Signature, validity, name and the CA flag are verified without it.
    context.verify_flags &= ~ssl.VERIFY_X509_STRICT
    return context
