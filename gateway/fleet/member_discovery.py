"""Finds the members of a fleet: from the configuration, from a file, and from DNS."""

import asyncio
import itertools
from pathlib import Path

from gateway.errors import GatewayError
from gateway.fleet.blocking_call_runner import BlockingCallRunner
from gateway.fleet.error_descriptions import describe_lookup
from gateway.fleet.host_name_lookup import lookup
from gateway.fleet.member_addresses import MAX_MEMBERS, Member, MemberAddress, expand, exposed_token
from gateway.fleet.member_list_file import read_members
from gateway.fleet.options import FleetOptions


class MemberDiscovery:
    """Finds the members of a fleet. If a read or lookup fails, keeps the members that it found before.

    Args:
        strict: Whether to ignore members in `fleet.file` that would receive the token without encryption.
    """

    def __init__(self, *, strict: bool = False) -> None:
        self._strict = strict
        self._by_name: dict[MemberAddress, list[Member]] = {}
        self._in_file: list[MemberAddress] = []
        self._read_path: Path | None = None
        self._file_read: BlockingCallRunner[tuple[list[MemberAddress], list[str]]] = BlockingCallRunner()
        self._file_problems: list[str] = []
        self._name_problems: dict[MemberAddress, str] = {}

    def is_complete(self, options: FleetOptions) -> bool:
        """Return whether `fleet.file` was read, and each `dns+` name was looked up, successfully at least once."""
        return options.file in (None, self._read_path) and all(
            each in self._by_name for each in self._addresses(options)[:MAX_MEMBERS] if each.discover
        )

    def problems(self, options: FleetOptions) -> list[str]:
        """Return messages about problems, such as invalid lines in `fleet.file` or too many members."""
        count = len(self._found(options))
        excess = (
            f"the fleet has {count} members, and only the first {MAX_MEMBERS} are polled: split the list between"
            " several gateways"
        )
        return [*self._file_problems, *self._name_problems.values(), *([excess] if count > MAX_MEMBERS else [])]

    def known(self, options: FleetOptions) -> list[Member]:
        """Return the known members without duplicates, in the order of the configuration; at most `MAX_MEMBERS`."""
        return list(itertools.islice(self._found(options), MAX_MEMBERS))

    def _found(self, options: FleetOptions) -> dict[Member, None]:
        found: dict[Member, None] = {}
        for each in self._addresses(options):
            alone = [Member(each.scheme, each.endpoint)]
            found.update(dict.fromkeys(self._by_name.get(each, []) if each.discover else alone))
        return found

    def _addresses(self, options: FleetOptions) -> list[MemberAddress]:
        refuses = self._strict and options.token_file is not None
        return [*options.members, *(each for each in self._in_file if not (refuses and each.exposes_token))]

    async def read_file(self, options: FleetOptions) -> None:
        """Read the addresses of members from the file `fleet.file`. `fleet.timeout` limits the duration."""
        path = options.file
        if path is None:
            self._in_file, self._file_problems, self._read_path = [], [], None
            return
        try:
            self._in_file, invalid = await self._file_read.run(lambda: read_members(path), options.timeout)
        except TimeoutError:
            self._file_problems = [f"fleet.file: {path}: the file system does not respond"]
        except (OSError, GatewayError) as error:
            self._file_problems = [f"fleet.file: {path}: {getattr(error, 'strerror', None) or error}"]
        else:
            self._read_path = path
            exposed = exposed_token(self._in_file) if options.token_file is not None else None
            if exposed and self._strict:
                exposed += ". Strict mode is on: the gateway ignores such members, and does not send them the token"
            self._file_problems = [f"fleet.file: {path}: {each}" for each in (*invalid, exposed) if each]

    async def look_up_names(self, options: FleetOptions) -> None:
        """Look up the host names that have the prefix `dns+`. `fleet.timeout` limits the duration of each lookup."""
        names = {each for each in self._addresses(options)[:MAX_MEMBERS] if each.discover}
        self._by_name = {name: members for name, members in self._by_name.items() if name in names}
        self._name_problems = {name: text for name, text in self._name_problems.items() if name in names}
        await asyncio.gather(*(self._look_up(each, options.timeout) for each in names))

    async def _look_up(self, address: MemberAddress, within: float) -> None:
        try:
            async with asyncio.timeout(within):
                found = await lookup(*address.endpoint)
        except TimeoutError:
            self._name_problems[address] = f"{address}: the name servers do not respond"
        except (OSError, UnicodeError) as error:
            self._name_problems[address] = f"{address}: {describe_lookup(error)}"
        else:
            self._name_problems.pop(address, None)
            self._by_name[address] = expand(address, [host for _, (host, _) in found])
