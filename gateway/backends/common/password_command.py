"""A password that a program prints, such as a token that is valid for some minutes."""

import asyncio
import contextlib
import logging
import os
import signal
import sys
from collections.abc import Sequence
from pathlib import Path

from gateway.errors import ReachError, Reason
from gateway.keyfiles import changeable
from gateway.text import one_line
from gateway.vpn import pdeathsig_exec
from gateway.vpn.child import clean_environment, program

log = logging.getLogger(__name__)

_LONGEST = 64 * 1024
"""Bytes that a program may print; a token of a cloud has about one thousand."""
_MOST_SAID = 4096
"""Bytes of its standard error that are kept."""
_GRACE = 3.0
"""Seconds that the kernel may take to end what was killed."""
_LAST_WORDS = 0.5
"""Seconds that standard error may stay open behind the program."""


def executable(name: str) -> str:
    """Where a program is.

    Args:
        name: Its name or path, as `check.password_command` has it.

    Raises:
        ReachError: There is none, or everybody can change it, and so learn or choose the password.
    """
    found = program(name)
    if found is None:
        raise _failed(f"{name} is not installed")
    trouble = changeable(Path(found).absolute())
    if trouble:
        raise _failed(trouble)
    return found


async def printed(command: Sequence[str], inherited: Sequence[str], within: float) -> str:
    """Run a program, without a shell, and return the line that it prints.

    It has a process group of its own, which is killed when the deadline comes, when this is cancelled, and with the
    gateway. What it prints to standard error goes to the log if it fails; what it prints to standard output goes
    nowhere else.

    Args:
        command: The program and its arguments.
        inherited: Names of variables that it gets from our environment, beside PATH, HOME and the locale.
        within: Seconds that it may take.

    Raises:
        ReachError: It failed; the message has nothing of what it printed.
    """
    name = Path(command[0]).name
    found = executable(command[0])
    variables = {each: os.environ[each] for each in ("HOME", *inherited) if each in os.environ}
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-I", "-S", pdeathsig_exec.__file__, str(os.getpid()), "all", found, *command[1:],
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
        env=clean_environment() | variables,
        cwd="/",
        start_new_session=True,
    )  # fmt: skip
    said = bytearray()
    saying = asyncio.create_task(_said(process.stderr, said))
    output, code = b"", None
    trouble = f"{name} did not end within {within:g} s"
    try:
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(within):
                output = await _output(process.stdout)
                if len(output) <= _LONGEST:
                    code = await process.wait()
    finally:
        if code is None:
            await _end(process)
        await asyncio.wait({saying}, timeout=_LAST_WORDS)
        saying.cancel()
        process._transport.close()  # type: ignore[attr-defined]  # noqa: SLF001 - no public door; pipes may be open
    if len(output) > _LONGEST:
        trouble = f"{name} printed more than {_LONGEST >> 10} KiB"
    elif code is not None:
        trouble = f"{name} ended with {f'exit code {code}' if code > 0 else f'signal {-code}'}" if code else ""
    if trouble:
        log.warning(
            "password_command failed",
            extra={"detail": trouble, "stderr": one_line(said.decode(errors="replace"))},
        )
        raise _failed(trouble)
    return _line(output, name)


def _line(output: bytes, name: str) -> str:
    try:
        text = output.decode().removesuffix("\n").removesuffix("\r")
    except UnicodeDecodeError:
        raise _failed(f"{name} printed what is not text in UTF-8") from None  # the error would hold the output
    if not text or "\n" in text or "\0" in text:
        raise _failed(f"{name} printed {'several lines' if text else 'nothing'}, and a password is one line")
    return text


def _failed(why: str) -> ReachError:
    return ReachError(Reason.AUTH, f"check.password_command: {why}")


async def _output(stream: asyncio.StreamReader | None) -> bytes:
    output = bytearray()
    while stream is not None and len(output) <= _LONGEST and (part := await stream.read(_LONGEST)):
        output += part
    return bytes(output)


async def _said(stream: asyncio.StreamReader | None, said: bytearray) -> None:
    while stream is not None and (part := await stream.read(_MOST_SAID)):
        said += part[: _MOST_SAID - len(said)]


async def _end(process: asyncio.subprocess.Process) -> None:
    """Kill the process group: what the program started may go on without it."""
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(_GRACE):
            await process.wait()
