"""A child process: its lines go to a function, and it never outlives us."""

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
_GRACE = 3.0
_LONGEST = 1000
"""Characters of a line that are looked at."""
_INHERITED = ("LANG", "LC_ALL", "TZ")
"""Of our environment, where there are passwords too (GATEWAY_…)."""


def program(name: str) -> str | None:
    """Where a program is, looked up on PATH and where Debian puts those of administrators."""
    return shutil.which(name, path=_path())


def clean_environment() -> dict[str, str]:
    """The environment of programs that have nothing to do with our configuration."""
    return {"PATH": _path()} | {name: os.environ[name] for name in _INHERITED if name in os.environ}


def _path() -> str:
    return f"{os.environ.get('PATH', os.defpath)}:/usr/sbin:/sbin"


class Child:
    """One running program.

    Args:
        process: It.
        heard: Called with each line it prints.
    """

    def __init__(self, process: asyncio.subprocess.Process, heard: Callable[[str], None]) -> None:
        self._process = process
        self._reading = asyncio.create_task(self._read(heard))

    @classmethod
    async def start(
        cls,
        command: Sequence[str],
        package: str,
        heard: Callable[[str], None],
        environment: Mapping[str, str] | None = None,
        pass_fds: Sequence[int] = (),
        rights: str = "all",
    ) -> "Child":
        """Start it.

        Args:
            command: The program and its arguments.
            package: What to install where it is missing.
            heard: Called with each line it prints.
            environment: Added to `clean_environment`.
            pass_fds: Descriptors that it inherits.
            rights: What it may do, as `pdeathsig_exec.py` takes it.

        Raises:
            TunnelError: It is not installed.
        """
        found = program(command[0])
        if found is None:
            raise TunnelError(
                Reason.PROTOCOL, f"{command[0]} is not installed: install the package {package}", fatal=True
            )
        process = await asyncio.create_subprocess_exec(
            sys.executable, "-I", "-S", str(_PDEATHSIG_EXEC), str(os.getpid()), rights, found, *command[1:],
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.STDOUT,
            env={**clean_environment(), **(environment or {})},
            cwd="/",
            pass_fds=pass_fds,
            start_new_session=True,  # Ctrl-C is for us, who end it when nobody needs it any more
        )  # fmt: skip
        return cls(process, heard)

    async def _read(self, heard: Callable[[str], None]) -> None:
        stream = self._process.stdout
        while stream is not None and (line := await stream.readline()):
            heard(one_line(line.decode(errors="replace"), _LONGEST))

    async def ended(self) -> int:
        """Wait until it has ended and its last line was heard; gives its exit code."""
        await asyncio.wait({self._reading})
        return await self._process.wait()

    async def stop(self) -> None:
        """End it: asked first, then killed."""
        if self._process.returncode is None:
            self._process.terminate()
            try:
                async with asyncio.timeout(_GRACE):
                    await self._process.wait()
            except TimeoutError:
                self._process.kill()
                await self._process.wait()
        self._reading.cancel()
        await asyncio.wait({self._reading})
