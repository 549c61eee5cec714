"""Imports the modules of all gateway commands. The fork server of `forked_process` imports this module."""

import importlib
import pkgutil
import sys

from tests.support.files import PYTHON_PATH

# PYTHON_PATH hides the package rich. Otherwise, structlog would import rich, which the container image does not have.
sys.path[:0] = PYTHON_PATH.split(":")

from gateway import app, backends, cli, config, docker, tunnels  # noqa: E402 - after the change of sys.path

for _package in (app, backends, cli, config, docker, tunnels):
    for _module in pkgutil.iter_modules(_package.__path__, f"{_package.__name__}."):
        importlib.import_module(_module.name)
