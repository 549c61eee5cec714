"""Find programs that Debian installs with their version in the name, such as `clang-19`."""

import os
import re
from pathlib import Path


def newest_program(name: str) -> str | None:
    """Return the path of `name`, otherwise of the newest `name-VERSION`; None if neither is installed."""
    pattern = re.compile(rf"{re.escape(name)}(?:-(\d+))?")
    found = [
        (int(match[1] or 1_000_000), str(path))
        for folder in os.get_exec_path()
        for path in Path(folder).glob(f"{name}*")
        if (match := pattern.fullmatch(path.name))
    ]
    return max(found)[1] if found else None
