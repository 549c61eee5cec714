"""Limits the size of files and YAML documents from users, so that reading them cannot exhaust the memory or CPU."""

import errno
import re
from pathlib import Path
from typing import Any, BinaryIO

import yaml

MAX_VALUES = 100_000
"""Maximum number of values in a YAML document. An alias counts as all values that it refers to, because a few lines
with aliases can expand to millions of values."""
_MAX_NUMBER = 100
"""Maximum length of a number in a YAML document, in characters."""
_MAX_SIZE = 4 << 20
"""Maximum size of a file, in bytes."""
_INT = "tag:yaml.org,2002:int"
_FLOAT = "tag:yaml.org,2002:float"
_NUMBERS = {
    _INT: r"[-+]?(0b[01_]+|0x[0-9a-fA-F_]+|0[0-7_]*|[1-9][0-9_]*)",
    _FLOAT: r"([-+]?[0-9][0-9_]*\.[0-9_]*|\.[0-9][0-9_]*)([eE][-+][0-9]+)?|[-+]?\.(inf|Inf|INF)|\.(nan|NaN|NAN)",
}
"""The patterns of numbers, by YAML tag. Unlike PyYAML's patterns, they do not match numbers in base 60."""
_INVALID = (ValueError, LookupError, AttributeError, ArithmeticError)
"""Errors that PyYAML raises for a value that does not match its tag (`!!bool x`), or for a date that does not exist
(`2026-02-31`)."""


class TooManyValuesError(yaml.YAMLError):
    """A YAML document has more than `MAX_VALUES` values."""

    def __init__(self) -> None:
        super().__init__(f"has more than {MAX_VALUES} values, including the values that aliases repeat")


class LimitedYamlLoader(yaml.SafeLoader):
    """Loads YAML, and refuses documents with too many nodes. Each node counts once, even if aliases refer to it.

    A value such as `22:22` is a string, as in Compose. In YAML 1.1, it is a number in base 60.

    Args:
        text: The content of the YAML document.
    """

    def __init__(self, text: str) -> None:
        super().__init__(text)
        self._nodes = 0

    def compose_node(self, parent: yaml.Node | None, index: int) -> yaml.Node | None:
        """Count and compose the next node. See `yaml.composer.Composer`.

        Raises:
            TooManyValuesError: The document has too many nodes.
        """
        self._nodes += 1
        # In a mapping, the key and the value are separate nodes, so allow two nodes for each value.
        if self._nodes > 2 * MAX_VALUES:
            raise TooManyValuesError
        return super().compose_node(parent, index)

    def fetch_more_tokens(self) -> None:
        """Read the next tokens. See `yaml.scanner.Scanner`.

        Raises:
            yaml.scanner.ScannerError: The text is not valid. In some cases, PyYAML raises ValueError or
                OverflowError, which this method converts.
        """
        try:
            super().fetch_more_tokens()
        except (ValueError, OverflowError) as error:
            problem = "found an escape sequence for a character that does not exist, or a number that is too long"
            raise yaml.scanner.ScannerError(None, None, problem, self.get_mark()) from error

    def construct_number(self, node: yaml.ScalarNode) -> int | float:
        """Convert a node to a number. Refuse long numbers, because the conversion takes quadratic time.

        Raises:
            yaml.constructor.ConstructorError: The number has too many characters, or is not valid.
        """
        if len(node.value) > _MAX_NUMBER:
            problem = f"found a number with more than {_MAX_NUMBER} characters: quote it if it is a string"
            raise yaml.constructor.ConstructorError(None, None, problem, node.start_mark)
        return self.construct_yaml_int(node) if node.tag == _INT else self.construct_yaml_float(node)


LimitedYamlLoader.yaml_implicit_resolvers = {
    first: [each for each in resolvers if each[0] not in _NUMBERS]
    for first, resolvers in yaml.SafeLoader.yaml_implicit_resolvers.items()
}
for _tag, _format in _NUMBERS.items():
    LimitedYamlLoader.add_implicit_resolver(_tag, re.compile(rf"({_format})\Z"), list("-+.0123456789"))
    LimitedYamlLoader.add_constructor(_tag, LimitedYamlLoader.construct_number)


def load_yaml(text: str, loader_type: type[LimitedYamlLoader] = LimitedYamlLoader) -> Any:
    """Parse a YAML document, and return its value.

    Args:
        text: The content of the document.
        loader_type: The loader. A subclass of `LimitedYamlLoader` can read additional tags.

    Raises:
        yaml.YAMLError: `text` is not a YAML document, has too many values, or has a value that contains itself.
        RecursionError: The document is nested too deeply.
    """
    loader = loader_type(text)
    try:
        root = loader.get_single_node()
        if root is None:
            return None
        if _count(root, {}) > MAX_VALUES:
            raise TooManyValuesError
        return loader.construct_document(root)
    except _INVALID:
        raise yaml.YAMLError("a value does not match its tag (such as `!!int`), or a date does not exist") from None
    finally:
        loader.dispose()


def _count(node: yaml.Node, counts: dict[yaml.Node, int | None]) -> int:
    """Return the number of values in a node. Values count again for each alias that refers to them.

    Args:
        node: The node.
        counts: Maps each counted node to the number of its values. A node whose values are still being counted has
            the value None.

    Raises:
        yaml.YAMLError: The node contains itself.
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
    """Return the remaining bytes of a stream.

    Raises:
        OSError: The stream cannot be read, or more than 4 MiB remain.
    """
    data = stream.read(_MAX_SIZE + 1)
    if len(data) > _MAX_SIZE:
        raise OSError(errno.EFBIG, f"is larger than {_MAX_SIZE >> 20} MiB")
    return data
