"""Reads the file `fleet.file`, which lists the addresses of the members of a fleet."""

from pathlib import Path

from gateway.errors import GatewayError
from gateway.fleet.member_addresses import MemberAddress, parse_file

_MAX_BYTES = 1 << 20


def read_members(path: Path) -> tuple[list[MemberAddress], list[str]]:
    """Return the addresses in a file, and a message for each invalid line. Blocks while it reads the file.

    Raises:
        OSError: The file cannot be read.
        GatewayError: The file is too large, is not valid UTF-8, or has too many addresses.
    """
    with path.open("rb") as file:
        content = file.read(_MAX_BYTES + 1)
    if len(content) > _MAX_BYTES:
        raise GatewayError(f"the file is larger than {_MAX_BYTES} bytes: remove addresses")
    try:
        return parse_file(content.decode())
    except UnicodeDecodeError:
        raise GatewayError("the file is not UTF-8 text: save it as UTF-8") from None
    except ValueError as error:
        raise GatewayError(str(error)) from None
