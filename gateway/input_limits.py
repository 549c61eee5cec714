"""Limits the size of files that users provide, and of the YAML in them, to limit memory and CPU time."""

import errno
import re
from pathlib import Path
from typing import Any, BinaryIO

import yaml

MAX_VALUES = 100_000
"""Maximum number of values in a YAML document. An alias counts as all values to which it expands: with aliases, a few
lines can expand to millions of values."""
_MAX_NUMBER = 100
"""Maximum number of characters of a number in a YAML document."""
_MAX_SIZE = 4 << 20
"""Maximum size of a file in bytes."""
_INT = "tag:yaml.org,2002:int"
_FLOAT = "tag:yaml.org,2002:float"
_NUMBERS = {
    _INT: r"[-+]?(0b[01_]+|0x[0-9a-fA-F_]+|0[0-7_]*|[1-9][0-9_]*)",
    _FLOAT: r"([-+]?[0-9][0-9_]*\.[0-9_]*|\.[0-9][0-9_]*)([eE][-+][0-9]+)?|[-+]?\.(inf|Inf|INF)|\.(nan|NaN|NAN)",
}
"""The formats of numbers by tag, as in PyYAML, except for numbers in base 60."""
_INVALID = (ValueError, LookupError, AttributeError, ArithmeticError)
"""Errors that PyYAML raises for `2026-02-31` and `!!bool x`."""


class TooLargeError(yaml.YAMLError):
    """A YAML document has more than `MAX_VALUES` values."""

    def __init__(self) -> None:
        super().__init__(f"has more than {MAX_VALUES} values, including those that aliases repeat")


class LimitedLoader(yaml.SafeLoader):
    """A YAML loader that refuses documents with too many nodes. Does not count nodes that aliases repeat.

    Like Compose, it reads a text such as `22:22` as text, not as a number in base 60 (YAML 1.1).

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

    def construct_number(self, node: yaml.ScalarNode) -> int | float:
        """Return the number of a node. The time that a number takes grows with the square of its length."""
        if len(node.value) > _MAX_NUMBER:
            problem = f"found a number with more than {_MAX_NUMBER} characters: quote it"
            raise yaml.constructor.ConstructorError(None, None, problem, node.start_mark)
        return self.construct_yaml_int(node) if node.tag == _INT else self.construct_yaml_float(node)


LimitedLoader.yaml_implicit_resolvers = {
    first: [each for each in resolvers if each[0] not in _NUMBERS]
    for first, resolvers in yaml.SafeLoader.yaml_implicit_resolvers.items()
}
for _tag, _format in _NUMBERS.items():
    LimitedLoader.add_implicit_resolver(_tag, re.compile(rf"({_format})\Z"), list("-+.0123456789"))
    LimitedLoader.add_constructor(_tag, LimitedLoader.construct_number)


def load_yaml(text: str, loader_type: type[LimitedLoader] = LimitedLoader) -> Any:
    """Return the value of a YAML document.

    Args:
        text: The YAML text.
        loader_type: A loader that also reads other tags.

    Raises:
        yaml.YAMLError: The text is not a YAML document, has too many values, or has a value that contains itself.
        RecursionError: The document is nested too deeply.
    """
    loader = loader_type(text)
    try:
        root = loader.get_single_node()
        if root is None:
            return None
        if _count(root, {}) > MAX_VALUES:
            raise TooLargeError
        return loader.construct_document(root)
    except _INVALID:
        raise yaml.YAMLError("a value is not valid for its tag, or a date does not exist") from None
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
