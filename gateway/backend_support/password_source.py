"""Gets the passwords with which checks log in, from the configuration, from files, or from programs."""

import asyncio
import time
from functools import partial

from gateway.backend_support.login_options import LoginCheckOptions
from gateway.backend_support.password_command import run_password_command
from gateway.contracts.config_types import HostPort
from gateway.contracts.phase_timer import PhaseTimer
from gateway.contracts.secret import Secret
from gateway.errors import FailureReason, TargetPathError, UnusableTargetError
from gateway.processes.command_template import fill_placeholders


def reveal(password: Secret | None) -> str:
    """Return the configured password of a check; empty if there is none. Read the password file if one is configured.

    Args:
        password: The value of the check's key `password`; None if the key is not set.

    Raises:
        TargetPathError: The password file cannot be read.
    """
    if password is None:
        return ""
    try:
        return password.reveal()
    except OSError as error:
        raise TargetPathError(
            FailureReason.AUTH,
            f"check.password_file: {password.display_path}: {error.strerror}",
        ) from error


class PasswordSource:
    """Gets the passwords for one backend's targets, and caches the output of `password_command`.

    A check can time out while `password_command` runs. The program then continues until it exits, or until
    `password_timeout` has passed since its start. The next check uses its output.
    """

    def __init__(self) -> None:
        self._cache: dict[tuple[str, ...], tuple[float, str]] = {}
        """For each command: the monotonic time at which it was started, and the password that it printed."""
        self._running: dict[tuple[str, ...], asyncio.Task[str]] = {}

    async def get(self, check: LoginCheckOptions, target: HostPort, phases: PhaseTimer) -> str:
        """Return the password for a target.

        Args:
            check: The check of the backend.
            target: The target.
            phases: Receives a hint for the error message, in case the check times out during this call.

        Raises:
            TargetPathError: The password file cannot be read, or the password program fails.
        """
        if not check.password_command:
            return reveal(check.password)
        command = _command(check, target)
        started, password = self._cache.get(command, (0.0, ""))
        if password and time.monotonic() - started < check.password_cache:
            return password
        self._cache.pop(command, None)
        task = self._running.get(command)
        if task is None:
            task = asyncio.create_task(
                run_password_command(command, check.password_environment, check.password_timeout)
            )
            self._running[command] = task
            task.add_done_callback(partial(self._on_done, command, time.monotonic()))
        hint, phases.timeout_hint = phases.timeout_hint, "password_command is still running"
        password = await asyncio.shield(task)
        phases.timeout_hint = hint
        return password

    def _on_done(self, command: tuple[str, ...], started: float, task: asyncio.Task[str]) -> None:
        del self._running[command]
        if not task.cancelled() and task.exception() is None:
            self._cache[command] = (started, task.result())

    def report(self, check: LoginCheckOptions, target: HostPort, error: BaseException | None) -> None:
        """Discard the cached password if a login failed with an authentication error.

        Args:
            check: The check of the backend.
            target: The target.
            error: The error of the login; None if the login succeeded.
        """
        if isinstance(error, UnusableTargetError) and error.reason is FailureReason.AUTH and check.password_command:
            self._cache.pop(_command(check, target), None)


def _command(check: LoginCheckOptions, target: HostPort) -> tuple[str, ...]:
    values = {"host": target.host, "port": str(target.port), "user": check.user or ""}
    return fill_placeholders(check.password_command, values)
