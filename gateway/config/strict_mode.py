"""Finds insecure settings. In strict mode, the gateway refuses all of them. Otherwise, it warns about some.

Does no I/O, except to check the owners and modes of the programs that the gateway runs.

A rule is a function that yields findings; `RULES` lists the rules.
"""

import ipaddress
from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass

from gateway.config.model import Config
from gateway.config.ops_validation import ops_advice, token_advice
from gateway.config.referenced_file_checks import all_secrets, place_of
from gateway.contracts.config_types import IpNetwork
from gateway.errors import ConfigProblem
from gateway.relay.resolver import is_loopback


@dataclass(frozen=True)
class StrictModeViolation:
    """A setting that strict mode refuses because it is insecure.

    Args:
        problem: Where the setting is, and how to fix it.
        advised: Whether the gateway warns about the setting even if strict mode is off.
    """

    problem: ConfigProblem
    advised: bool


StrictFinding = tuple[str, str, bool]
"""An insecure setting: its key, a message with the remedy, and whether the gateway warns about the setting if strict
mode is off."""


def strict_mode_violations(config: Config) -> list[StrictModeViolation]:
    """Return all settings that strict mode refuses.

    Args:
        config: The valid parts of a configuration.
    """
    return [
        StrictModeViolation(ConfigProblem(place_of(config, key), key, message), advised)
        for rule in RULES
        for key, message, advised in rule(config)
    ]


def _insecure_tunnels(config: Config) -> Iterator[StrictFinding]:
    for name, spec in config.tunnels.items():
        plain = not _encrypted(config, spec.via)
        for key, message, advised in spec.kind.insecure_settings(spec.options, plain):
            yield f"tunnels.{name}.{key}", message, advised


def _insecure_backends(config: Config) -> Iterator[StrictFinding]:
    for name, spec in config.backends.items():
        plain = any(
            not is_loopback(target.host) and not _encrypted(config, spec.paths(target)) for target in spec.targets
        )
        for key, message, advised in spec.kind.insecure_settings(spec.options, spec.check_options, plain):
            yield f"backends.{name}.{key}", message, advised


def _open_listeners(config: Config) -> Iterator[StrictFinding]:
    for name, spec in config.backends.items():
        addresses = [address for address in spec.listen if not address.is_unix]
        open_to_all = not spec.allow.networks and spec.allow.label is None
        if open_to_all and (addresses or spec.kind.volume_options(spec.options) is not None):
            message = "is absent, so every client that reaches the listener may connect: list the allowed networks"
            if config.docker is not None:
                message += f", or set {{label: {config.docker.label_prefix}.backends}} to use docker.grants"
            yield f"backends.{name}.allow", message, False
        elif family := _covered_family(spec.allow.networks):
            message = f"covers all addresses of {family}: list the networks that may connect"
            yield f"backends.{name}.allow", message, False


def _covered_family(networks: Sequence[IpNetwork]) -> str | None:
    """Return `IPv4` or `IPv6` if `networks` contain all addresses of this IP version; otherwise, return None."""
    for version, family in ((4, "IPv4"), (6, "IPv6")):
        merged = ipaddress.collapse_addresses(each for each in networks if each.version == version)  # type: ignore[type-var]
        if any(each.prefixlen == 0 for each in merged):
            return family
    return None


def _plain_engine(config: Config) -> Iterator[StrictFinding]:
    docker = config.docker
    if docker is not None and docker.host.startswith("tcp://") and not docker.tls.is_set:
        message = (
            "is an engine without TLS, so every client that reaches it can become root on the engine's host: use tls"
            " with port 2376, a unix:// socket or ssh://TUNNEL/var/run/docker.sock"
        )
        yield "docker.host", message, True


def _inline_secrets(config: Config) -> Iterator[StrictFinding]:
    for key, secret in all_secrets(config):
        if secret.path is None:
            message = f"is a secret in the configuration or the environment: use {key.rpartition('.')[2]}_file"
            yield key, message, False


def _open_ops(config: Config) -> Iterator[StrictFinding]:
    for key, message in ops_advice(config.ops):
        yield f"ops.{key}", message, True
    for key, message in token_advice(config.fleet, config.traces):
        yield key, message, True


RULES: tuple[Callable[[Config], Iterator[StrictFinding]], ...] = (
    _insecure_tunnels,
    _insecure_backends,
    _open_listeners,
    _plain_engine,
    _inline_secrets,
    _open_ops,
)


def _encrypted(config: Config, via: Collection[str], inside: frozenset[str] = frozenset()) -> bool:
    """Return whether traffic is encrypted in every tunnel in `via`. Return False for a direct connection.

    Traffic through a tunnel is encrypted if the tunnel encrypts it, or if the tunnel runs inside encrypted tunnels.

    Args:
        config: The valid parts of a configuration. Its tunnels can form a loop.
        via: The names of the tunnels that can carry the traffic; empty for a direct connection.
        inside: The names of the tunnels whose `via` led to this recursive call, to detect a loop.
    """
    known = [config.tunnels[name] for name in via if name in config.tunnels and name not in inside]
    return len(known) == len(via) > 0 and all(
        spec.kind.encrypts or _encrypted(config, spec.via, inside | {spec.name}) for spec in known
    )
