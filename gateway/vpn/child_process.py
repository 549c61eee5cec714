"""Child processes that exit when the gateway exits. A callback receives their output."""

import asyncio
import logging
import os
import shutil
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from gateway.errors import Reason, TunnelError
from gateway.text import one_line

log = logging.getLogger(__name__)

_PDEATHSIG_EXEC = Path(__file__).with_name("pdeathsig_exec.py")
_TERMINATE_TIMEOUT = 3.0
_MAX_LINE = 1000
"""Maximum length of an output line, in characters. The callback receives no more of a longer line."""
_INHERITED = ("LANG", "LC_ALL", "TZ")
"""Environment variables that a child process inherits. Other variables can contain passwords (`GATEWAY_…`)."""


def find_program(name: str) -> str | None:
    """Search PATH, /usr/sbin and /sbin for a program; return its path, or None if it is not installed."""
    return shutil.which(name, path=_path())


def minimal_environment() -> dict[str, str]:
    """Return an environment that contains only PATH, the locale and the time zone."""
    return {"PATH": _path()} | {name: os.environ[name] for name in _INHERITED if name in os.environ}


def _path() -> str:
    return f"{os.environ.get('PATH', os.defpath)}:/usr/sbin:/sbin"


class ChildProcess:
    """A running child process.

    Args:
        process: The process, with its output on a pipe. `ChildProcess` terminates it in `stop`.
        on_line: Called with each line of output.
    """

    def __init__(self, process: asyncio.subprocess.Process, on_line: Callable[[str], None]) -> None:
        self._process = process
        self._reader = asyncio.create_task(self._read_output(on_line))

    @classmethod
    async def start(
        cls,
        command: Sequence[str],
        package: str,
        on_line: Callable[[str], None],
        environment: Mapping[str, str] | None = None,
        pass_fds: Sequence[int] = (),
        privileges: str = "all",
    ) -> "ChildProcess":
        """Start a program.

        Args:
            command: The program and its arguments.
            package: The package to install if the program is missing.
            on_line: Called with each line of output.
            environment: Variables to add to `minimal_environment`.
            pass_fds: File descriptors that the program inherits.
            privileges: The PRIVILEGES argument of `pdeathsig_exec.py`.

        Raises:
            TunnelError: The program is not installed.
        """
        program = find_program(command[0])
        if program is None:
            raise TunnelError(
                Reason.PROTOCOL, f"{command[0]} is not installed: install the package {package}", fatal=True
            )
        process = await asyncio.create_subprocess_exec(
            sys.executable, "-I", "-S", str(_PDEATHSIG_EXEC), str(os.getpid()), privileges, program, *command[1:],
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.STDOUT,
            env={**minimal_environment(), **(environment or {})},
            cwd="/",
            pass_fds=pass_fds,
            start_new_session=True,  # Ctrl-C must reach only the gateway, which then stops each child itself
        )  # fmt: skip
        return cls(process, on_line)

    async def _read_output(self, on_line: Callable[[str], None]) -> None:
        stream = self._process.stdout
        while stream is not None and (line := await stream.readline()):
            on_line(one_line(line.decode(errors="replace"), _MAX_LINE))

    async def wait(self) -> int:
        """Wait until the process has exited and all its output has been read; return the exit code."""
        await asyncio.wait({self._reader})
        return await self._process.wait()

    async def stop(self) -> None:
        """Send SIGTERM to the process, and SIGKILL if it does not exit within 3 seconds."""
        if self._process.returncode is None:
            self._process.terminate()
            try:
                async with asyncio.timeout(_TERMINATE_TIMEOUT):
                    await self._process.wait()
            except TimeoutError:
                self._process.kill()
                await self._process.wait()
        self._reader.cancel()
        await asyncio.wait({self._reader})
