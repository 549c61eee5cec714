"""Warns about settings that are valid but insecure, deprecated or probably unintended."""

from collections.abc import Iterable, Iterator

from gateway.backend_support.login_options import LoginCheckOptions
from gateway.config.deprecated_keys import deprecation_warnings
from gateway.config.model import Config
from gateway.config.strict_mode import strict_mode_violations
from gateway.docker.peers.tls_contexts import NOT_SUPPORTED, SUPPORTED
from gateway.relay.resolver import is_address


def setting_warnings(config: Config) -> list[str]:
    """Return warnings about a configuration. Each warning names the key and the remedy."""
    weak = [f"{each.problem.key}: {each.problem.message}" for each in strict_mode_violations(config) if each.advised]
    return [
        *deprecation_warnings(config),
        *weak,
        *_specific_to_kinds(config),
        *_resolvers(config),
        *_grants_without_label(config),
        *_peers(config),
        *_ineffective_settings(config),
    ]


def _peers(config: Config) -> Iterator[str]:
    if config.docker is not None and config.docker.peers is not None and not SUPPORTED:
        yield f"docker.peers: {NOT_SUPPORTED}"


def _resolvers(config: Config) -> Iterator[str]:
    """Yield a warning for each host name that the gateway resolves through tunnels of different kinds.

    Each kind of tunnel uses different name servers, so the same name can resolve to different hosts.
    """
    for name, spec in config.backends.items():
        for at, target in enumerate(spec.targets):
            key = f"backends.{name}.targets[{at}].via" if target in spec.own_paths else f"backends.{name}.via"
            yield from _several_resolvers(config, key, spec.paths(target), target.host)
    for name, servers in config.servers.items():
        for host in dict.fromkeys(server.host for server in servers):
            yield from _several_resolvers(config, f"tunnels.{name}.via", config.tunnels[name].via, host)


def _several_resolvers(config: Config, key: str, via: Iterable[str], host: str) -> Iterator[str]:
    kinds = {config.tunnels[name].kind.name: name for name in via}
    if len(kinds) > 1 and not is_address(host):
        names = " and ".join(f"{name} ({kind})" for kind, name in kinds.items())
        yield (
            f"{_at(config, key)}: {names} resolve {host} with different name servers, so the name can lead to"
            " different hosts: use an IP address instead of the name"
        )


def _ineffective_settings(config: Config) -> Iterator[str]:
    """Yield a warning for each `prefer_way` that has no effect, and for each `check.user` without a password."""
    for name, spec in config.backends.items():
        key = f"backends.{name}"
        if spec.prefer_way != "order" and not spec.has_several_paths:
            yield (
                f"{_at(config, f'{key}.prefer_way')}: has no effect, because the backend has only one path: list"
                " several tunnels in via, or remove prefer_way"
            )
        check = spec.check_options
        if isinstance(check, LoginCheckOptions) and check.user and not check.has_password:
            yield (
                f"{_at(config, f'{key}.check.user')}: has no password, so the check logs in without one: if the"
                " server requires a password, set check.password_file or check.password_command"
            )


def _at(config: Config, key: str) -> str:
    """Return the prefix of a warning about a key: the place in the configuration, if known, and the key."""
    return ": ".join(filter(None, (config.places.get(key), key)))


def _grants_without_label(config: Config) -> Iterator[str]:
    """In strict mode, yield a warning for each backend in `docker.grants` that has no `allow.label`.

    Without the label, the grants have no effect on the backend.
    """
    if config.docker is None or not config.gateway.strict:
        return
    granted = {name for grant in config.docker.grants for name in grant.backends}
    for name, spec in config.backends.items():
        if name in granted and spec.allow.label is None:
            yield (
                f"backends.{name}.allow: docker.grants have no effect on this backend, because it requires no label:"
                f" set {{label: {config.docker.label_prefix}.backends}}"
            )


def _specific_to_kinds(config: Config) -> Iterator[str]:
    """Yield the warnings that the modules of the configured tunnel kinds and backend kinds define."""
    for name, tunnel in config.tunnels.items():
        for warning in tunnel.kind.advice(tunnel.options):
            key, _, message = warning.partition(": ")
            yield f"{_at(config, f'tunnels.{name}.{key}')}: {message}"
    kinds = {spec.kind.name: spec.kind for spec in config.backends.values()}
    for name, kind in kinds.items():
        yield from kind.advice([spec for spec in config.backends.values() if spec.kind.name == name])
