"""Finds the members of a fleet: from the configuration, from a file, and from DNS."""

import asyncio
from pathlib import Path

from gateway.errors import GatewayError
from gateway.fleet.client import lookup
from gateway.fleet.members import Member, MemberAddress, expand, parse_file
from gateway.fleet.options import FleetOptions
from gateway.text import one_line

_LOOKUP_TIMEOUT = 5.0
_MAX_FILE = 1 << 20


class Discovery:
    """Finds members. If a file or a name cannot be read, the members that were found there before stay."""

    def __init__(self) -> None:
        self.problems: list[str] = []
        """The files and names that could not be read in the last call of `find`."""
        self._by_name: dict[MemberAddress, list[Member]] = {}
        self._by_file: tuple[Path, list[MemberAddress]] | None = None

    async def find(self, options: FleetOptions) -> list[Member]:
        """Return the members, each once, in the order of the configuration.

        Args:
            options: The section `fleet`.
        """
        problems: list[str] = []
        listed = list(options.members)
        if options.file is not None:
            listed += await self._read(options.file, problems)
        names = dict.fromkeys(each for each in listed if each.discover)
        await asyncio.gather(*(self._look_up(each, problems) for each in names))
        self._by_name = {name: members for name, members in self._by_name.items() if name in names}
        found: dict[Member, None] = {}
        for each in listed:
            alone = [Member(each.scheme, each.endpoint)]
            found.update(dict.fromkeys(self._by_name.get(each, []) if each.discover else alone))
        self.problems = problems
        return list(found)

    async def _read(self, path: Path, problems: list[str]) -> list[MemberAddress]:
        try:
            found, invalid = parse_file(await asyncio.to_thread(_read_text, path))
        except (OSError, GatewayError) as error:
            problems.append(f"fleet.file: {path}: {getattr(error, 'strerror', None) or error}")
            return self._by_file[1] if self._by_file and self._by_file[0] == path else []
        problems += [f"fleet.file: {path}: {each}" for each in invalid]
        self._by_file = path, found
        return found

    async def _look_up(self, address: MemberAddress, problems: list[str]) -> None:
        try:
            async with asyncio.timeout(_LOOKUP_TIMEOUT):
                found = await lookup(*address.endpoint)
        except TimeoutError:
            problems.append(f"{address}: the name servers do not answer")
        except (OSError, UnicodeError) as error:
            problems.append(f"{address}: {one_line(getattr(error, 'strerror', None) or str(error))}")
        else:
            self._by_name[address] = expand(address, [host for _, (host, _) in found])


def _read_text(path: Path) -> str:
    with path.open("rb") as file:
        content = file.read(_MAX_FILE + 1)
    if len(content) > _MAX_FILE:
        raise GatewayError(f"is larger than {_MAX_FILE} bytes")
    try:
        return content.decode()
    except UnicodeDecodeError:
        raise GatewayError("is not valid UTF-8 text") from None
