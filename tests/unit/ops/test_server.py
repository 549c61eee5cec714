"""Tests whether openapi.yaml describes exactly the URL paths and methods that the ops server serves."""

from pathlib import Path

import yaml

from gateway.ops.server import OpsServer

FILE = Path(__file__).parents[3] / "gateway" / "ops" / "openapi.yaml"


def test_each_path_is_described() -> None:
    described = yaml.safe_load(FILE.read_text())["paths"]
    methods = {
        (method.upper(), path) for path, item in described.items() for method in item if method != "parameters"
    }
    assert methods == set(OpsServer.paths())
