"""Finds the kinds of tunnel or backend that the modules of a package define. Imports each module on first use."""

import importlib
import pkgutil
from collections.abc import Iterator, Mapping, Sequence
from typing import TypeVar

K = TypeVar("K")


class KindRegistry(Mapping[str, K]):
    """Maps the name of each kind, such as `mysql` or `ssh`, to the definition of the kind.

    For example, the module `mysql` defines the kind `mysql` in its variable `KIND`. The registry imports a module
    when its kind is first looked up. Therefore, the process loads only the libraries that its configuration needs.

    Args:
        package: The name of the package that contains the modules. Its subpackages are not kinds.
        path: The `__path__` of the package. Directories can be added to it later.
    """

    def __init__(self, package: str, path: Sequence[str]) -> None:
        self._package = package
        self._path = path
        self._listed_path: tuple[str, ...] = ()
        """The value of `path` for which `_listed_names` was computed."""
        self._listed_names: list[str] = []

    @property
    def _names(self) -> list[str]:
        if self._listed_path != tuple(self._path):
            self._listed_path = tuple(self._path)
            modules = pkgutil.iter_modules(self._path)
            self._listed_names = sorted(module.name for module in modules if not module.ispkg)
        return self._listed_names

    def __getitem__(self, name: str) -> K:
        if name not in self._names:
            raise KeyError(name)
        kind: K = importlib.import_module(f"{self._package}.{name}").KIND
        return kind

    def __iter__(self) -> Iterator[str]:
        return iter(self._names)

    def __len__(self) -> int:
        return len(self._names)

    def __contains__(self, name: object) -> bool:
        return name in self._names
