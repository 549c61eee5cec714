"""Reads files with environment variables, as `docker run --env-file` and Compose do."""

import re


def read_env_file(text: str) -> dict[str, str]:
    """Return the variables of a file.

    Args:
        text: The content of the file: `NAME=value` lines, with comments, quotes and `export`.
    """
    found: dict[str, str] = {}
    for line in text.splitlines():
        match = re.match(r"\s*(?:export\s+)?([A-Za-z_][\w.]*)\s*=\s*(.*?)\s*$", line)
        if match:
            value = match[2]
            quoted = re.match(r"""(['"])(.*?)\1\s*(?:#.*)?$""", value)
            found[match[1]] = quoted[2] if quoted else re.sub(r"\s+#.*$", "", value)
    return found
