"""Limits the time and memory that users' files take: the size of a file, and the number of values in YAML text."""

import errno
from pathlib import Path
from typing import Any, BinaryIO

import yaml

MAX_VALUES = 100_000
"""Maximum number of values in a YAML document. An alias counts as all values to which it expands: with aliases, a few
lines can expand to millions of values."""
_MAX_SIZE = 4 << 20
"""Maximum size of a file in bytes."""


class TooLargeError(yaml.YAMLError):
    """A YAML document has more than `MAX_VALUES` values."""

    def __init__(self) -> None:
        super().__init__(f"has more than {MAX_VALUES} values, including those that aliases repeat")


class LimitedLoader(yaml.SafeLoader):
    """A YAML loader that stops at a document with too many nodes. It does not count the nodes that aliases repeat.

    Args:
        text: The YAML text.
    """

    def __init__(self, text: str) -> None:
        super().__init__(text)
        self._nodes = 0

    def compose_node(self, parent: yaml.Node | None, index: int) -> yaml.Node | None:
        """Compose the next node. See `yaml.composer.Composer`."""
        self._nodes += 1
        # A mapping has two nodes for each of its values, because its keys are nodes, too.
        if self._nodes > 2 * MAX_VALUES:
            raise TooLargeError
        return super().compose_node(parent, index)


def load_yaml(text: str) -> Any:
    """Return the value of a YAML document.

    Args:
        text: The YAML text.

    Raises:
        yaml.YAMLError: The text is not a YAML document, has too many values, or has a value that contains itself.
        RecursionError: The document is nested too deeply.
    """
    loader = LimitedLoader(text)
    try:
        root = loader.get_single_node()
        if root is None:
            return None
        if _count(root, {}) > MAX_VALUES:
            raise TooLargeError
        return loader.construct_document(root)
    except ValueError:
        raise yaml.YAMLError("a number has too many digits, or a date does not exist") from None
    finally:
        loader.dispose()


def _count(node: yaml.Node, counts: dict[yaml.Node, int | None]) -> int:
    """Return the number of values of a node, including those that aliases repeat.

    Args:
        node: The node.
        counts: The number of values of each node that was counted; None for the nodes that contain `node`.
    """
    if node not in counts:
        counts[node] = None
        inner = node.value if isinstance(node, yaml.CollectionNode) else ()
        parts = [part for each in inner for part in (each if isinstance(each, tuple) else (each,))]
        counts[node] = 1 + sum(_count(each, counts) for each in parts)
    found = counts[node]
    if found is None:
        raise yaml.YAMLError("a value contains itself")
    return found


def read_limited(path: Path) -> bytes:
    """Return the content of a file.

    Raises:
        OSError: The file cannot be read, or is larger than 4 MiB.
    """
    with path.open("rb") as file:
        return read_stream(file)


def read_stream(stream: BinaryIO) -> bytes:
    """Return the rest of a stream.

    Raises:
        OSError: The stream cannot be read, or has more than 4 MiB.
    """
    data = stream.read(_MAX_SIZE + 1)
    if len(data) > _MAX_SIZE:
        raise OSError(errno.EFBIG, f"is larger than {_MAX_SIZE >> 20} MiB")
    return data
