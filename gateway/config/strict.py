"""Insecure settings: strict mode refuses it, and some of it is advised against in any case. Pure.

A rule is a function that yields what it finds in a configuration; `RULES` lists them.
"""

import ipaddress
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import cast

from gateway.backends.common.tls import TlsOptions
from gateway.config.files import all_secrets, place_of
from gateway.config.model import BackendSpec, Config
from gateway.config.ops_rules import is_here, ops_advice
from gateway.config.values import Network
from gateway.errors import Problem

_ALGORITHMS = ("kex", "ciphers", "macs", "host_key_algorithms")
_ENCRYPTED = {"ssh", "openvpn", "wireguard"}
"""The kinds of tunnel that encrypt what goes through them."""


@dataclass(frozen=True)
class Weakness:
    """One weak setting.

    Args:
        problem: Its place, its key, and what to write instead.
        advised: Whether it is worth a warning without strict mode.
    """

    problem: Problem
    advised: bool


Found = tuple[str, str, bool]
"""The key, what is wrong and what to do instead, and whether it is worth a warning without strict mode."""


def weaknesses(config: Config) -> list[Weakness]:
    """Everything that strict mode refuses.

    Args:
        config: A configuration that is valid otherwise, or the parts of one that are.
    """
    return [
        Weakness(Problem(place_of(config, key), key, message), advised)
        for rule in RULES
        for key, message, advised in rule(config)
    ]


def _host_keys(config: Config) -> Iterator[Found]:
    for name, spec in config.tunnels.items():
        if getattr(spec.options, "insecure_host_key", False):
            message = "is on: whoever is on the path can read and change everything: use known_hosts or host_keys"
            yield f"tunnels.{name}.insecure_host_key", message, True


def _plain_logins(config: Config) -> Iterator[Found]:
    for name, spec in config.backends.items():
        tls = getattr(spec.check_options, "tls", None)
        if not isinstance(tls, TlsOptions) or not _has_password(spec):
            continue
        key = f"backends.{name}.check.tls.mode"
        if tls.mode == "off":
            exposed = not _encrypted(config, spec.via) and not all(is_here(target.host) for target in spec.targets)
            message = "is off, so the check logs in with its password on an unencrypted connection: use mode: verify"
            yield key, message, exposed
        elif tls.mode == "require":
            yield key, "is require, which logs in to whoever answers: use mode: verify, with ca_file", False


def _has_password(spec: BackendSpec) -> bool:
    check = spec.check_options
    return bool(getattr(check, "password", None) or getattr(check, "password_command", ()))


def _open_listeners(config: Config) -> Iterator[Found]:
    for name, spec in config.backends.items():
        addresses = [address for address in spec.listen if not isinstance(address, Path)]
        open_to_all = not spec.allow.networks and spec.allow.label is None
        if open_to_all and (addresses or getattr(spec.options, "volume", None) is not None):
            message = "is absent, so that whoever reaches the listener may connect: list the networks that may"
            if config.docker is not None:
                message += f", or write {{label: {config.docker.label_prefix}.backends}} for docker.grants"
            yield f"backends.{name}.allow", message, False
        elif every := _every(spec.allow.networks):
            message = f"holds every address of {every}: list the networks that may connect"
            yield f"backends.{name}.allow", message, False


def _every(networks: Sequence[Network]) -> str | None:
    """The family of which `networks` hold every address together; None: there is none."""
    for version, family in ((4, "IPv4"), (6, "IPv6")):
        ours = ipaddress.collapse_addresses(each for each in networks if each.version == version)  # type: ignore[type-var]
        if any(each.prefixlen == 0 for each in ours):
            return family
    return None


def _weak_algorithms(config: Config) -> Iterator[Found]:
    for name, spec in config.tunnels.items():
        if spec.kind.name != "ssh":
            continue
        for field in fields(spec.options):
            if field.name not in _ALGORITHMS:
                continue
            weak = [
                each for each in getattr(spec.options, field.name) if each not in cast("tuple[str]", field.default)
            ]
            if weak:
                message = (
                    f"lists {', '.join(weak)}, which is not among the defaults: update the server, and leave it out"
                )
                yield f"tunnels.{name}.{field.name}", message, False


def _plain_engine(config: Config) -> Iterator[Found]:
    docker = config.docker
    if docker is not None and docker.host.startswith("tcp://") and not docker.tls.any:
        message = (
            "is an engine without TLS, and whoever reaches it is root on its host: use tls with port 2376,"
            " a unix:// socket or ssh://TUNNEL/var/run/docker.sock"
        )
        yield "docker.host", message, True


def _plain_proxies(config: Config) -> Iterator[Found]:
    for name, spec in config.tunnels.items():
        options = spec.options
        if spec.kind.name != "proxy" or options.tls or is_here(options.endpoint.host):
            continue
        if _encrypted(config, spec.via):
            continue
        login = options.password is not None
        what = "its login and everything that it carries" if login else "everything that it carries"
        message = f"is a proxy without encryption: {what} can be read on the way: use https://, or via an SSH tunnel"
        yield f"tunnels.{name}.url", message, login


def _inline_secrets(config: Config) -> Iterator[Found]:
    for key, secret in all_secrets(config):
        if secret.path is None:
            message = f"stands in the configuration or the environment: use {key.rpartition('.')[2]}_file"
            yield key, message, False


def _open_ops(config: Config) -> Iterator[Found]:
    for key, sentence in ops_advice(config.ops):
        yield f"ops.{key}", sentence, True


RULES: tuple[Callable[[Config], Iterator[Found]], ...] = (
    _host_keys,
    _plain_logins,
    _open_listeners,
    _weak_algorithms,
    _plain_engine,
    _plain_proxies,
    _inline_secrets,
    _open_ops,
)


def _encrypted(config: Config, via: str | None) -> bool:
    """Whether a connection through the tunnel `via` is encrypted for a part of the way at least."""
    seen: set[str] = set()
    while via is not None and via not in seen and via in config.tunnels:
        seen.add(via)
        if config.tunnels[via].kind.name in _ENCRYPTED:
            return True
        via = config.tunnels[via].via
    return False
