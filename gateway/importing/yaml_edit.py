"""Edits a YAML text in place: comments, order and quotes of the unchanged parts remain."""

import copy
from collections.abc import Callable
from typing import Any

import yaml

from gateway.errors import UsageError

KeyPath = tuple[str, ...]
"""The path of a value: the keys of the nested mappings around it."""


class YamlEdit:
    """Collects changes to a YAML text.

    Args:
        text: The text, whose document is a mapping.
    """

    def __init__(self, text: str) -> None:
        self._text = text
        self._root: yaml.Node = yaml.compose(text, Loader=yaml.SafeLoader) or yaml.ScalarNode("", "")
        self.data: Any = yaml.safe_load(text)
        self._edits: dict[tuple[int, int], str] = {}
        """The new texts, by the range of the old text that each replaces."""
        self._flows: dict[tuple[int, int], KeyPath] = {}
        """The ranges of mappings and lists in flow style, which are written again as a whole."""
        self._added: dict[KeyPath, None] = {}
        """The paths that the old text does not have."""

    def get(self, *path: str) -> Any:
        """Return a value; None: the path does not exist."""
        value = self.data
        for key in path:
            value = value.get(key) if isinstance(value, dict) else None
        return value

    def put(self, path: KeyPath, value: Any) -> None:
        """Set a value. Create its mapping if that does not exist.

        Raises:
            UsageError: The mapping comes from an alias or a merge key, so that a change would affect other mappings.
        """
        *outer, key = path
        if not isinstance(self.get(*outer), dict):
            self.put(tuple(outer), {key: value})
            return
        exists = key in self.get(*outer)
        self.get(*outer)[key] = value
        if any(path[:length] in self._added for length in range(1, len(path) + 1)) or self._in_flow(path):
            return
        mapping = self._node(tuple(outer))
        if not exists:
            self._added[path] = None
            return
        key_node, node = self._entry(mapping, path)
        if isinstance(value, dict | list) or isinstance(node, yaml.CollectionNode):
            start, end = self._lines(key_node, node)
            self._edits[start, end] = _indented({key: value}, key_node.start_mark.column)
        else:
            self._edits[node.start_mark.index, node.end_mark.index] = _flow(value)

    def remove(self, path: KeyPath) -> None:
        """Remove a value, and its mapping if that becomes empty.

        Raises:
            UsageError: As in `put`.
        """
        *outer, key = path
        mapping = self.get(*outer)
        if len(mapping) == 1 and len(outer) > 1:
            self.remove(tuple(outer))
            return
        del mapping[key]
        if not self._in_flow(path):
            self._edits[self._lines(*self._entry(self._node(tuple(outer)), path))] = ""

    def change_items(self, path: KeyPath, change: Callable[[Any], Any]) -> None:
        """Change the items of a list.

        Args:
            path: The path of the list.
            change: Returns the new item; None to remove it.

        Raises:
            UsageError: As in `put`.
        """
        old = self.get(*path)
        new = [change(item) for item in old]
        kept = [item for item in new if item is not None]
        if not kept:
            self.remove(path)
            return
        if kept == old:
            return
        self.get(*path[:-1])[path[-1]] = kept
        if self._in_flow((*path, "")):
            return
        sequence = self._entry(self._node(path[:-1]), path)[1]
        for node, before, after in zip(sequence.value, old, new, strict=True):
            if after is None:
                start = self._text.rfind("\n", 0, node.start_mark.index) + 1
                self._edits[start, self._end(node, node.start_mark.index)] = ""
            elif after != before:
                self._edits[node.start_mark.index, node.end_mark.index] = _flow(after)

    def text(self) -> str:
        """Return the new text.

        Raises:
            UsageError: The text cannot be edited in place.
        """
        ranges = dict(self._edits)
        # Of two entries with the same end, the inner one comes first.
        for path in sorted(self._added, key=len, reverse=True):
            mapping = self._node(path[:-1])
            end = self._end(mapping, 0)
            column = mapping.value[0][0].start_mark.column if mapping.value else 0
            before = "" if end == 0 or self._text[end - 1] == "\n" else "\n"
            text = _indented({path[-1]: self.get(*path)}, column)
            ranges[end, end] = ranges.get((end, end), before) + text
        for (start, end), path in self._flows.items():
            ranges[start, end] = _flow(self.get(*path))
        kept = {
            one: text
            for one, text in ranges.items()
            if not any(other != one and other[0] <= one[0] and one[1] <= other[1] and other[1] - other[0] > 0
                       and one[1] - one[0] > 0 for other in ranges)
        }  # fmt: skip
        new = self._text
        for (start, end), text in sorted(kept.items(), reverse=True):
            new = new[:start] + text + new[end:]
        try:
            same = yaml.safe_load(new) == self.data
        except yaml.YAMLError:
            same = False
        if not same:
            raise UsageError("the Compose file cannot be edited in place: its layout is not supported")
        return new

    def _node(self, path: KeyPath) -> yaml.MappingNode:
        node = self._root
        for index, key in enumerate(path):
            node = self._entry(node, (*path[:index], key))[1]
        if not isinstance(node, yaml.MappingNode):
            raise UsageError(f"{'.'.join(path)} is not a mapping")
        return node

    def _entry(self, node: yaml.Node, path: KeyPath) -> tuple[yaml.Node, yaml.Node]:
        """Return the node of the last key of a path, and the node of its value."""
        for key, value in reversed(node.value) if isinstance(node, yaml.MappingNode) else ():
            if key.value == path[-1] and value.start_mark.index >= key.end_mark.index:
                return key, value
        raise UsageError(f"{'.'.join(path)} comes from an anchor: a change would affect others; change it by hand")

    def _in_flow(self, path: KeyPath) -> bool:
        """Return whether a value is in a collection in flow style, and mark the outermost one to be written again."""
        node = self._root
        for index, key in enumerate(path):
            if isinstance(node, yaml.CollectionNode) and node.flow_style:
                self._flows[node.start_mark.index, node.end_mark.index] = path[:index]
                return True
            if index < len(path) - 1:
                node = self._entry(node, (*path[:index], key))[1]
        return False

    def _lines(self, key: yaml.Node, value: yaml.Node) -> tuple[int, int]:
        """Return the range of the lines of an entry."""
        return self._text.rfind("\n", 0, key.start_mark.index) + 1, self._end(value, key.end_mark.index)

    def _end(self, node: yaml.Node, otherwise: int) -> int:
        """Return the end of the last line of a node, without the comments after it."""
        while isinstance(node, yaml.CollectionNode) and not node.flow_style and node.value:
            last = node.value[-1]
            node = last[1] if isinstance(last, tuple) else last
        end = max(node.end_mark.index, otherwise)
        if end and self._text[end - 1] == "\n":
            return end  # the end of a block scalar is already the end of its last line
        newline = self._text.find("\n", end)
        return len(self._text) if newline < 0 else newline + 1


def _indented(value: Any, column: int) -> str:
    text = yaml.safe_dump(
        copy.deepcopy(value), sort_keys=False, width=100, allow_unicode=True, default_flow_style=False
    )
    return "".join(f"{' ' * column}{line}\n" for line in text.splitlines())


def _flow(value: Any) -> str:
    text = yaml.safe_dump(value, sort_keys=False, width=10**6, allow_unicode=True, default_flow_style=True)
    return text.removesuffix("\n").removesuffix("\n...")
