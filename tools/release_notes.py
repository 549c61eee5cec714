"""Print the section of one version in CHANGELOG.md, for the release page.

Usage: python tools/release_notes.py VERSION
"""

import re
import sys
from pathlib import Path

CHANGELOG = Path(__file__).parents[1] / "CHANGELOG.md"


def notes(version: str) -> str:
    """Return the changelog's section of a version, without the heading."""
    found = re.search(
        rf"^## \[{re.escape(version)}\].*?\n(.*?)(?=^## \[|^\[|\Z)", CHANGELOG.read_text(), re.MULTILINE | re.DOTALL
    )
    if found is None:
        sys.exit(
            f"CHANGELOG.md has no section [{version}]: a release renames [Unreleased] to [{version}] - YYYY-MM-DD"
            " (docs/security.md, Make a release)"
        )
    return found[1].strip()


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit(__doc__)
    sys.stdout.write(notes(sys.argv[1]) + "\n")
