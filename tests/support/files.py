"""Creates directories and files for tests."""

import contextlib
import tempfile
from collections.abc import Iterator
from pathlib import Path

REPOSITORY = Path(__file__).parents[2]
PYTHON_PATH = f"{Path(__file__).parent / 'without_rich'}:{REPOSITORY}"
"""`PYTHONPATH` of the tested gateways, which run without the package rich, as in the image. If rich is installed,
structlog imports it. The import takes about 8% of a gateway's start time."""


@contextlib.contextmanager
def scratch() -> Iterator[Path]:
    """Create a directory that all users can read, because database servers run as their own users.

    The directory is removed when the block ends.
    """
    with tempfile.TemporaryDirectory(prefix="gateway-test-") as name:
        folder = Path(name)
        folder.chmod(0o755)
        yield folder


def write_secret(path: Path, text: str) -> None:
    """Write a file that only the owner of the file can read."""
    path.touch(mode=0o600)
    path.write_text(text)
