"""Imports the modules that `gateway run` imports. The fork server of `forked_process` imports this module."""

import importlib
import sys

from tests.support.files import PYTHON_PATH

# structlog must not find the package rich.
sys.path[:0] = PYTHON_PATH.split(":")

for _name in ("app.instance_name", "app.service", "app.volume_listener_ports", "cli.run", "config"):
    importlib.import_module(f"gateway.{_name}")
