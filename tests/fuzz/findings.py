"""Failures of executions: their names, and the smallest input that still fails in the same way."""

import hashlib
import re
import resource
import time
import traceback
from collections.abc import Callable
from pathlib import Path

import gateway

_MOST_TRIES = 400
_LONGEST = 10.0
"""Maximum attempts and seconds for minimizing an input."""
_SLOW = 5.0
"""CPU seconds of this process, so that a busy machine does not look like a slow parser."""
_LARGE = 256 << 20
_GATEWAY = str(Path(gateway.__file__).parent)

Check = Callable[[bytes], None]


class GreedyError(AssertionError):
    """An execution took more time or memory than a small input may take."""


def failure(check: Check, data: bytes) -> Exception | None:
    """Return the failure of an input; None if it passes."""
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
    """Return the same name for the same defect: the error's type and first line, and a function of the gateway."""
    frames = [frame for frame in traceback.extract_tb(error.__traceback__) if frame.filename.startswith(_GATEWAY)]
    where = f" in {Path(frames[-1].filename).stem}.{frames[-1].name}" if frames else ""
    lines = str(error).strip().splitlines() or [""]
    first = f"{lines[0]} … {lines[-1]}" if lines[0].startswith("Traceback") else lines[0]
    return f"{type(error).__name__}{where}: {re.sub(r'[0-9]+', 'N', first)[:160]}"


def file_name(name: str) -> str:
    """Return the file name of the finding called `name`."""
    words = re.sub(r"[^a-z]+", "-", name.lower())[:40].strip("-")
    return f"{words}-{hashlib.sha256(name.encode()).hexdigest()[:8]}"


def minimize(check: Check, data: bytes, name: str, unit: int, head: int) -> bytes:
    """Remove parts of an input that its failure does not depend on (delta debugging).

    Args:
        check: Fails for `data`.
        data: The input.
        name: Of its failure.
        unit: How many bytes to keep together.
        head: How many bytes at the beginning to keep.
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
