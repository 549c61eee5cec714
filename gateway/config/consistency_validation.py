"""Checks rules that concern several sections of a configuration, such as two listeners on the same address."""

import contextlib
import ipaddress
from collections.abc import Iterator

from gateway.config import value_parsers
from gateway.config.docker_validation import docker_problems
from gateway.config.model import Config
from gateway.config.ops_validation import ops_problems
from gateway.config.parsed_tree import ParsedMapping, ParsedScalar, ParsedSequence, tables
from gateway.config.schema import known_keys
from gateway.config.via_validation import via_problems
from gateway.config.volume_validation import volume_problems
from gateway.contracts.config_types import HostPort, unix_host_port
from gateway.errors import ConfigProblem


def check_rules(config: Config, root: ParsedMapping, problems: list[ConfigProblem]) -> None:
    """Check the rules that concern several sections, and add a problem for each violation.

    Args:
        config: The valid parts of the configuration.
        root: The parsed configuration, including invalid parts, because a valid part can refer to an invalid part.
        problems: The list to which problems are added.
    """
    problems.extend(via_problems(root))
    _check_listeners(config, root, problems)
    try:
        value_parsers.unix_path(config.ops.admin_socket)
    except ValueError as error:
        problems.append(ConfigProblem(_place(root, "ops", "admin_socket"), "ops.admin_socket", str(error)))
    for key, message in ops_problems(config.ops):
        problems.append(ConfigProblem(_place(root, "ops", *key.split(".")), f"ops.{key}", message))
    _check_tunnels(config, root, problems)
    _check_backends(config, root, problems)
    for name, key, message in volume_problems(config):
        place = _place(root, "backends", name, *key.split("."))
        problems.append(ConfigProblem(place, f"backends.{name}.{key}", message))
    if config.docker is not None:
        for path, message in docker_problems(config, config.docker, {name for name, _ in tables(root, "tunnels")}):
            key = ".".join(("docker", *path))
            written = config.places.get(key) if "[" in path[0] else None
            problems.append(ConfigProblem(written or _place(root, "docker", *path), key, message))


def _check_listeners(config: Config, root: ParsedMapping, problems: list[ConfigProblem]) -> None:
    taken: list[tuple[str, HostPort]] = [
        ("ops.listen", config.ops.listen),
        ("ops.admin_socket", unix_host_port(config.ops.admin_socket)),
    ]
    if config.ops.probe_listen is not None:
        if conflict(config.ops.probe_listen, config.ops.listen):
            message = f"{config.ops.probe_listen} is already used by ops.listen: choose another port"
            problems.append(ConfigProblem(_place(root, "ops", "probe_listen"), "ops.probe_listen", message))
        taken.append(("ops.probe_listen", config.ops.probe_listen))
    for name, table in tables(root, "backends"):
        key = f"backends.{name}.listen"
        for place, listener in _listeners(table):
            other = next((other for other, address in taken if conflict(listener, address)), None)
            if other is not None:
                problems.append(
                    ConfigProblem(place, key, f"{listener} is already used by {other}: choose another address")
                )
            taken.append((key, listener))


def _listeners(table: ParsedMapping) -> Iterator[tuple[str, HostPort]]:
    tree = table.entries.get("listen", ("", ParsedScalar("", None)))[1]
    for each in tree.items if isinstance(tree, ParsedSequence) else [tree]:
        item = each.entries["unix"][1] if isinstance(each, ParsedMapping) and "unix" in each.entries else each
        if isinstance(item, ParsedScalar) and item.text:
            with contextlib.suppress(ValueError):  # the decoder has already reported the invalid value
                yield item.place, value_parsers.listener(item.text)


def _check_tunnels(config: Config, root: ParsedMapping, problems: list[ConfigProblem]) -> None:
    for name, tunnel in config.tunnels.items():
        if tunnel.via and (why := tunnel.kind.refuses_via(tunnel.options)):
            problems.append(ConfigProblem(_place(root, "tunnels", name, "via"), f"tunnels.{name}.via", why))


def _check_backends(config: Config, root: ParsedMapping, problems: list[ConfigProblem]) -> None:
    for name, spec in config.backends.items():
        if not spec.kind.has_roles(spec.check_options) and spec.prefer not in ("any", "order"):
            remedy = "set check.role" if "role" in known_keys(spec.kind.check) else "use any or order"
            message = f"{spec.prefer} needs roles, which {spec.kind.name} does not have: {remedy}"
            problems.append(
                ConfigProblem(_place(root, "backends", name, "prefer"), f"backends.{name}.prefer", message)
            )
        if spec.allow.label is not None and "docker" not in root.entries:
            place = _place(root, "backends", name, "allow")
            message = "needs the `docker` section, which maps addresses to containers: add it"
            problems.append(ConfigProblem(place, f"backends.{name}.allow.label", message))
        if spec.allow.label is not None and config.docker is not None:
            known = f"{config.docker.label_prefix}.backends"
            if spec.allow.label.startswith(f"{config.docker.label_prefix}.") and spec.allow.label != known:
                place = config.places.get(f"backends.{name}.allow.label", spec.place)
                message = f"{spec.allow.label} does not list backends: use {known}, or a label with another prefix"
                problems.append(ConfigProblem(place, f"backends.{name}.allow.label", message))
        for target in spec.targets:
            if not spec.paths(target) and any(_is_own_listener(target, listener) for listener in spec.listen):
                place = _place(root, "backends", name, "targets")
                remedy = "set the address of the server, or change listen"
                message = f"{target} is the listener of this backend: {remedy}"
                problems.append(ConfigProblem(place, f"backends.{name}.targets", message))


def _is_own_listener(target: HostPort, listener: HostPort) -> bool:
    """Return whether a connection to the target would reach the listener, so that the gateway would dial itself."""
    if listener.is_unix or not conflict(target, listener):
        return False
    address = _address(target.host)
    return target.host == listener.host or (
        address is not None and (address.is_loopback or address == _address(listener.host))
    )


def conflict(one: HostPort, other: HostPort) -> bool:
    """Return whether the gateway can bind only one of two listeners. Do not resolve host names."""
    if one.is_unix or other.is_unix:
        return one == other
    if one.port != other.port:
        return False
    hosts = {_address(one.host), _address(other.host)} - {None}
    if one.host == other.host or len(hosts) < 2:
        return one.host == other.host or _address(one.host) == _address(other.host) is not None
    # A wildcard address conflicts only with addresses of its own IP version: the gateway binds `::` for IPv6 only.
    versions = {host.version for host in hosts if host}
    return len(versions) == 1 and any(host.is_unspecified for host in hosts if host)


def _address(host: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address | None:
    with contextlib.suppress(ValueError):  # return None for a host name, because this module resolves no names
        return ipaddress.ip_address("127.0.0.1" if host == "localhost" else host.partition("%")[0])
    return None


def _place(root: ParsedMapping, *keys: str) -> str:
    """Return the file, line and column of the value under `keys`. If a key is absent, return those of its parent."""
    place, table = root.place, root
    for name in keys:
        if name not in table.entries:
            return place
        place, found = table.entries[name]
        if not isinstance(found, ParsedMapping):
            return found.place
        table = found
    return place
