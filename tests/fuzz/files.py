"""Write the input of a fuzz target to a temporary file, in memory if /dev/shm exists."""

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

_MEMORY = Path("/dev/shm")  # noqa: S108 - `as_file` creates files with unpredictable names


@contextmanager
def as_file(data: bytes) -> Iterator[Path]:
    """Create a file that contains `data`, and delete the file at the end of the context."""
    with tempfile.NamedTemporaryFile(dir=_MEMORY if _MEMORY.is_dir() else None) as file:
        file.write(data)
        file.flush()
        yield Path(file.name)
