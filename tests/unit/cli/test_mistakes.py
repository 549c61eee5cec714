"""Tests the output for each mistake in `mistakes/`. The output names the mistake, its position and its remedy.

`UPDATE_GOLDEN=1` rewrites the expected outputs in `mistakes/`.
"""

import os
import re
from pathlib import Path
from typing import Any

import pytest
import yaml

from gateway import default_file_paths
from gateway.cli import main

FOLDER = Path(__file__).parent / "mistakes"
WHAT_TO_DO = re.compile(
    r"(: |, or |; |\()(add|allow|align|change|check|choose|chmod|close|correct|create|edit|fix|indent|install|lower"
    r"|quote|name|percent-encode|remove|rename|replace|save|set|shorten|start|start all|use|write)\b"
    r"|[Dd]id you mean|must be|needs a port|is not one of|Add |as in "
)
"""Matches an instruction, a suggestion, or a list of allowed values."""
RAW = ("Traceback", "Errno", "object at 0x", "Error(")
"""Parts of Python's error output, which an operator must not see."""


class Dumper(yaml.SafeDumper):
    """Writes texts with line breaks as literal blocks."""


Dumper.add_representer(
    str,
    lambda dumper, text: dumper.represent_scalar("tag:yaml.org,2002:str", text, style="|" if "\n" in text else None),
)


def read(path: Path) -> list[dict[str, Any]]:
    return list(yaml.safe_load(path.read_text()))


CASES = [(path, at, case) for path in sorted(FOLDER.glob("*.yaml")) for at, case in enumerate(read(path))]


def run(case: dict[str, Any], folder: Path, capsys: pytest.CaptureFixture[str]) -> tuple[int, str]:
    """Run the command of a case in `folder`. Return the exit code and the error output.

    In the case and in the result, `DIR` stands for the path of `folder`.
    """
    for name, text in {"gateway.yaml": case.get("config"), **case.get("files", {})}.items():
        if text is not None:
            (folder / name).write_text(text.replace("DIR", str(folder)))
            (folder / name).chmod(0o600 if name.endswith((".secret", ".yaml")) else 0o644)
    arguments = [
        each.replace("DIR", str(folder)) for each in case.get("arguments", ["validate", "-c", "gateway.yaml"])
    ]
    with pytest.raises(SystemExit) as ended:
        main(arguments)
    code = ended.value.code
    return int(code or 0), capsys.readouterr().err.replace(str(folder), "DIR")


@pytest.mark.parametrize(
    ("path", "at", "case"), CASES, ids=[f"{path.stem}-{case['mistake'].replace(' ', '_')}" for path, _, case in CASES]
)
def test_a_mistake_has_its_message(
    path: Path,
    at: int,
    case: dict[str, Any],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "200")
    monkeypatch.setattr(default_file_paths, "admin_socket", lambda: tmp_path / "admin.sock")
    for name in [each for each in os.environ if each.startswith(("GATEWAY_", "DOCKER_"))]:
        monkeypatch.delenv(name)
    for name, value in case.get("environment", {}).items():
        monkeypatch.setenv(name, value)
    tmp_path.chmod(0o755)
    code, output = run(case, tmp_path, capsys)
    if os.environ.get("UPDATE_GOLDEN"):
        cases = read(path)
        cases[at] |= {"exit": code, "output": output}
        case = cases[at]
        path.write_text(yaml.dump(cases, Dumper=Dumper, sort_keys=False, allow_unicode=True, width=118))
    assert (code, output) == (case["exit"], case["output"])
    assert code != 0
    assert not [raw for raw in RAW if raw in output]


@pytest.mark.parametrize("path", sorted(FOLDER.glob("*.yaml")), ids=lambda path: path.stem)
def test_each_message_says_what_to_do(path: Path) -> None:
    lines = [line for case in read(path) for line in case["output"].splitlines()]
    messages = [line for line in lines if line and not line.startswith(("Usage: ", "Try "))]
    assert [each for each in messages if not WHAT_TO_DO.search(each)] == []


def test_the_corpus_is_large() -> None:
    assert len(CASES) >= 80
