"""Compares the documentation with the code."""

import re
import subprocess
import sys
from pathlib import Path

import click
import pytest
import yaml

from gateway.cli import cli
from gateway.contracts.states import CloseReason, HealthState, TunnelState
from gateway.docker.plan import ActionKind
from gateway.errors import FailureReason
from gateway.forwarding.admission import RefusalReason
from gateway.ops.docker_views import UNAVAILABLE_CAUSES
from gateway.remedies import TUNNEL_REMEDIES

ROOT = Path(__file__).parents[2]
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", ROOT / "SECURITY.md", *sorted((ROOT / "docs").rglob("*.md"))]
DIAL_REASONS = {
    FailureReason.TIMEOUT, FailureReason.REFUSED, FailureReason.RESET, FailureReason.DNS,
    FailureReason.CHANNEL_PROHIBITED, FailureReason.CHANNEL_FAILED, FailureReason.ROLE, FailureReason.HOST_BLOCKED,
    FailureReason.PROTOCOL,
}  # fmt: skip
"""Reasons why the gateway cannot connect a client to a target. Excludes tunnel failures and exceeded limits."""
EXAMPLES = sorted(path for name in ("compose", "stack") for path in (ROOT / "configs").rglob(f"{name}.yaml"))


@pytest.mark.parametrize("tool", ["reference.py", "chart_readme.py", "chart_schema.py"])
def test_the_reference_matches_the_code(tool: str) -> None:
    done = subprocess.run(
        [sys.executable, ROOT / "tools" / tool, "--check"],
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
    )
    assert (done.returncode, done.stderr) == (0, "")


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_and_commands_exist(page: Path) -> None:
    text = page.read_text()
    for link in re.findall(r"\]\((?!https?://|#)([^)#]+)", text):
        assert (page.parent / link).exists(), link
    code = "\n".join(re.findall(r"^\s*```.*?^\s*```", text, re.MULTILINE | re.DOTALL))
    for name in re.findall(r"^\s*gateway ([a-z]+)", code, re.MULTILINE):
        assert name in cli.list_commands(click.Context(cli)), name
    for name in re.findall(r"`make ([a-z-]+)", text):
        assert re.search(rf"^(.* )?{name}( .*)?:", (ROOT / "Makefile").read_text(), re.MULTILINE), name


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_yaml_examples_can_be_parsed(page: Path) -> None:
    for example in re.findall(r"^ *```ya?ml\n(.*?)^ *```", page.read_text(), re.MULTILINE | re.DOTALL):
        assert list(yaml.safe_load_all(example)), example


def split_rows(text: str) -> list[str]:
    """Return the lines of Markdown tables that do not end with `|`, or have more or fewer cells than the header."""
    tables = re.sub(r"^ *```.*?^ *```", "", text, flags=re.MULTILINE | re.DOTALL)
    found = []
    for block in re.findall(r"^ *\|.*\n(?:.*\S.*\n)*", tables + "\n", re.MULTILINE):
        rows = block.splitlines()
        cells = [len(re.findall(r"(?<!\\)\|", re.sub(r"`[^`]*`", "", row))) for row in rows]
        found += [row for row, count in zip(rows, cells, strict=True) if count != cells[0] or row.strip()[-1] != "|"]
    return found


def test_no_row_of_a_table_is_split() -> None:
    split = "| a | b |\n| --- | --- |\n| one | two\nthree |\n| four | five |\n"
    assert split_rows(f"Text.\n\n{split}") == ["| one | two", "three |"]
    assert split_rows(f"```\n{split}```\nText | more.\n") == []
    pages = [*PAGES, *(ROOT / "charts").rglob("*.md"), *(ROOT / "bench").glob("*.md"), ROOT / "CHANGELOG.md"]
    assert {page.name: rows for page in pages if (rows := split_rows(page.read_text()))} == {}


def test_the_page_about_troubleshooting_has_every_state_and_reason() -> None:
    text = (ROOT / "docs" / "troubleshooting.md").read_text()
    assert re.findall(r"^### `(\w+)`$", text, re.MULTILINE) == list(FailureReason)
    rows = set(re.findall(r"`(\w+)`", "".join(re.findall(r"^\| (`.*?) \|", text, re.MULTILINE))))
    assert rows >= {*HealthState, *TunnelState, *RefusalReason, *CloseReason} - {CloseReason.FINISHED}


def _row_words(name: str) -> set[str]:
    """Return the words in backquotes in the first column of a runbook's tables."""
    text = (ROOT / "docs" / "runbooks" / f"{name}.md").read_text()
    return set(re.findall(r"`(\w+)`", "".join(re.findall(r"^\| (.*?) \|", text, re.MULTILINE))))


@pytest.mark.parametrize(
    ("alert", "shown"),
    [
        ("GatewayTunnelDown", set(TUNNEL_REMEDIES)),
        (
            "GatewayBackendDown",
            set(FailureReason) - {FailureReason.TUNNEL, FailureReason.UNAUTHENTICATED, FailureReason.HOST_BLOCKED},
        ),
        (
            "GatewayBackendDegraded",
            {FailureReason.ROLE, FailureReason.LAG, FailureReason.NO_SPACE, FailureReason.UNAUTHENTICATED},
        ),
        ("GatewayBackendAvailabilityBurn", DIAL_REASONS),
        (
            "GatewayPathDown",
            DIAL_REASONS - {FailureReason.ROLE, FailureReason.HOST_BLOCKED, FailureReason.PROTOCOL}
            | {FailureReason.TUNNEL},
        ),
        ("GatewayClientsRejected", set(RefusalReason)),
        ("GatewayContainersDead", set(UNAVAILABLE_CAUSES)),
        ("GatewayDockerErrors", set(ActionKind)),
    ],
)
def test_a_runbook_has_a_row_for_each_reason_that_its_alert_can_show(alert: str, shown: set[str]) -> None:
    words = _row_words(alert)
    assert {str(each) for each in shown} <= words
    # No row names a reason that the alert cannot show.
    assert words & {*FailureReason, *RefusalReason} <= {str(each) for each in shown}


@pytest.mark.parametrize("example", EXAMPLES, ids=lambda path: str(path.relative_to(ROOT / "configs")))
def test_the_gateway_of_an_example_writes_no_core_dump(example: Path) -> None:
    services = yaml.safe_load(example.read_text())["services"]
    gateways = [each for name, each in services.items() if name.startswith("gateway")]
    assert gateways
    assert all(each["ulimits"] == {"core": 0} for each in gateways)


def test_each_folder_of_examples_has_a_compose_file() -> None:
    folders = {path.parent for path in EXAMPLES}
    assert folders == {path for path in (ROOT / "configs" / "compose").iterdir() if path.is_dir()}
