"""A check's password, read or asked for when it is needed."""

import asyncio
import time
from functools import partial

from gateway.backends.common.database import DatabaseCheck
from gateway.backends.common.password_command import printed
from gateway.contracts import Endpoint, Phases, Secret
from gateway.errors import ProbeError, ReachError, Reason


def reveal(password: Secret | None) -> str:
    """The password, or nothing where there is none.

    Raises:
        ReachError: Its file cannot be read.
    """
    if password is None:
        return ""
    try:
        return password.reveal()
    except OSError as error:
        raise ReachError(Reason.AUTH, f"check.password_file: {password.shown}: {error.strerror}") from error


class Passwords:
    """The passwords of one backend's checks: what a program prints is kept for a while.

    A program that takes longer than a check goes on, within its own deadline: the next check gets what it prints.
    """

    def __init__(self) -> None:
        self._kept: dict[tuple[str, ...], tuple[float, str]] = {}
        """When it was asked for, in monotonic seconds, and what was printed."""
        self._asking: dict[tuple[str, ...], asyncio.Task[str]] = {}

    async def of(self, check: DatabaseCheck, target: Endpoint, phases: Phases) -> str:
        """The password for `target`.

        Raises:
            ReachError: The file cannot be read, or the program fails: the target was not asked.
        """
        if not check.password_command:
            return reveal(check.password)
        command = _for(check, target)
        asked, password = self._kept.get(command, (0.0, ""))
        if password and time.monotonic() - asked < check.password_cache:
            return password
        asking = self._asking.get(command)
        if asking is None:
            asking = asyncio.create_task(printed(command, check.password_environment, check.password_timeout))
            self._asking[command] = asking
            asking.add_done_callback(partial(self._done, command, time.monotonic()))
        hint, phases.hint = phases.hint, "password_command is still running"
        password = await asyncio.shield(asking)
        phases.hint = hint
        return password

    def _done(self, command: tuple[str, ...], asked: float, asking: asyncio.Task[str]) -> None:
        del self._asking[command]
        if not asking.cancelled() and asking.exception() is None:
            self._kept[command] = (asked, asking.result())

    def tried(self, check: DatabaseCheck, target: Endpoint, error: BaseException | None) -> None:
        """Ask for another password the next time, where a login failed because of this one."""
        if isinstance(error, ProbeError) and error.reason is Reason.AUTH and check.password_command:
            self._kept.pop(_for(check, target), None)


def _for(check: DatabaseCheck, target: Endpoint) -> tuple[str, ...]:
    names = {"{host}": target.host, "{port}": str(target.port), "{user}": check.user or ""}
    return tuple(_filled(word, names) for word in check.password_command)


def _filled(word: str, names: dict[str, str]) -> str:
    for name, value in names.items():
        word = word.replace(name, value)
    return word
