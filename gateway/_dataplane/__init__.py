"""The engine: moves the bytes of SSH channels, in C. Its module `engine` is missing if it could not be built."""

import importlib.util


def is_built() -> bool:
    """Return whether the module `engine` exists."""
    return importlib.util.find_spec("gateway._dataplane.engine") is not None
