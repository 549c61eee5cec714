"""Edits YAML text in place. Preserves comments, order and quotes in the parts that do not change."""

import copy
from collections.abc import Callable
from typing import Any

import yaml

from gateway.errors import UsageError
from gateway.importing.compose_yaml_loader import ComposeValueLoader
from gateway.input_size_limits import load_yaml

KeyPath = tuple[str, ...]
"""The path of a value: the keys of the nested mappings, from the outermost to the value's key."""


class YamlEdit:
    """Collects changes to a YAML document, and applies them in place.

    Args:
        text: The content of the document, which must be a mapping.

    Raises:
        UsageError: A value has a tag of Compose, such as `!override`.
    """

    def __init__(self, text: str) -> None:
        self._text = text
        self._root: yaml.Node = yaml.compose(text, Loader=ComposeValueLoader) or yaml.ScalarNode("", "")
        try:
            self.data: Any = load_yaml(text, ComposeValueLoader)
        except yaml.constructor.ConstructorError:
            raise UsageError(
                "the Compose file contains a tag such as !override, so it cannot be edited in place: use the output"
                " of `docker compose config`"
            ) from None
        self._edits: dict[tuple[int, int], str] = {}
        """The new text for each changed range (start and end index) of the old text."""
        self._flows: dict[tuple[int, int], KeyPath] = {}
        """Maps the range of each changed flow collection (`{…}` or `[…]`) in the old text to the path of the
        collection. The method `text` replaces the entire collection."""
        self._added: dict[KeyPath, None] = {}
        """The paths of the added values, oldest first. Values inside a flow collection (`{…}` or `[…]`) or inside
        another added value are not included."""
        self._created: set[KeyPath] = set()
        """The paths of all values that were added, or were replaced with a mapping."""

    def get(self, *path: str) -> Any:
        """Return the value at a path; None if the path does not exist."""
        value = self.data
        for key in path:
            value = value.get(key) if isinstance(value, dict) else None
        return value

    def put(self, path: KeyPath, value: Any) -> None:
        """Set the value at a path. Create the parent mapping if it does not exist.

        Raises:
            UsageError: The parent mapping comes from a YAML alias or merge key: a change would affect other mappings.
        """
        *outer, key = path
        if not isinstance(self.get(*outer), dict):
            self.put(tuple(outer), {key: value})
            return
        exists = key in self.get(*outer)
        self._refuse_anchors(path if exists else tuple(outer))
        self.get(*outer)[key] = value
        if not exists or isinstance(value, dict):
            self._created.add(path)
        if self._in_added(path) or self._in_flow(path):
            return
        mapping = self._node(tuple(outer))
        if not exists:
            self._added[path] = None
            return
        key_node, node = self._entry(mapping, path)
        is_block = isinstance(node, yaml.ScalarNode) and node.style in ("|", ">")
        if isinstance(value, dict | list) or isinstance(node, yaml.CollectionNode) or is_block:
            start, end = self._lines(key_node, node)
            self._edits[start, end] = _indented({key: value}, key_node.start_mark.column)
        else:
            self._edits[node.start_mark.index, node.end_mark.index] = _flow(value)

    def remove(self, path: KeyPath) -> None:
        """Remove the value at a path. Also remove the parent mapping if it becomes empty.

        Raises:
            UsageError: The parent mapping comes from a YAML alias or merge key. See `put`.
        """
        *outer, key = path
        mapping = self.get(*outer)
        if len(mapping) == 1 and len(outer) > 1:
            self.remove(tuple(outer))
            return
        self._refuse_anchors(path)
        del mapping[key]
        if not self._in_flow(path):
            self._edits[self._lines(*self._entry(self._node(tuple(outer)), path))] = ""

    def change_items(self, path: KeyPath, change: Callable[[Any], Any]) -> None:
        """Change or remove items of a list. Replace the whole list if an earlier change has replaced or shortened it.

        Args:
            path: The path of the list.
            change: A function that receives an item, and returns the new item, or None to remove the item.

        Raises:
            UsageError: The parent mapping comes from a YAML alias or merge key. See `put`.
        """
        self._refuse_anchors(path)
        old = self.get(*path)
        new = [change(item) for item in old]
        kept = [item for item in new if item is not None]
        if not kept:
            self.remove(path)
            return
        if kept == old:
            return
        self.get(*path[:-1])[path[-1]] = kept
        if self._in_added(path) or self._in_flow((*path, "")):
            return
        key, sequence = self._entry(self._node(path[:-1]), path)
        if self._lines(key, sequence) in self._edits or len(sequence.value) != len(old):
            self.put(path, kept)
            return
        for node, before, after in zip(sequence.value, old, new, strict=True):
            if after is None:
                start = self._text.rfind("\n", 0, node.start_mark.index) + 1
                self._edits[start, self._end(node, node.start_mark.index)] = ""
            elif after != before:
                self._edits[node.start_mark.index, node.end_mark.index] = _flow(after)

    def text(self) -> str:
        """Return the new content of the document.

        Raises:
            UsageError: The document cannot be edited in place.
        """
        ranges = dict(self._edits)
        # Insert the most deeply nested entries first: if two mappings end at the same position, the entries of the
        # inner mapping must precede those of the outer mapping.
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
            same = load_yaml(new, ComposeValueLoader) == self.data
        except yaml.YAMLError:
            same = False
        if not same:
            raise UsageError(
                "the Compose file cannot be edited in place, because its layout is not supported: use the output of"
                " `docker compose config`"
            )
        return new

    def _node(self, path: KeyPath) -> yaml.MappingNode:
        node = self._root
        for index, key in enumerate(path):
            node = self._entry(node, (*path[:index], key))[1]
        if not isinstance(node, yaml.MappingNode):
            raise UsageError(f"{'.'.join(path)} must be a mapping of keys and values")
        return node

    def _entry(self, node: yaml.Node, path: KeyPath) -> tuple[yaml.Node, yaml.Node]:
        """Return the nodes of a key and its value in a mapping.

        Args:
            node: The node of the mapping.
            path: The path of the value. The last element is the key.

        Raises:
            UsageError: The mapping comes from a YAML alias or merge key.
        """
        for key, value in reversed(node.value) if isinstance(node, yaml.MappingNode) else ():
            if key.value == path[-1] and value.start_mark.index >= key.end_mark.index:
                return key, value
        raise UsageError(
            f"{'.'.join(path)} comes from a YAML anchor, so a change would affect other values: change it manually"
        )

    def _refuse_anchors(self, path: KeyPath) -> None:
        node = self._root
        for length in range(1, len(path) + 1):
            if path[:length] in self._created:
                return
            node = self._entry(node, path[:length])[1]

    def _in_added(self, path: KeyPath) -> bool:
        """Return whether a value was added, or is inside an added value."""
        return any(path[:length] in self._added for length in range(1, len(path) + 1))

    def _in_flow(self, path: KeyPath) -> bool:
        """Return whether a value is inside a flow collection (`{…}` or `[…]`).

        If so, mark the outermost flow collection as changed.
        """
        node = self._root
        for index, key in enumerate(path):
            if isinstance(node, yaml.CollectionNode) and node.flow_style:
                self._flows[node.start_mark.index, node.end_mark.index] = path[:index]
                return True
            if index < len(path) - 1:
                node = self._entry(node, (*path[:index], key))[1]
        return False

    def _lines(self, key: yaml.Node, value: yaml.Node) -> tuple[int, int]:
        return self._text.rfind("\n", 0, key.start_mark.index) + 1, self._end(value, key.end_mark.index)

    def _end(self, node: yaml.Node, otherwise: int) -> int:
        """Return the position after the last line of a node. Exclude comments below this line.

        Args:
            node: The node.
            otherwise: The position to use as the end of the node if the node ends before this position, for example
                because the node is empty.
        """
        while isinstance(node, yaml.CollectionNode) and not node.flow_style and node.value:
            last = node.value[-1]
            node = last[1] if isinstance(last, tuple) else last
        end = max(node.end_mark.index, otherwise)
        if end and self._text[end - 1] == "\n":
            return end  # a block scalar includes the newline of its last line
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
