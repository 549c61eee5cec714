"""Tests whether all text uses plain technical English.

The scan covers strings, docstrings and comments of Python code, Markdown outside code, comments of YAML, the chart's
templates, and the status page.
"""

import io
import re
import tokenize
from bisect import bisect_right
from collections import defaultdict
from collections.abc import Callable, Iterator
from itertools import accumulate
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
ADVICE = {f"pattern_{number}": better for number, better in enumerate(BETTER.values())}
AVOID = re.compile(
    rf"\b(?:{'|'.join(f'(?P<{name}>{pattern})' for name, pattern in zip(ADVICE, BETTER, strict=True))})\b",
    re.IGNORECASE,
)
"""Matches any of the patterns; `lastgroup` of a match is the key in `ADVICE`. One search takes a quarter of the time
of separate searches for all patterns."""
TEXT_TOKENS = ("STRING", "FSTRING_START", "FSTRING_MIDDLE", "FSTRING_END", "COMMENT")
CODE = "\0"
"""Replaces everything that is not text, so that the words before and after it do not form a phrase."""


def covered_files() -> Iterator[Path]:
    for folder in FOLDERS:
        yield from (each for each in (ROOT / folder).rglob("*") if each.suffix in READERS)
    yield from ROOT.glob("*.md")
    yield from (each for each in (ROOT / "charts").glob("*/templates/**/*") if each.is_file())


def text_of_python(source: str) -> str:
    """Return the strings and comments of `source`. Everything else is replaced by `CODE`."""
    parts: defaultdict[int, list[tuple[int, str]]] = defaultdict(list)  # columns and texts, by line
    for token in tokenize.generate_tokens(io.StringIO(source).readline):
        if tokenize.tok_name[token.type] in TEXT_TOKENS:
            text = re.sub("^#", " ", token.string)
            if re.match("[rR]?[fF]", text):  # In Python 3.11, an f-string is one token that includes its expressions.
                text = re.sub(r"\{[^{}\n]*\}", lambda code: CODE * len(code[0]), text)
            for number, part in enumerate(text.splitlines()):
                parts[token.start[0] - 1 + number].append((0 if number else token.start[1], part))

    def text_of_line(number: int, line: str) -> str:
        text, end = "", 0
        for column, part in parts[number]:
            text += re.sub(r"\S+", CODE, line[end:column]) + part
            end = column + len(part)
        return text + re.sub(r"\S+", CODE, line[end:])

    joined = "\n".join(text_of_line(number, line) for number, line in enumerate(source.splitlines()))
    return re.sub(r"""["'](\s*\n\s*)[A-Za-z]?["']""", r" \1 ", joined)  # Python joins adjacent strings.


def text_of_markdown(source: str) -> str:
    """Return `source` without code blocks and code spans."""
    blocks = re.compile(r"^ *```.*?^ *```", re.MULTILINE | re.DOTALL)
    without_blocks = blocks.sub(lambda block: "\n" * block[0].count("\n"), source)
    return re.sub(r"`[^`\n]*`", CODE, without_blocks)


def text_of_yaml(source: str) -> str:
    """Return the comments of `source`. Everything else is replaced by `CODE`."""

    def comment(line: str) -> str:
        code = re.split(r"(?<!\S)#", line, maxsplit=1)[0]
        return re.sub(r"\S", CODE, code) + " " + line[len(code) + 1 :]

    return "\n".join(map(comment, source.splitlines()))


def text_of_c(source: str) -> str:
    """Return the strings and comments of `source`. Everything else is replaced by `CODE`."""
    parts = re.split(r"""(/\*.*?\*/|//[^\n]*|"(?:\\.|[^"\\\n])*"|'(?:\\.|[^'\\\n])+')""", source, flags=re.DOTALL)
    for at, part in enumerate(parts):
        if at % 2 == 0 or part.startswith("'"):
            parts[at] = re.sub(r"\S+", CODE, part)
        elif part.startswith("/*"):
            parts[at] = re.sub(r"^\s*\*(?!/)|^/\*|\*/$", "", part, flags=re.MULTILINE)
    return "".join(parts)


READERS: dict[str, Callable[[str], str]] = {
    ".py": text_of_python,
    ".pyi": text_of_python,
    ".c": text_of_c,
    ".h": text_of_c,
    ".md": text_of_markdown,
    ".yaml": text_of_yaml,
    ".html": str,
}
"""For each file suffix, the function that returns the text of a file, with the same line numbers. Chart templates
need no function, because all of their content is checked."""


def problems(path: Path, root: Path = ROOT) -> list[str]:
    """Return a message for each phrase to avoid, with the number of its first line. A phrase can span lines."""
    read = str if "templates" in path.parts else READERS[path.suffix]
    words = [
        (number, word)
        for number, line in enumerate(read(path.read_text()).splitlines(), 1)
        for word in line.split() or [CODE]
    ]
    starts = list(accumulate((len(word) + 1 for _, word in words), initial=0))
    text = " ".join(word for _, word in words)
    found = [
        (words[bisect_right(starts, match.start()) - 1][0], match[0], ADVICE[match.lastgroup or ""])
        for match in AVOID.finditer(text)
    ]
    return [
        f"{path.relative_to(root)}:{number}: {phrase!r}: write {better}" for number, phrase, better in sorted(found)
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
        ("a.py", "# It\n# is\n# no more.\nx = 'is'\ny = 'no'\nz = ('so '\n     f'many')", [2, 6]),
        ("a.py", "'It is'\n\n'no'\nf'so {1} many'", []),
        (
            "a.c",
            'int told; /* It\n * is\n * told. */ char c = \'"\'; /* anew */\nf("so many"); // lest',
            [3, 3, 4, 4],
        ),
        ("a.h", "/* It is\n * no list. */\n#define ANEW told", [1]),
        ("a.yaml", "a: told  # so\nb: 1  # many\nc: [lest]\n# It is\n# no list, anew.", [4, 5]),
        ("a.html", "<p>It is\n  no list.</p>", [1]),
        ("templates/a.yaml", 'a: {{ fail "it is no list" }}', [1]),
        ("a.md", "It is\nno list.\n\nso\n\nmany", [1]),
        ("a.md", "A list\n\n```\ntold\n```\nof `told` and\nso many clients", [7]),
    ],
)
def test_the_scan_finds_words_in_text_only(name: str, text: str, expected: list[int], tmp_path: Path) -> None:
    path = tmp_path / name
    path.parent.mkdir(exist_ok=True)
    path.write_text(text)
    assert [int(problem.split(":")[1]) for problem in problems(path, tmp_path)] == expected


def test_a_problem_names_the_phrase_and_the_alternative(tmp_path: Path) -> None:
    path = tmp_path / "a.md"
    path.write_text("It comes to nothing.\nThe neighbour is told.")
    assert problems(path, tmp_path) == [
        "a.md:1: 'comes to nothing': write happen, fail, succeed",
        "a.md:2: 'neighbour': write the American spelling",
        "a.md:2: 'told': write report, notify, pass, print, or distinguish",
    ]
