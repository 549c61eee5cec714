"""Exits the process without waiting for its threads."""

import logging
import os
import sys
from typing import NoReturn


def exit_immediately(code: int) -> NoReturn:
    """Flush logs and output, and exit without waiting for threads, such as those that resolve host names."""
    logging.shutdown()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)
