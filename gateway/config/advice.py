"""Returns warnings about a valid configuration."""

from collections.abc import Iterator

from gateway.config.model import Config
from gateway.config.strict import weaknesses
from gateway.docker.peers.keys import NOT_SUPPORTED, SUPPORTED


def advice(config: Config) -> list[str]:
    """Return warnings about a configuration. Each warning names the key and the remedy."""
    weak = [f"{each.problem.key}: {each.problem.message}" for each in weaknesses(config) if each.advised]
    return [*weak, *_of_kinds(config), *_grants_without_label(config), *_peers(config)]


def _peers(config: Config) -> Iterator[str]:
    if config.docker is not None and config.docker.peers is not None and not SUPPORTED:
        yield f"docker.peers: {NOT_SUPPORTED}"


def _grants_without_label(config: Config) -> Iterator[str]:
    """In strict mode, yield a warning for each granted backend without a label: such a grant has no effect."""
    if config.docker is None or not config.gateway.strict:
        return
    granted = {name for grant in config.docker.grants for name in grant.backends}
    for name, spec in config.backends.items():
        if name in granted and spec.allow.label is None:
            yield (
                f"backends.{name}.allow: docker.grants have no effect on this backend without a label: set"
                f" {{label: {config.docker.label_prefix}.backends}}"
            )


def _of_kinds(config: Config) -> Iterator[str]:
    """Yield the warnings that each configured kind of backend returns about its backends."""
    kinds = {spec.kind.name: spec.kind for spec in config.backends.values()}
    for name, kind in kinds.items():
        yield from kind.advice([spec for spec in config.backends.values() if spec.kind.name == name])
