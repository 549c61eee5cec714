"""Tests the Quadlet units of configs/quadlet with Podman's real generator."""

import os
import re
import subprocess
from pathlib import Path

import pytest

from tests.support.files import REPOSITORY
from tests.support.requirements import need

pytestmark = [pytest.mark.integration, pytest.mark.timeout(60)]

_GENERATOR = Path("/usr/libexec/podman/quadlet")
_APP = """
[Container]
Image=app
Network=gateway.container
"""


def test_the_generator_accepts_the_units(tmp_path: Path) -> None:
    need(_GENERATOR.exists(), f"{_GENERATOR} (package podman)")
    for unit in (REPOSITORY / "configs/quadlet").iterdir():
        (tmp_path / unit.name).write_text(unit.read_text())
    (tmp_path / "app.container").write_text(_APP)
    done = subprocess.run(
        [str(_GENERATOR), "-dryrun"], env={**os.environ, "QUADLET_UNIT_DIRS": str(tmp_path)},
        capture_output=True, text=True, check=True, timeout=30,
    )  # fmt: skip
    parts = re.split(r"^---(\S+)---$", done.stdout, flags=re.MULTILINE)[1:]
    services = dict(zip(parts[::2], parts[1::2], strict=True))
    gateway, app = services["gateway.service"], services["app.service"]
    for option in ("--network host", "--read-only", "--cap-drop all", "--sdnotify=container", "--secret tunnel_key,"):
        assert option in gateway
    assert "Before=podman-restart.service" in gateway
    assert "Requires=gateway-state-volume.service" in gateway
    assert "gateway-state-volume.service" in services
    assert "After=gateway.service" in app
    assert "--network container:gateway" in app
