"""Parses the labels with which containers and services request backends from the gateway. Does no I/O."""

import difflib
import fnmatch
import re
from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass, replace

from gateway.docker.grants import GrantedAccess
from gateway.docker.options import AttachRule

KEYS = ("enable", "backends", "network", "aliases", "on-stop", "instance", "revive")
MANAGED_BY, INSTANCE, SPEC_HASH = "managed-by", "instance", "spec-hash"
"""Labels that the gateway sets when it creates a network or volume."""
_TRUE = {"true", "1", "yes", "on"}
_FALSE = {"false", "0", "no", "off", ""}
_CLOSE = 0.75
"""The minimum similarity (0 to 1) between an unknown name and the known name that the error suggests."""
_MAX_SUGGESTION_KEY = 2 * max(map(len, KEYS))
"""The maximum length of an unknown key for which the error suggests a known key."""
_MAX_SUGGESTIONS = 3
"""The maximum number of suggestions for the unknown backends in one label."""
_MAX_SUGGESTION_NAME = 63
"""The maximum length of an unknown backend name for which the error suggests a known backend."""
ALIAS = re.compile(r"(?!-)[a-z0-9-]{1,63}(?<!-)", re.IGNORECASE)
"""Matches a valid alias: one label of a host name (RFC 1123, section 2.1). Docker also accepts aliases with dots, but
they do not resolve."""


@dataclass(frozen=True)
class RequestedAccess:
    """The networks, backends and aliases that labels or a rule in `docker.attach` request for a container or service.

    Args:
        networks: The requested networks; empty to request all networks of the requested backends.
        backends: The requested backends; empty to request all backends.
        aliases: The aliases of the container or service on these networks.
        detach_on_stop: Whether the gateway detaches the container when the container stops.
        refused: The reason why the request is refused; empty if it is not refused.
    """

    networks: tuple[str, ...] = ()
    backends: tuple[str, ...] = ()
    aliases: tuple[str, ...] = ()
    detach_on_stop: bool = False
    refused: str = ""


def read(
    labels: Mapping[str, str], prefix: str, instance: str, backends: Iterable[str], *, granted: bool = False
) -> tuple[RequestedAccess | None, list[str]]:
    """Parse the labels of a container or service. Return the requested access, and a message for each error.

    The access is None if the labels request nothing from this gateway, or only unknown backends.

    Args:
        labels: The labels that the gateway evaluates.
        prefix: The prefix of the gateway's labels.
        instance: This gateway's name. If the label `instance` names another gateway, all labels are ignored.
        backends: The configured backends.
        granted: Whether a grant matches the container or service. If so, `enable` is true by default.
    """
    mine = _ours(labels, prefix)
    if mine.get("instance", instance) != instance:
        return None, []
    takes_part = mine.get("enable", "true" if granted else "").lower() in _TRUE
    problems = list(_key_errors(mine, prefix, takes_part=takes_part))
    if not takes_part:
        return None, problems
    wanted = listed(mine.get("backends", ""))
    known = set(backends)
    unknown = [name for name in wanted if name not in known]
    problems += [
        f"{prefix}.backends: backend {name!r} does not exist{_similar(name, known) if at < _MAX_SUGGESTIONS else ''}"
        for at, name in enumerate(unknown)
    ]
    aliases = listed(mine.get("aliases", ""))
    problems += [f"{prefix}.aliases: {alias!r} is not a host name" for alias in aliases if not ALIAS.fullmatch(alias)]
    on_stop = mine.get("on-stop", "keep")
    if on_stop not in ("keep", "detach"):
        problems.append(f"{prefix}.on-stop: {on_stop!r} is neither keep nor detach")
    if wanted and not known & set(wanted):
        # None of the requested backends exists. Return None, because an empty `backends` would select all backends.
        return None, problems
    request = RequestedAccess(
        networks=listed(mine.get("network", "")),
        backends=tuple(name for name in wanted if name in known),
        aliases=tuple(alias for alias in aliases if ALIAS.fullmatch(alias)),
        detach_on_stop=on_stop == "detach",
    )
    return request, problems


def revives(labels: Mapping[str, str], prefix: str, *, default: bool) -> bool:
    """Return whether the gateway is allowed to start a container whose start failed.

    Args:
        labels: The labels that the gateway evaluates.
        prefix: The prefix of the gateway's labels.
        default: The value of `docker.revive`.
    """
    text = labels.get(f"{prefix}.revive", "").lower()
    return text in _TRUE or (default and text not in _FALSE - {""})


def enabled(text: str) -> bool:
    """Return whether a value of the label `enable` means true."""
    return text.lower() in _TRUE


def missing_enable_warnings(labels: Mapping[str, str], prefix: str, instance: str) -> list[str]:
    """Return one warning if labels have no effect because the label `enable` is absent.

    Otherwise, return an empty list.

    Args:
        labels: The labels that the gateway evaluates.
        prefix: The prefix of the gateway's labels.
        instance: This gateway's name.
    """
    mine = _ours(labels, prefix)
    asking = [key for key in ("backends", "network", "aliases", "on-stop") if key in mine]
    if not asking or "enable" in mine or mine.get("instance", instance) != instance:
        return []
    return [f"{prefix}.{asking[0]} has no effect without {prefix}.enable=true"]


def _ours(labels: Mapping[str, str], prefix: str) -> dict[str, str]:
    return {key.removeprefix(f"{prefix}."): text for key, text in labels.items() if key.startswith(f"{prefix}.")}


def _key_errors(mine: Mapping[str, str], prefix: str, *, takes_part: bool) -> Iterator[str]:
    """Yield an error for each unknown key, and for each invalid value of the labels `enable` and `revive`.

    Args:
        mine: The labels that have the gateway's prefix, which is removed from the keys.
        prefix: The prefix.
        takes_part: Whether the container requests access to backends. If not, an unknown label can belong to another
            program, and is an error only if it resembles a known label.
    """
    for key in sorted(mine.keys() - KEYS):
        # Limit the length, because the creator of a container could make the comparison slow with long keys.
        typo = key.lower().replace("_", "-") if len(key) <= _MAX_SUGGESTION_KEY else ""
        close = difflib.get_close_matches(typo, KEYS, n=1, cutoff=_CLOSE)
        if close or takes_part:
            hint = f": did you mean {prefix}.{close[0]}?" if close else ""
            yield f"unknown label {prefix}.{key}{hint}"
    text = mine.get("enable", "true")
    if text.lower() not in _TRUE | _FALSE:
        yield f"{prefix}.enable: {text!r} is neither true nor false"
    text = mine.get("revive", "true")
    if text.lower() not in _TRUE | _FALSE - {""}:
        yield f"{prefix}.revive: {text!r} is neither true nor false"


def _similar(name: str, known: Collection[str]) -> str:
    close = difflib.get_close_matches(name, known, n=1, cutoff=_CLOSE) if len(name) <= _MAX_SUGGESTION_NAME else []
    return f": did you mean {close[0]!r}?" if close else ""


def by_rules(name: str, labels: Mapping[str, str], rules: Iterable[AttachRule]) -> RequestedAccess | None:
    """Return the access that the first matching rule in `docker.attach` requests for a container.

    Return None if no rule matches the container.
    """
    for rule in rules:
        named = not rule.names or any(fnmatch.fnmatchcase(name, pattern) for pattern in rule.names)
        if named and all(_has(labels, label) for label in rule.labels) and (rule.names or rule.labels):
            return RequestedAccess(rule.networks, rule.backends, rule.aliases, rule.on_stop == "detach")
    return None


def with_grants(request: RequestedAccess, given: GrantedAccess, *, explicit: bool) -> RequestedAccess:
    """Copy a request, and replace its empty lists of backends and aliases with the lists from the grants.

    Args:
        request: The requested access.
        given: The access that the grants allow.
        explicit: Whether the label `enable` is set. If so, an empty list of backends stays empty, and requests all
            backends.
    """
    backends = request.backends or (() if explicit else given.backends)
    return replace(request, backends=backends, aliases=request.aliases or given.aliases)


def only_granted(
    request: RequestedAccess, given: GrantedAccess | None, closed: Collection[str]
) -> tuple[RequestedAccess, list[str]]:
    """Limit a request to the networks, backends and aliases that grants allow.

    Return the limited request, and a message for each network, backend or alias that was removed. If the request
    names no backends, the limited request contains all granted backends. If it names no aliases, the limited request
    contains all granted aliases. Set `refused` in the limited request if no grant matches, or if the grants allow
    none of the requested backends or none of the requested networks.

    Args:
        request: The requested access.
        given: The access that the grants allow; None if no grant matches.
        closed: The configured networks on which none of the granted backends is available.
    """
    if given is None:
        return replace(
            request, refused="no rule in docker.grants matches it, and labels have no effect with gateway.strict"
        ), []
    backends = tuple(name for name in request.backends or given.backends if name in given.backends)
    aliases = tuple(name for name in request.aliases or given.aliases if name in given.aliases)
    problems = [
        f"backend {name} is not granted to it (docker.grants)" for name in request.backends if name not in backends
    ]
    problems += [
        f"alias {name} is not granted to it (docker.grants)" for name in request.aliases if name not in aliases
    ]
    networks = tuple(name for name in request.networks if name not in closed)
    problems += [
        f"no backend on network {name} is granted to it (docker.grants)"
        for name in request.networks
        if name in closed
    ]
    refused = ""
    if not backends:
        refused = "docker.grants allows none of the backends that its labels request"
    elif request.networks and not networks:
        refused = "docker.grants allows no backend that is available on the networks that its labels request"
    # If nothing remains, keep the requested list, because an empty list would request all backends or networks.
    kept = replace(request, backends=backends or request.backends, networks=networks or request.networks)
    return replace(kept, aliases=aliases, refused=refused), problems


def listed(text: str) -> tuple[str, ...]:
    """Return the items of a comma-separated list, without duplicates."""
    return tuple(dict.fromkeys(item.strip() for item in text.split(",") if item.strip()))


def _has(labels: Mapping[str, str], wanted: str) -> bool:
    key, equals, text = wanted.partition("=")
    return key in labels and (not equals or labels[key] == text)
