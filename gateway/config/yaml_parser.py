"""Reads a YAML file into a tree with the line and column of each value. Limits the size and depth of the document."""

import errno
import hashlib
from collections.abc import Mapping
from pathlib import Path

import yaml

from gateway.config.parsed_tree import ParsedMapping, ParsedScalar, ParsedSequence, Tree
from gateway.config.variable_expansion import expand
from gateway.config.yaml_errors import yaml_error
from gateway.errors import ConfigProblem
from gateway.input_size_limits import MAX_VALUES, LimitedYamlLoader, TooManyValuesError, read_limited
from gateway.secret_files import unreadable

UNSET = "the environment variable {name} is not set: set it, or write ${{{name}:-default}}"
"""The error message if the file refers to a variable that is not set."""
_TOO_DEEP = "is nested too deeply: check the brackets"


def read_text(path: Path, problems: list[ConfigProblem]) -> tuple[str, str | None]:
    """Read a file.

    Args:
        path: The file.
        problems: The list to which a problem is added if the file cannot be read.

    Returns:
        The text, and the SHA-256 of the file's bytes. If the file cannot be read, the text is empty and the hash is
        None. If the file is not UTF-8, only the text is empty.
    """
    digest = None
    try:
        data = read_limited(path)
        digest = hashlib.sha256(data).hexdigest()
        return data.decode(), digest
    except (OSError, UnicodeDecodeError) as error:
        problems.append(ConfigProblem(str(path), "", _unreadable(path, error)))
        return "", digest


def _unreadable(path: Path, error: OSError | UnicodeDecodeError) -> str:
    if isinstance(error, UnicodeDecodeError):
        return "is not UTF-8 text: save it as UTF-8"
    if error.errno == errno.ENOENT:
        return f"cannot be read: {error.strerror}: correct the path, or write a first configuration with gateway init"
    return f"cannot be read: {unreadable(path, error)}"


def parse_yaml(
    path: Path,
    text: str,
    problems: list[ConfigProblem],
    environment: Mapping[str, str],
    used: dict[str, str],
    unset: str = UNSET,
) -> ParsedMapping:
    """Parse the text of a YAML file.

    Args:
        path: The file.
        text: The content of the file.
        problems: The list to which problems are added.
        environment: The environment variables.
        used: Maps each expanded value to its reference; see `expand`. The function adds entries.
        unset: The error message if the file refers to a variable that is not set. `{name}` in the message is replaced
            by the name of the variable.
    """
    empty = ParsedMapping(str(path))
    try:
        root = yaml.compose(text, Loader=LimitedYamlLoader)
    except RecursionError:
        problems.append(ConfigProblem(str(path), "", _TOO_DEEP))
        return empty
    except TooManyValuesError as error:
        problems.append(ConfigProblem(str(path), "", str(error)))
        return empty
    except yaml.YAMLError as error:
        line, column, message = yaml_error(error, text)
        problems.append(ConfigProblem(f"{path}:{line}:{column}", "", message))
        return empty
    if root is None:
        return empty
    try:
        tree = _NodeConverter(str(path), problems, environment, used, unset).tree(root, "")
    except RecursionError:
        problems.append(ConfigProblem(str(path), "", _TOO_DEEP))
        return empty
    except TooManyValuesError as error:
        problems.append(ConfigProblem(str(path), "", str(error)))
        return empty
    if not isinstance(tree, ParsedMapping):
        problems.append(
            ConfigProblem(tree.place, "", "the document must be a mapping of sections, such as `tunnels:`")
        )
        return empty
    return tree


class _NodeConverter:
    """Converts the nodes of a YAML document to a tree, with the line and column of each value."""

    def __init__(
        self,
        name: str,
        problems: list[ConfigProblem],
        environment: Mapping[str, str],
        used: dict[str, str],
        unset: str,
    ) -> None:
        self._name = name
        self._problems = problems
        self._environment = environment
        self._used = used
        self._unset = unset
        self._within: list[yaml.Node] = []
        self._count = 0

    def tree(self, node: yaml.Node, key: str) -> Tree:
        self._count += 1
        if self._count > MAX_VALUES:
            raise TooManyValuesError
        place = self._place(node)
        if node in self._within:
            self._problems.append(ConfigProblem(place, key, "refers to itself: remove the alias"))
            return ParsedScalar(place, None, broken=True)
        self._within.append(node)
        try:
            return self._tree(node, key, place)
        finally:
            self._within.pop()

    def _tree(self, node: yaml.Node, key: str, place: str) -> Tree:
        if isinstance(node, yaml.ScalarNode):
            return self._scalar(node, key, place)
        if isinstance(node, yaml.SequenceNode):
            return ParsedSequence(place, [self.tree(item, f"{key}[{at}]") for at, item in enumerate(node.value)])
        if isinstance(node, yaml.MappingNode):
            return self._table(node, key, place)
        raise AssertionError(node)

    def _table(self, node: yaml.MappingNode, key: str, place: str) -> ParsedMapping:
        table = ParsedMapping(place)
        merged: list[yaml.Node] = []
        for key_node, value_node in node.value:
            name = str(key_node.value)
            if not isinstance(key_node, yaml.ScalarNode):
                self._problems.append(
                    ConfigProblem(
                        self._place(key_node),
                        key,
                        "a key must be plain text: remove the brackets or braces around it",
                    )
                )
                continue
            if key_node.tag == "tag:yaml.org,2002:merge":
                merged += value_node.value if isinstance(value_node, yaml.SequenceNode) else [value_node]
                continue
            path = f"{key}.{name}" if key else name
            if name in table.entries:
                first = table.entries[name][0].rpartition(":")[0]
                self._problems.append(
                    ConfigProblem(self._place(key_node), path, f"is given twice (first at {first}): remove one")
                )
                continue
            table.entries[name] = (self._place(key_node), self.tree(value_node, path))
        for other in merged:
            inner = self.tree(other, key)
            for name, entry in inner.entries.items() if isinstance(inner, ParsedMapping) else ():
                table.entries.setdefault(name, entry)
        return table

    def _scalar(self, node: yaml.ScalarNode, key: str, place: str) -> ParsedScalar:
        if node.tag == "tag:yaml.org,2002:null" and node.style is None:
            return ParsedScalar(place, None)
        written = str(node.value)
        used: dict[str, str] = {}
        try:
            text = expand(written, self._environment, used)
        except KeyError as error:
            self._problems.append(ConfigProblem(place, key, self._unset.format(name=error.args[0])))
            return ParsedScalar(place, None, broken=True)
        if not used:
            return ParsedScalar(place, text)
        self._used.update(used)
        self._used[text] = written
        return ParsedScalar(place, text, written=written)

    def _place(self, node: yaml.Node) -> str:
        return f"{self._name}:{node.start_mark.line + 1}:{node.start_mark.column + 1}"
