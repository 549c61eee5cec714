"""The engine: moves the bytes of SSH channels, in C. Its module `engine` is missing if it could not be built."""

import importlib
import importlib.util


def is_built() -> bool:
    """Return whether the module `engine` exists."""
    return importlib.util.find_spec("gateway._dataplane.engine") is not None


def description() -> str:
    """Return which native data plane is installed, and with which OpenSSL."""
    if not is_built():
        return "native data plane in Python (the extension in C is not built)"
    return f"native data plane in C, {importlib.import_module('gateway._dataplane.engine').OPENSSL_VERSION}"
