"""Fuzz the parser of configuration files. The parser must accept a file, or report the position of each error."""

import re
from pathlib import Path

from gateway import backends, tunnels
from gateway.config import ConfigSources, load
from gateway.config.referenced_file_checks import check_files
from gateway.config.setting_warnings import setting_warnings
from gateway.errors import ConfigError
from tests.fuzz.files import as_file

LONGEST, UNIT, HEAD = 2048, 1, 0
KINDS = [*tunnels.KINDS.values(), *backends.KINDS.values()]
"""This list imports the modules of all kinds. libFuzzer does not measure the coverage of modules that are imported
later."""
WORDS = (
    "tunnels:", "backends:", "docker:", "gateway:", "ops:", "kind: ", "ssh", "mysql", "postgres", "nfs", "smb", "tcp",
    "openvpn", "wireguard", "socks5", "via: ", "listen: ", "targets: ", "check: ", "127.0.0.1:3306", "[fd00::1]:22",
    "&a", "*a", "<<: ", "{", "}", "[", "]", ": ", "- ", "\n  ", "\n    ", "${HOME}", "${NONE}", "${NONE:-x}", "$$",
    "!!str ", "|\n", '"\\ud800"', "\0", "10s", "64KiB", "password_file: ", "user: ", "host: ", "volume: ", "allow: ",
    "null", "99999999999999999999", "1e400",
)  # fmt: skip
_ENVIRONMENT = {"HOME": "/root", "EMPTY": ""}
_LINE_ENDS = (b"\n", b"\r", b"\xc2\x85", b"\xe2\x80")


def describe(data: bytes) -> str:
    """Return the configuration file as text."""
    return data.decode("utf-8", "replace")


def check(data: bytes) -> None:
    """Load the configuration file `data`.

    Raises:
        AssertionError: An error has no position, or loading the same file twice gives different configurations.
    """
    with as_file(data) as path:
        sources = ConfigSources(file=path, environment=_ENVIRONMENT)
        try:
            made = load(sources)
        except ConfigError as error:
            _judge(error, path, data)
            return
        setting_warnings(made)
        for problem in check_files(made):
            assert problem.place.startswith(f"{path}:"), f"an error without a position\n{problem}"
        assert load(sources) == made, "loading the same file twice gives different configurations"


def _judge(error: ConfigError, path: Path, data: bytes) -> None:
    assert error.problems
    lines = sum(map(data.count, _LINE_ENDS)) + 2
    for problem in error.problems:
        assert problem.message, f"an error without a message\n{problem}"
        place = re.fullmatch(rf"{re.escape(str(path))}(?::(\d+):\d+)?", problem.place)
        assert place, f"an error without a position\n{problem}"
        assert place[1] is None or 1 <= int(place[1]) <= lines, f"a position beyond the end of the file\n{problem}"
