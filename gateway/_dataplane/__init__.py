"""Contains the native engine: the C module `engine`, which forwards bytes between sockets and SSH channels.

The C module is missing if it could not be compiled during the installation.
"""

import importlib
import importlib.util
import os
from dataclasses import dataclass
from typing import Literal

_MAX_AUTO_THREADS = 4
"""Maximum number of threads for `threads: auto`. More threads help only with a very high load."""


@dataclass
class NativeEngineSettings:
    """The settings of the native engines in this process: their number, their memory, and what they relay.

    Args:
        threads: Maximum number of native engines per event loop. Each native engine has one thread.
        growth_bytes: Maximum total growth of the receive windows of all SSH channels, in bytes.
        relays_sockets: Whether the native engines also relay connections that use no SSH channel.
    """

    threads: int = 1
    growth_bytes: int = 512 * 1024 * 1024
    relays_sockets: bool = True


settings = NativeEngineSettings()
"""The settings of the native engines in this process. Set `threads` and `growth_bytes` only before the first
native engine starts."""


def thread_count(configured: int | Literal["auto"]) -> int:
    """Return the number of threads for the native engines.

    Args:
        configured: The setting `threads`. `auto` means one thread for each processor that this process may use, but
            at most 4.
    """
    if configured == "auto":
        return min(len(os.sched_getaffinity(0)), _MAX_AUTO_THREADS)
    return configured


def is_built() -> bool:
    """Return whether the C module `engine` is installed."""
    return importlib.util.find_spec("gateway._dataplane.engine") is not None


def description() -> str:
    """Describe the data plane for `gateway --version`, with the OpenSSL version if the native engine is installed."""
    if not is_built():
        return "data plane of asyncssh (the native engine is not built)"
    return f"native data plane in C, {importlib.import_module('gateway._dataplane.engine').OPENSSL_VERSION}"
