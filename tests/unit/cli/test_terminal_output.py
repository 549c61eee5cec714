"""Tests whether tables of commands fit 80 columns, and whether wrapping loses text."""

from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from gateway.app import one_shot_commands
from gateway.audit.report import AuditReport, Finding, HazardRule, Severity, StorageLocation
from gateway.cli import cli
from gateway.cli.terminal_output import print_text
from gateway.docker.plan import ActionKind, AttachmentState, DesiredAttachment, Plan, PlannedAction
from gateway.docker.start_failure import StartFailureCause
from gateway.docker.unavailable_containers import RevivalStatus, UnavailableContainer
from gateway.ops.ops_api_client import OpsApiClient

LONG = "a container with a very long name uses the network of another container, which was recreated meanwhile"
COMMAND = "docker compose -p shop -f /srv/shop/compose.yaml up -d --no-deps --force-recreate application-server"
NAME = "shop-application-server-with-a-long-name-1"
DEAD = UnavailableContainer(
    NAME, "1", StartFailureCause.NETWORK, LONG, RevivalStatus.RECREATE, "a start fails", COMMAND
)
PLAN = Plan(
    actions=(
        PlannedAction(
            ActionKind.CONNECT, network="apps-of-the-shop", container=NAME, aliases=("orders", "www"), why=LONG
        ),
    ),
    attachments=(DesiredAttachment("apps-of-the-shop", NAME, AttachmentState.BLOCKED, None, LONG),),
    warnings=(LONG,),
    unavailable=(DEAD,),
)
REPORT = AuditReport(
    places=(StorageLocation(NAME, "/var/lib/mysql/data", "rw", "anonymous volume", "0fe5219457ea", LONG),),
    findings=(
        Finding(HazardRule("a-rule", "data in a layer", LONG), Severity.HIGH, NAME, "/var/lib", LONG, COMMAND),
    ),
    unchecked=(LONG,),
)
CONTAINER = {
    "trouble": None, "facts": [{"part": "network", "name": "apps", "state": "attached", "why": LONG}],
    "backends": [{"backend": "orders", "reached": "no", "network": None, "why": LONG}], "remedies": [LONG],
}  # fmt: skip


@pytest.mark.parametrize("arguments", ["plan -c c.yaml", "audit -c c.yaml", f"explain {NAME}"])
def test_the_output_fits_80_columns(arguments: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    status: dict[str, Any] = {"backends": {}, "docker": {}}
    monkeypatch.setattr(one_shot_commands, "plan", lambda *_: PLAN)
    monkeypatch.setattr(one_shot_commands, "audit", lambda *_: (REPORT, [LONG]))
    monkeypatch.setattr(OpsApiClient, "get_json", lambda *_: (200, status))
    monkeypatch.setattr(OpsApiClient, "get", lambda *_: (200, CONTAINER))
    monkeypatch.setenv("COLUMNS", "80")
    monkeypatch.chdir(tmp_path)
    Path("c.yaml").write_text("docker: {}\nbackends: {a: {kind: tcp, targets: ['db:1'], listen: '127.0.0.1:2999'}}\n")
    done = CliRunner().invoke(cli, arguments.split(), catch_exceptions=False)
    assert done.exit_code == 0, done.output
    lines = [each for each in done.output.splitlines() if COMMAND not in each]  # commands are not wrapped
    assert [each for each in lines if len(each) > 80] == []
    assert LONG in " ".join(done.output.split())


@pytest.mark.parametrize("keep_lines", [False, True])
def test_text_of_a_server_adds_a_line_only_if_the_caller_permits_it(
    capsys: pytest.CaptureFixture[str], keep_lines: bool
) -> None:
    print_text("a\r\n\x1b[2Jto do: b\u2028c", keep_lines=keep_lines)
    assert capsys.readouterr().out == "a?" + ("\n" if keep_lines else "?") + "?[2Jto do: b?c\n"
