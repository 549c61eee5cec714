"""Loads the YAML of Compose files; reads the tags `!reset` and `!override` ("Merge" in the Compose specification)."""

import copy
import re
from dataclasses import dataclass
from typing import Any, Final

import yaml

from gateway.input_size_limits import LimitedYamlLoader

_BOOL = "tag:yaml.org,2002:bool"
_TIMESTAMP = "tag:yaml.org,2002:timestamp"


@dataclass(frozen=True)
class ComposeOverrideValue:
    """A value with the tag `!override`, which Compose does not merge. It replaces the value in the base file.

    Args:
        value: The value, without the tag.
    """

    value: Any


class _ResetMarker:
    """The type of `RESET`, which represents a value with the tag `!reset`. Compose removes the key of this value."""


RESET: Final = _ResetMarker()


class ComposeValueLoader(LimitedYamlLoader):
    """Loads a Compose file that has no tags such as `!reset`. As in Compose, `yes`, `on` and dates are strings."""


ComposeValueLoader.yaml_implicit_resolvers = {
    first: [each for each in resolvers if each[0] not in (_BOOL, _TIMESTAMP)]
    for first, resolvers in LimitedYamlLoader.yaml_implicit_resolvers.items()
}
ComposeValueLoader.add_implicit_resolver(_BOOL, re.compile(r"(true|True|TRUE|false|False|FALSE)\Z"), list("tTfF"))


class ComposeYamlLoader(ComposeValueLoader):
    """Loads a Compose file. `!reset` becomes `RESET`, and `!override` becomes a `ComposeOverrideValue`."""

    def construct_override(self, node: yaml.Node) -> ComposeOverrideValue:
        """Return the value of a node that has the tag `!override`."""
        inner = copy.copy(node)
        plain = isinstance(node, yaml.ScalarNode) and not node.style
        inner.tag = self.resolve(type(node), node.value, (plain, not plain))  # type: ignore[no-untyped-call]
        return ComposeOverrideValue(self.construct_object(inner, deep=True))


ComposeYamlLoader.add_constructor("!override", ComposeYamlLoader.construct_override)
ComposeYamlLoader.add_constructor("!reset", lambda _loader, _node: RESET)


def without_tags(value: Any) -> Any:
    """Return a value without tags: omit keys and list items with `!reset`, and unwrap each `ComposeOverrideValue`."""
    if isinstance(value, ComposeOverrideValue):
        return without_tags(value.value)
    if isinstance(value, dict):
        return {key: without_tags(each) for key, each in value.items() if each is not RESET}
    if isinstance(value, list):
        return [without_tags(each) for each in value if each is not RESET]
    return None if value is RESET else value
