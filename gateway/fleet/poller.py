"""Polls the members of the fleet, and stores the most recent state of each member."""

import asyncio
import logging
import random
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from gateway.errors import GatewayError
from gateway.fleet.blocking_call_runner import BlockingCallRunner
from gateway.fleet.fleet_state import FleetState, MemberState
from gateway.fleet.member_addresses import Member
from gateway.fleet.member_client import MemberClient, MemberCredentials, MemberRequestError, read_credentials
from gateway.fleet.member_discovery import MemberDiscovery
from gateway.fleet.options import FleetOptions

log = logging.getLogger(__name__)

_DISCOVERY_INTERVAL = 15.0
"""Seconds between two discoveries. A discovery reads the member file and the credentials, and looks up the member
addresses that start with `dns+`."""
_DISCOVERY_GRACE = 300.0
"""Seconds after a change of the section `fleet` until an incomplete list of members is reported as discovered. A name
that does not resolve, or a file that cannot be read, must not hide the other members permanently."""
_CONFIG_CHECK_INTERVAL = 0.5
"""Seconds between two checks for changes in the section `fleet` of the configuration."""
_JITTER = 0.05
_SPACING = 0.002
"""Seconds between the first requests to new members. Requests to many members at the same time would block the event
loop."""


class FleetPoller:
    """Polls the members of the fleet; implements `SupervisedComponent`.

    A slow member does not delay the others, because each member has a separate task and deadline.

    Args:
        options: Returns the current section `fleet` of the configuration.
        strict: Whether to ignore the members in `fleet.file` that would get the token without encryption.
    """

    def __init__(self, options: Callable[[], FleetOptions], *, strict: bool = False) -> None:
        self._options = options
        self._members: dict[Member, MemberState] = {}
        self._tasks: dict[Member, asyncio.Task[None]] = {}
        self._strict = strict
        self._discovery = MemberDiscovery(strict=strict)
        self._discovered_options, self._discovery_deadline = FleetOptions(), 0.0
        self._credentials_error = ""
        self._credentials_read: BlockingCallRunner[tuple[list[tuple[Path, int, int]], MemberCredentials | None]] = (
            BlockingCallRunner()
        )
        self._stamps: list[tuple[Path, int, int]] | None = None
        """The credential files at the last successful read: path, modification time in nanoseconds, and inode."""

    def snapshot(self) -> FleetState:
        """Return the last known state of all members, and error messages about discovery and credentials."""
        options = self._options()
        problems = [*self._discovery.problems(options), *filter(None, [self._credentials_error])]
        is_late = options == self._discovered_options and time.monotonic() >= self._discovery_deadline
        is_discovered = options.is_empty or self._discovery.is_complete(options) or is_late
        return FleetState(list(self._members.values()), problems, is_discovered)

    async def run(self, ready: Callable[[], None]) -> None:
        """Poll the members until cancelled."""
        ready()
        while True:
            if not self._options().is_empty:
                await self._run_members()
                # The section was removed, so its problems no longer apply.
                self._discovery, self._credentials_error = MemberDiscovery(strict=self._strict), ""
            await asyncio.sleep(_CONFIG_CHECK_INTERVAL)

    async def _run_members(self) -> None:
        """Poll the members until the section `fleet` has neither `members` nor `file`."""
        try:
            async with MemberClient(self._options().timeout) as client, asyncio.TaskGroup() as group:
                while not (options := self._options()).is_empty:
                    await self._refresh(client, group, options)
                    await self._wait_for_change(options)
                self._retain([])
        finally:
            self._tasks, self._members, self._stamps = {}, {}, None

    async def _wait_for_change(self, options: FleetOptions) -> None:
        """Wait until the section `fleet` changes, or until the next discovery is due."""
        due = time.monotonic() + _DISCOVERY_INTERVAL
        while True:
            await asyncio.sleep(_CONFIG_CHECK_INTERVAL)
            if self._options() != options or time.monotonic() >= due:
                return

    async def _refresh(self, client: MemberClient, group: asyncio.TaskGroup, options: FleetOptions) -> None:
        if options != self._discovered_options:
            self._discovered_options = options
            self._discovery_deadline = time.monotonic() + _DISCOVERY_GRACE
        client.timeout = options.timeout
        await self._discovery.read_file(options)
        # First stop polling members that were removed from the configuration, so that they do not get a new token.
        self._retain(self._discovery.known(options))
        await self._renew_credentials(client, options)
        # Start with the members that need no lookup, so that a slow name server does not delay their first requests.
        self._set_members(client, group, options)
        await self._discovery.look_up_names(options)
        self._set_members(client, group, options)

    def _set_members(self, client: MemberClient, group: asyncio.TaskGroup, options: FleetOptions) -> None:
        """Start a polling task for each new member, and stop the tasks of members that are no longer known."""
        members = self._discovery.known(options)
        self._retain(members)
        new = [member for member in members if member not in self._tasks]
        for number, member in enumerate(new):
            self._tasks[member] = group.create_task(self._ask_repeatedly(client, member, number * _SPACING))

    async def _renew_credentials(self, client: MemberClient, options: FleetOptions) -> None:
        """Read the token and the certificates if a file has changed. If a read fails, keep the old values."""
        known = None if self._credentials_error else self._stamps
        try:
            stamps, found = await self._credentials_read.run(lambda: _read_changed(options, known), options.timeout)
        except TimeoutError:
            self._set_credentials_error("fleet.token_file, fleet.tls: the file system does not respond")
        except GatewayError as error:
            self._set_credentials_error(str(error))
        else:
            self._stamps, self._credentials_error = stamps, ""
            client.credentials = found or client.credentials

    def _set_credentials_error(self, text: str) -> None:
        if text != self._credentials_error:
            log.error("the credentials of the fleet cannot be read", extra={"detail": text})
        self._credentials_error = text

    def _retain(self, members: list[Member]) -> None:
        """Stop polling all members that are not in `members`, and remove their states. Add states for new members."""
        for member in self._tasks.keys() - set(members):
            self._tasks.pop(member).cancel()
        self._members = {member: self._members.get(member, MemberState(member)) for member in members}

    async def _ask_repeatedly(self, client: MemberClient, member: Member, delay: float) -> None:
        await asyncio.sleep(delay)
        while True:
            answer = await ask(client, member, self._members[member])
            if member in self._members:
                self._members[member] = answer
            interval = self._options().interval
            await asyncio.sleep(interval * random.uniform(1 - _JITTER, 1 + _JITTER))  # noqa: S311 - jitter


def _read_changed(
    options: FleetOptions, known: list[tuple[Path, int, int]] | None
) -> tuple[list[tuple[Path, int, int]], MemberCredentials | None]:
    """Read the credentials if their files have changed. The call blocks.

    Args:
        options: The section `fleet`.
        known: The result of `_stamps` at the last successful read; None to read the files in any case.

    Returns:
        The current result of `_stamps`, and the credentials (None if no file has changed).

    Raises:
        GatewayError: A file cannot be read, is not valid, or contains a secret that other users can read.
    """
    stamps = _stamps(options)
    return stamps, None if stamps == known else read_credentials(options)


def _stamps(options: FleetOptions) -> list[tuple[Path, int, int]]:
    """Return the path, modification time and inode of each credential file, to detect changes. The call blocks."""
    found = []
    for path in filter(None, (options.token_file, options.tls.ca_file, options.tls.cert_file, options.tls.key_file)):
        try:
            status = path.stat()
        except OSError:
            found.append((path, 0, 0))
        else:
            found.append((path, status.st_mtime_ns, status.st_ino))
    return found


async def ask(client: MemberClient, member: Member, before: MemberState) -> MemberState:
    """Request the summary of a member once, and return the new state of the member.

    Args:
        client: Sends the request.
        member: The member.
        before: The previous state. If the request fails, the new state contains the previous summary and the error.
    """
    started = time.monotonic()
    try:
        summary = await client.ask(member)
    except MemberRequestError as error:
        return replace(before, asked_at=time.time(), seconds=time.monotonic() - started, error=str(error))
    now = time.time()
    return MemberState(member, summary, answered_at=now, asked_at=now, seconds=time.monotonic() - started)


async def ask_once(options: FleetOptions, discovery: MemberDiscovery, before: FleetState) -> FleetState:
    """Request the summaries of all members once, concurrently, and return the new state of the fleet.

    Args:
        options: The section `fleet`.
        discovery: Finds the members.
        before: The previous state. If a request fails, the new state contains the member's previous summary.

    Raises:
        GatewayError: The token or a certificate cannot be used.
    """
    known = {each.member: each for each in before.members}
    async with MemberClient(options.timeout) as client:
        client.credentials = await asyncio.to_thread(read_credentials, options)
        await discovery.read_file(options)
        await discovery.look_up_names(options)
        members = discovery.known(options)
        views = await asyncio.gather(*(ask(client, each, known.get(each, MemberState(each))) for each in members))
    return FleetState(views, discovery.problems(options))
