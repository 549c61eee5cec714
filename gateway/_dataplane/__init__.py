"""The engine: moves the bytes of SSH channels and between sockets, in C.

Its module `engine` is missing if it could not be built.
"""

import importlib
import importlib.util
import os
from dataclasses import dataclass
from typing import Literal

_MAX_AUTO_THREADS = 4
"""More threads than this help only with a very high load, which an operator configures."""


@dataclass
class Settings:
    """The settings of the data plane in this process.

    Args:
        threads: Maximum number of engines, each with a thread, of an event loop.
        growth_bytes: Limit on the growth of the receive windows of all SSH channels together, in bytes.
    """

    threads: int = 1
    growth_bytes: int = 512 * 1024 * 1024


settings = Settings()
"""The settings of this process. A change does not affect event loops that have started an engine."""


def thread_count(configured: int | Literal["auto"]) -> int:
    """Return the number of threads. `auto` is one for each processor that this process may use, up to 4."""
    if configured == "auto":
        return min(len(os.sched_getaffinity(0)), _MAX_AUTO_THREADS)
    return configured


def is_built() -> bool:
    """Return whether the module `engine` exists."""
    return importlib.util.find_spec("gateway._dataplane.engine") is not None


def description() -> str:
    """Return whether the data plane in C is built, and with which OpenSSL."""
    if not is_built():
        return "data plane of asyncssh (the data plane in C is not built)"
    return f"native data plane in C, {importlib.import_module('gateway._dataplane.engine').OPENSSL_VERSION}"
