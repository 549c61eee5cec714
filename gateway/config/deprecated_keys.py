"""Replaces the deprecated key `gateway.workers` with `gateway.threads`. Does no I/O."""

from collections.abc import Iterator
from dataclasses import replace

from gateway.config.model import Config
from gateway.errors import ConfigProblem

_OLD, _NEW = "gateway.workers", "gateway.threads"


def replace_deprecated(config: Config, problems: list[ConfigProblem]) -> Config:
    """Return `config` with the value of the deprecated key `gateway.workers` moved to `gateway.threads`.

    The value 0 becomes `auto`. If `gateway.workers` is not set, return the configuration unchanged.

    Args:
        config: The configuration, without its invalid parts.
        problems: The problems found so far. If both keys are set, this function adds a problem.
    """
    workers, place = config.gateway.workers, config.places.get(_OLD, "")
    if workers is None:
        return config
    if _NEW in config.places:
        message = f"cannot be set together with {_NEW} ({config.places[_NEW]}), which replaces it: remove {_OLD}"
        problems.append(ConfigProblem(place, _OLD, message))
    section = replace(config.gateway, threads=workers or "auto", workers=None)
    return replace(config, gateway=section, places={**config.places, _NEW: place})


def deprecation_warnings(config: Config) -> Iterator[str]:
    """Yield a warning for each deprecated key, with its place in the configuration and its replacement.

    Args:
        config: The result of `replace_deprecated`.
    """
    if _OLD in config.places:
        yield (
            f"{config.places[_OLD]}: {_OLD}: is deprecated, because threads have replaced the worker processes: set"
            f" {_NEW} to {config.gateway.threads} instead"
        )
