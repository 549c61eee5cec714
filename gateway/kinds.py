"""The kinds that a room knows: one module each, imported when it is first asked for."""

import importlib
import pkgutil
from collections.abc import Iterator, Mapping
from typing import TypeVar

K = TypeVar("K")


class Kinds(Mapping[str, K]):
    """The kinds of a package by name: each is `KIND` in the module of its name.

    Only what a configuration uses is imported: a gateway without a VPN carries none of a VPN's libraries.

    Args:
        package: Its name.
        path: Its `__path__`; packages inside it are no kinds.
    """

    def __init__(self, package: str, path: list[str]) -> None:
        self._package = package
        self._names = sorted(module.name for module in pkgutil.iter_modules(path) if not module.ispkg)

    def __getitem__(self, name: str) -> K:
        if name not in self._names:
            raise KeyError(name)
        found: K = importlib.import_module(f"{self._package}.{name}").KIND
        return found

    def __iter__(self) -> Iterator[str]:
        return iter(self._names)

    def __len__(self) -> int:
        return len(self._names)

    def __contains__(self, name: object) -> bool:
        return name in self._names
