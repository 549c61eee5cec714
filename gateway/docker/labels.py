"""What a container's labels ask for. Pure; a label chooses among what the configuration permits."""

import fnmatch
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from gateway.docker.options import AttachRule

KEYS = ("enable", "backends", "network", "aliases", "on-stop", "instance")
MANAGED_BY, INSTANCE, SPEC_HASH = "managed-by", "instance", "spec-hash"
"""Labels that we put on what we make; not for containers."""
_TRUE = {"true", "1", "yes", "on"}
_ALIAS = re.compile(r"(?!-)[a-z0-9-]{1,63}(?<!-)", re.IGNORECASE)
"""A host name's label (RFC 1123, section 2.1); Docker takes dots, too, which nobody resolves."""


@dataclass(frozen=True)
class Wish:
    """That a container be attached.

    Args:
        networks: Named ones; empty: those that carry one of `backends`.
        backends: Named ones; empty: all.
        aliases: Names that it gets.
        detach_on_stop: Whether a stopped container loses its attachment.
    """

    networks: tuple[str, ...] = ()
    backends: tuple[str, ...] = ()
    aliases: tuple[str, ...] = ()
    detach_on_stop: bool = False


def read(
    labels: Mapping[str, str], prefix: str, instance: str, backends: Iterable[str]
) -> tuple[Wish | None, list[str]]:
    """What the labels ask of this gateway, and what is wrong with them.

    Args:
        labels: The container's.
        prefix: Of the labels that are ours.
        instance: This gateway's name: labels may be meant for another.
        backends: Those that are configured.
    """
    mine = {key.removeprefix(f"{prefix}."): text for key, text in labels.items() if key.startswith(f"{prefix}.")}
    if mine.get("enable", "").lower() not in _TRUE or mine.get("instance", instance) != instance:
        return None, []
    problems = [f"unknown label {prefix}.{key}" for key in mine if key not in KEYS]
    wanted = listed(mine.get("backends", ""))
    known = set(backends)
    problems += [f"{prefix}.backends: there is no backend {name!r}" for name in wanted if name not in known]
    aliases = listed(mine.get("aliases", ""))
    problems += [f"{prefix}.aliases: {alias!r} is no host name" for alias in aliases if not _ALIAS.fullmatch(alias)]
    on_stop = mine.get("on-stop", "keep")
    if on_stop not in ("keep", "detach"):
        problems.append(f"{prefix}.on-stop: {on_stop!r} is neither keep nor detach")
    if wanted and not known & set(wanted):
        return None, problems  # what it wants is not here: to attach it everywhere is not what was meant
    wish = Wish(
        networks=listed(mine.get("network", "")),
        backends=tuple(name for name in wanted if name in known),
        aliases=tuple(alias for alias in aliases if _ALIAS.fullmatch(alias)),
        detach_on_stop=on_stop == "detach",
    )
    return wish, problems


def by_rules(name: str, labels: Mapping[str, str], rules: Iterable[AttachRule]) -> Wish | None:
    """What the first rule of the configuration that fits asks for."""
    for rule in rules:
        named = not rule.names or any(fnmatch.fnmatchcase(name, pattern) for pattern in rule.names)
        if named and all(_has(labels, label) for label in rule.labels) and (rule.names or rule.labels):
            return Wish(rule.networks, rule.backends, rule.aliases, rule.on_stop == "detach")
    return None


def listed(text: str) -> tuple[str, ...]:
    """The items of a comma-separated list."""
    return tuple(item.strip() for item in text.split(",") if item.strip())


def _has(labels: Mapping[str, str], wanted: str) -> bool:
    key, equals, text = wanted.partition("=")
    return key in labels and (not equals or labels[key] == text)
