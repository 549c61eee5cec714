"""Tests `gateway check` without a running service."""

from pathlib import Path

from gateway.app.one_shot_commands import check
from gateway.config import ConfigSources, load
from gateway.contracts.states import HealthState
from gateway.errors import FailureReason

CONFIG = """
tunnels:
  helper: {kind: command, mode: stdio, command: [sh, -c, "echo no session >&2; exit 3"]}
backends:
  web: {kind: http, via: helper, targets: ["web:80", "web:81"]}
"""


def test_the_result_shows_why_a_program_has_failed(tmp_path: Path) -> None:
    path = tmp_path / "gateway.yaml"
    path.write_text(CONFIG)
    results = [each.result for each in check(load(ConfigSources(file=path, environment={"HOME": str(tmp_path)})), ())]
    assert {(each.state, each.reason) for each in results} == {(HealthState.BLOCKED, FailureReason.TUNNEL)}
    assert [each.detail for each in results] == ["tunnel helper is down: sh ended with exit code 3: no session"] * 2
