"""Text uses plain technical English: strings, docstrings and comments of Python code, and Markdown outside code."""

import io
import re
import tokenize
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
FOLDERS = ["gateway", "tests", "bench", "tools", "docs", "charts", "configs"]
BETTER = {
    r"told|tells?|telling": "report, notify, pass, print, or distinguish",
    r"anew|afresh": "again",
    r"mend(s|ed|ing)?": "fix, repair",
    r"(?<!user )(?<!\")nobody(?!:)": "no client, no process",
    r"somebody|whomever": "a client, a process",
    r"(?<!there )is no(?! longer)": "is not a, has no",
    r"so (many|often)": "this number of, the number itself",
    r"again and again": "repeatedly",
    r"ever (more|again|rarer)|for ever": "increasingly, permanently",
    r"in vain": "without success, without a response",
    r"lest": "so that … not",
    r"where(by|of|upon|in)": "by which, of which",
    r"there(of|upon|with|to)": "of it, with it",
    r"here(in|with|of)": "in this, with this",
    r"hitherto|henceforth|forthwith|albeit": "until now, from now on, immediately, although",
    r"let(s|ting)? go of": "release",
    r"takes? it that": "assume",
    r"whose (\w+ )?it is": "its owner, the container of the endpoint",
    r"is wrong is named": "the error names",
    r"for want of": "without",
    r"com(e|es|ing) (about|to nothing|to anything)": "happen, fail, succeed",
    r"(leads?|led) astray": "send to the wrong place",
    r"bears? with": "tolerate",
    r"\w*(avour|olour|aviour|ighbour|efence|ialled|abell|unnell)\w*": "the American spelling",
}
"""Patterns to avoid, and what to write instead."""
AVOID = [(re.compile(rf"\b({pattern})\b", re.IGNORECASE), better) for pattern, better in BETTER.items()]
TEXT_TOKENS = ("STRING", "FSTRING_MIDDLE", "COMMENT")


def covered_files() -> Iterator[Path]:
    for folder in FOLDERS:
        yield from (each for each in (ROOT / folder).rglob("*") if each.suffix in (".py", ".md"))
    yield from ROOT.glob("*.md")


def lines_of_python(source: str) -> Iterator[tuple[int, str]]:
    """Yield the number and the text of each line in a string or comment."""
    for token in tokenize.generate_tokens(io.StringIO(source).readline):
        if tokenize.tok_name[token.type] in TEXT_TOKENS:
            yield from enumerate(token.string.splitlines(), token.start[0])


def lines_of_markdown(source: str) -> Iterator[tuple[int, str]]:
    """Yield the number and the text of each line outside code blocks and code spans."""
    blocks = re.compile(r"^ *```.*?^ *```", re.MULTILINE | re.DOTALL)
    without_blocks = blocks.sub(lambda block: "\n" * block[0].count("\n"), source)
    yield from enumerate(re.sub(r"`[^`\n]*`", "``", without_blocks).splitlines(), 1)


def problems(path: Path, root: Path = ROOT) -> list[str]:
    lines = lines_of_python if path.suffix == ".py" else lines_of_markdown
    return [
        f"{path.relative_to(root)}:{number}: {match[0]!r}: write {better}"
        for number, line in lines(path.read_text())
        for pattern, better in AVOID
        if (match := pattern.search(line))
    ]


def test_covered_text_avoids_archaic_and_vague_words() -> None:
    files = sorted(set(covered_files()) - {Path(__file__)})
    assert len(files) > 500
    found = [problem for path in files for problem in problems(path)]
    assert not found, "\n".join(found)


@pytest.mark.parametrize(
    ("name", "text", "expected"),
    [
        ("a.py", '"""The client\nis told."""', [2]),
        ("a.py", "x = f'{1} is no number'  # open it anew", [1, 1]),
        ("a.py", "told = 1\n# there is no tunnel, and it is no longer open", []),
        ("a.md", "A list\n\n```\ntold\n```\nof `told` and\nso many clients", [7]),
    ],
)
def test_the_scan_finds_words_in_text_only(name: str, text: str, expected: list[int], tmp_path: Path) -> None:
    path = tmp_path / name
    path.write_text(text)
    assert [int(problem.split(":")[1]) for problem in problems(path, tmp_path)] == expected
