"""Exits the process without waiting for its threads."""

import logging
import os
import sys
from typing import NoReturn


def exit_immediately(code: int) -> NoReturn:
    """Flush logs and output, and exit. A normal exit would wait for threads that still resolve a host name."""
    logging.shutdown()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)
