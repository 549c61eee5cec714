"""Give each failure of a fuzz target a name, and remove the parts of an input that are not needed for its failure."""

import hashlib
import re
import resource
import time
import traceback
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import gateway

_MOST_TRIES = 400
"""Maximum number of attempts to minimize an input."""
_LONGEST = 10.0
"""Maximum time for minimizing an input, in seconds."""
_SLOW = 5.0
"""Maximum CPU time for one input, in seconds. CPU time does not depend on the load of the machine."""
_LARGE = 256 << 20
_GATEWAY = str(Path(gateway.__file__).parent)

Check = Callable[[bytes], None]


class GreedyError(AssertionError):
    """An input took too much CPU time or memory."""


def failure(check: Check, data: bytes) -> Exception | None:
    """Return the error that an input causes, or None if the input causes no error."""
    started, before = time.process_time(), _memory()
    try:
        check(data)
    except Exception as error:
        return error
    took, grown = time.process_time() - started, _memory() - before
    if took > _SLOW:
        return GreedyError(f"{took:.1f} s of processor time")
    return GreedyError(f"{grown >> 20} MiB of memory") if grown > _LARGE else None


def name_of(error: BaseException) -> str:
    """Return a name for a defect: the error's type and first line, and the gateway's function that failed."""
    frames = [frame for frame in traceback.extract_tb(error.__traceback__) if frame.filename.startswith(_GATEWAY)]
    where = f" in {Path(frames[-1].filename).stem}.{frames[-1].name}" if frames else ""
    lines = str(error).strip().splitlines() or [""]
    first = f"{lines[0]} … {lines[-1]}" if lines[0].startswith("Traceback") else lines[0]
    return f"{type(error).__name__}{where}: {re.sub(r'[0-9]+', 'N', first)[:160]}"


def file_name(name: str) -> str:
    """Return the name of the file in which to save the input that causes the failure `name`."""
    words = re.sub(r"[^a-z]+", "-", name.lower())[:40].strip("-")
    return f"{words}-{hashlib.sha256(name.encode()).hexdigest()[:8]}"


def minimize(check: Check, data: bytes, name: str, unit: int, head: int) -> bytes:
    """Remove the parts of an input that are not needed for its failure (delta debugging).

    Args:
        check: The target's function, which raises an error for `data`.
        data: The failing input.
        name: Name of the failure.
        unit: Number of bytes that are kept or removed together.
        head: Number of bytes at the beginning that are always kept.
    """
    first, body = data[:head], [data[at : at + unit] for at in range(head, len(data), unit)]
    piece, tries, until = max(1, len(body) // 2), 0, time.monotonic() + _LONGEST
    while tries < _MOST_TRIES and time.monotonic() < until:
        at, changed = 0, False
        while at < len(body) and tries < _MOST_TRIES:
            shorter = body[:at] + body[at + piece :]
            tries += 1
            error = failure(check, first + b"".join(shorter))
            if error is not None and name_of(error) == name:
                body, changed = shorter, True
            else:
                at += piece
        if piece == 1 and not changed:
            break
        piece = max(1, piece // 2)
    return first + b"".join(body)


def _memory() -> int:
    """Return the peak resident memory of this process in bytes."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def check_input(target: ModuleType, data: bytes, folder: Path, seen: set[str]) -> None:
    """Run one input. If it fails, minimize it, and write it to a directory with a description of the failure.

    Args:
        target: A module of `tests.fuzz.targets`.
        data: The input.
        folder: The directory for failing inputs.
        seen: The names of the failures that were already written. An input with one of these failures is ignored. The
            name of a new failure is added.
    """
    error = failure(target.check, data)
    if error is None or (named := name_of(error)) in seen:
        return
    seen.add(named)
    least = minimize(target.check, data, named, target.UNIT, target.HEAD)
    path = folder / file_name(named)
    path.write_bytes(least)
    trace = "".join(traceback.format_exception(failure(target.check, least) or error))
    path.with_suffix(".txt").write_text(f"{named}\n\n{target.describe(least)}\n\n{trace}")
