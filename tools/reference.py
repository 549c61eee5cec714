"""Writes docs/reference.md from the code: keys, commands, endpoints, metrics, states, reasons.

Usage: python tools/reference.py          writes the file
       python tools/reference.py --check  fails if the file is out of date
"""

import dataclasses
import functools
import inspect
import operator
import re
import sys
import types
import typing
from collections.abc import Iterable, Iterator
from itertools import chain
from pathlib import Path
from typing import Any, get_args, get_origin

import click

sys.path.insert(0, str(Path(__file__).parents[1]))

from gateway import backends, tunnels
from gateway.cli import cli
from gateway.config.environment_variables import OTHER_VARIABLES, setting_names, variable_of
from gateway.config.model import (
    AllowRules,
    CommonBackendOptions,
    CommonCheckOptions,
    CommonTunnelOptions,
    TargetOptions,
    UnixListener,
)
from gateway.config.schema import type_hints
from gateway.config.sections import SECTIONS
from gateway.config.value_parsers import LogTarget, ThreadCount
from gateway.contracts.config_types import Duration, HostPort, IpAddress, IpNetwork, ListenAddress, Size
from gateway.contracts.secret import Secret
from gateway.contracts.states import HealthState, TunnelState
from gateway.contracts.tls_server_files import TlsServerFiles
from gateway.docker.attachment_obstacle import AttachmentObstacle
from gateway.docker.options import AttachRule, DockerOptions, Grant, NetworkOptions, SwarmPeerOptions
from gateway.docker.plan import ActionKind, AttachmentState
from gateway.errors import FailureReason
from gateway.fleet.member_addresses import MemberAddress
from gateway.forwarding.admission import RefusalReason
from gateway.metric_types import Histogram
from gateway.ops.authorization import AccessRole
from gateway.ops.http_get_handlers import ROLES
from gateway.ops.kind_specific_metrics import fact_families
from gateway.ops.metrics import families
from gateway.ops.server import OpsServer
from gateway.ops.status_views import ServiceView
from gateway.tls_client_context import TlsClientFiles

TARGET = Path(__file__).parents[1] / "docs" / "reference.md"
_NEEDS = {
    AccessRole.PROBES: "nothing",
    AccessRole.METRICS: "the token of `token_file` or `metrics_token_file`, or a client certificate",
    AccessRole.EVERYTHING: "the token of `token_file`, or a client certificate",
}
_NAMES = {
    str: "text", int: "number", bool: "true or false", Duration: "duration", Size: "size", Path: "path",
    Secret: "secret", HostPort: "host:port", ListenAddress: "host:port or path", IpNetwork: "network",
    IpAddress: "IP address", MemberAddress: "address of a gateway", LogTarget: "path, `stdout` or `stderr`",
    ThreadCount: "number or `auto`",
}  # fmt: skip

_DEFAULTS = {
    "instance": "the hostname",
    "state_dir": "`/var/lib/gateway`",
    "admin_socket": "`/run/gateway/admin.sock`",
}
"""Defaults that depend on the host or the user."""
_OPTIONS_HEAD = ("| option | default | |", "| --- | --- | --- |")


def text() -> str:
    """Return the text of docs/reference.md."""
    return (
        "\n".join([*_head(), *_configuration(), *_commands(), *_http(), *_metrics(), *_states_and_reasons()]) + "\n"
    )


def _head() -> Iterator[str]:
    yield "# Reference"
    yield ""
    yield "`tools/reference.py` generates this page from the code. A test fails if this page is out of date."


def _configuration() -> Iterator[str]:
    yield from ("", "## Configuration", "")
    yield "Write durations as `500ms`, `10s`, `5m` or `1h`, and sizes as `64KiB` or `15MiB`. Instead of a list with"
    yield "one item, you can write only the item. Instead of a key `x` with a secret, you can set `x_file` to the"
    yield "path of a file with the secret: the gateway reads this file each time that it uses the secret."
    yield "`${NAME}` and `${NAME:-default}` expand environment variables in the file, and in the URLs of"
    yield "`GATEWAY_TUNNEL_…` and `GATEWAY_BACKEND_…`; write `$$` for a dollar sign. An empty variable that sets a"
    yield "key, such as `GATEWAY_OPS_LISTEN`, counts as not set."
    yield ""
    yield "In a URL, every key is a query parameter, with dots for nested keys (`check.tls.mode=verify`). Separate"
    yield "the items of a list with commas, or repeat the parameter. Percent-encode values (RFC 3986): `%23` for `#`,"
    yield "`%26` for `&`, `%25` for `%`, `%2C` for a comma within a value. A plus sign is not a space."
    yield "`GATEWAY_TUNNEL_MY_VPN` and `GATEWAY_BACKEND_MY_DB` configure the tunnel `my-vpn` and the backend `my-db`."
    for name, cls in SECTIONS.items():
        yield from _table(f"`{name}`", cls)
    yield from _table("`ops.tls`", TlsServerFiles)
    yield from _table("`tunnels.NAME`, every kind", CommonTunnelOptions)
    for name, tunnel in sorted(tunnels.KINDS.items()):
        yield from _table(f"`tunnels.NAME`, kind `{name}`", tunnel.options)
    yield from _nested_tables((kind.name, "", kind.options) for kind in tunnels.KINDS.values())
    yield from _table("`backends.NAME`, every kind", CommonBackendOptions)
    ports = {name: kind.default_port for name, kind in sorted(backends.KINDS.items()) if kind.default_port}
    yield ""
    yield f"Default ports of targets: {', '.join(f'{port} (`{name}`)' for name, port in ports.items())}."
    yield "Targets of other kinds need a port."
    yield ""
    holds = {name: kind.hold for name, kind in sorted(backends.KINDS.items())}
    yield f"Defaults of `hold`: {', '.join(f'{_written(hold)} (`{name}`)' for name, hold in holds.items())}."
    yield from _table("`backends.NAME.check`, every kind", CommonCheckOptions)
    for name, backend in sorted(backends.KINDS.items()):
        for title, cls in ((f"kind `{name}`", backend.options), (f"kind `{name}`, `check`", backend.check)):
            if dataclasses.fields(cls):
                yield from _table(f"`backends.NAME`, {title}", cls)
    yield from _nested_tables(
        (kind.name, prefix, cls)
        for kind in backends.KINDS.values()
        for prefix, cls in (("", kind.options), ("check.", kind.check))
    )
    yield from _table("`docker`", DockerOptions)
    yield from _table("`docker.networks.NAME`", NetworkOptions)
    yield from _table("`docker.attach`, each rule", AttachRule)
    yield from _table("`docker.grants`, each grant", Grant)
    yield from _table("`docker.peers`", SwarmPeerOptions)
    yield from _table("`fleet.tls`, `docker.tls`", TlsClientFiles)
    yield from _table("`allow`", AllowRules)
    yield from _table("`targets`, a target as a mapping", TargetOptions)
    yield from _table("`listen`, a unix socket as a mapping", UnixListener)
    yield from _variables()


def _variables() -> Iterator[str]:
    yield from ("", "### Environment variables", "")
    yield "If the name of a variable starts with `GATEWAY_` but is not in the following table, commands that read a"
    yield "configuration report an error, unless the configuration mentions the variable, or Kubernetes sets it for a"
    yield "Service. Commands that connect to a service report no error. They warn if the name is probably a"
    yield "misspelled name of a variable that selects the service, such as `GATEWAY_OPS_ADMIN_SOCKET`. Flags override"
    yield "variables, and variables override the configuration file."
    yield from ("", "| variable | |", "| --- | --- |")
    yield "| `GATEWAY_TUNNEL_NAME`, `GATEWAY_BACKEND_NAME` | The URL of a tunnel or backend. |"
    for name, path in setting_names().items():
        yield f"| `{variable_of(name)}` | The key `{'.'.join(path)}`. |"
    for name, text in OTHER_VARIABLES.items():
        yield f"| `{name}` | {text} |"


def _nested_tables(options: Iterable[tuple[str, str, type]]) -> Iterator[str]:
    """Yield a table for each class of options to which a key of another class refers.

    Args:
        options: For each kind: its name, the path of its keys with a dot at the end, and the class of its options.
    """
    found: dict[type, dict[str, list[str]]] = {}
    rest = list(options)
    while rest:
        kind, prefix, cls = rest.pop(0)
        for key, hint in type_hints(cls).items():
            for inner in filter(dataclasses.is_dataclass, _classes(hint)):
                found.setdefault(inner, {}).setdefault(f"{prefix}{key}", []).append(kind)
                rest.append((kind, f"{prefix}{key}.", inner))
    for cls, kinds_of in found.items():
        named = (
            f"`{path}` ({'kinds' if kinds[1:] else 'kind'} {', '.join(f'`{each}`' for each in sorted(kinds))})"
            for path, kinds in kinds_of.items()
        )
        yield from _table(", ".join(named), cls)


def _classes(hint: Any) -> Iterator[type]:
    """Yield the classes in a type hint, such as those in `tuple[A, ...] | None`."""
    if isinstance(hint, type):
        yield hint
    for inner in get_args(hint):
        yield from _classes(inner)


def _table(title: str, cls: type) -> Iterator[str]:
    yield from ("", f"### {title}", "", "| key | type | default | |", "| --- | --- | --- | --- |")
    hints = type_hints(cls)
    descriptions = _arguments(cls)
    for field in dataclasses.fields(cls):
        yield f"| `{field.name}` | {_type(hints[field.name])} | {_default(field)} | {descriptions[field.name]} |"


def _arguments(cls: type) -> dict[str, str]:
    """Return the description of each field from `Args:` in the docstring of the class and of its base classes."""
    found: dict[str, str] = {}
    for each in reversed(cls.__mro__[:-1]):
        name = ""
        for line in inspect.cleandoc(each.__doc__ or "").partition("Args:")[2].splitlines():
            match = re.match(r" {4}(\w+): (.*)", line)
            if match:
                name, found[match[1]] = match[1], match[2]
            elif line.strip() and name:
                found[name] += " " + line.strip()
    return {key: value.replace("|", "\\|") for key, value in found.items()}


def _type(hint: Any) -> str:
    if hint in _NAMES:
        return _NAMES[hint]
    origin, arguments = get_origin(hint), get_args(hint)
    if origin is typing.Literal:
        return ", ".join(f"`{each}`" for each in arguments)
    if origin is tuple:
        return f"list of {_type(arguments[0])}"
    if origin in (types.UnionType, typing.Union):
        present = [each for each in arguments if each is not type(None)]
        whole = functools.reduce(operator.or_, present)
        return _NAMES[whole] if whole in _NAMES else " or ".join(_type(each) for each in present)
    return "mapping"


def _default(field: "dataclasses.Field[Any]") -> str:
    if field.name in _DEFAULTS:
        return _DEFAULTS[field.name]
    if field.default is not dataclasses.MISSING:
        value = field.default
    elif field.default_factory is not dataclasses.MISSING:
        value = field.default_factory()
    else:
        return "required"
    if value is None or value in ((), {}):
        return ""
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        inner = (f"{each.name}: {_written(getattr(value, each.name))}" for each in dataclasses.fields(value))
        return "`{" + ", ".join(each for each in inner if not each.endswith(": ")) + "}`"
    return f"`{_written(value)}`"


def _written(value: Any) -> str:
    if value is None:
        return ""
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, float):
        return f"{value:g}s"
    if isinstance(value, tuple) and not isinstance(value, HostPort):
        return ", ".join(str(each) for each in value)
    return str(value)


def _commands() -> Iterator[str]:
    yield from ("", "## Commands", "")
    yield "Exit codes: 0 success, 1 failure, 2 invalid arguments or configuration, 3 the service does not respond."
    leaves = sorted(_leaves(cli, "gateway"))
    shared = _rows(*next(leaf for leaf in leaves if leaf[0] == "gateway run"))
    yield from ("", "### Options for the configuration", "")
    yield "Commands that read a configuration have these options. Each option sets the key with the same name."
    yield from ("", *_OPTIONS_HEAD, *shared)
    for name, command in leaves:
        usage = " ".join(command.collect_usage_pieces(click.Context(command, info_name=name)))
        yield from ("", f"### `{name} {usage}`", "", (command.help or "").strip())
        rows = _rows(name, command)
        if set(shared) <= set(rows):
            yield from ("", "Also has the [options for the configuration](#options-for-the-configuration).")
            rows = [row for row in rows if row not in shared]
        if rows:
            yield from ("", *_OPTIONS_HEAD, *rows)


def _rows(name: str, command: click.Command) -> list[str]:
    """Return a row of a table for each option of a command."""
    context = click.Context(command, info_name=name)
    rows = []
    for parameter in command.params:
        if isinstance(parameter, click.Option):
            flags = ", ".join(f"`{flag}`" for flag in parameter.opts)
            value = f" {parameter.make_metavar(context)}" if not parameter.is_flag else ""
            shown = parameter.default if isinstance(parameter.default, str) else ""
            rows.append(f"| {flags}{value.replace('|', ', ')} | {shown} | {parameter.help} |")
    return rows


def _leaves(command: click.Command, name: str) -> Iterator[tuple[str, click.Command]]:
    if not isinstance(command, click.Group):
        yield name, command
        return
    context = click.Context(command)
    for inner in command.list_commands(context):
        found = command.get_command(context, inner)
        if found is not None:
            yield from _leaves(found, f"{name} {inner}")


def _http() -> Iterator[str]:
    yield from ("", "## HTTP", "")
    yield "GET requests work on `ops.listen` and `ops.admin_socket`. POST requests work only on `ops.admin_socket`."
    yield "The last column shows what each request requires if authentication is configured: [ops.md](ops.md)."
    yield from ("", "| method | path | needs |", "| --- | --- | --- |")
    for method, path in OpsServer.paths():
        needs = _NEEDS[ROLES[path]] if method == "GET" else "the admin socket"
        yield f"| {method} | `{path}` | {needs} |"


def _metrics() -> Iterator[str]:
    yield from ("", "## Metrics", "", "| name | type | labels | |", "| --- | --- | --- | --- |")
    facts = chain(
        fact_families((fact for _, kind in sorted(tunnels.KINDS.items()) for fact in kind.facts), "tunnel").values(),
        fact_families(
            (fact for _, kind in sorted(backends.KINDS.items()) for fact in kind.facts), "backend", "target"
        ).values(),
    )
    for family in (*families(_EMPTY), *facts):
        suffix = "_total" if family.type == "counter" else ""
        labels = ", ".join(f"`{label}`" for label in getattr(family, "_labelnames", ()))
        yield f"| `{family.name}{suffix}` | {family.type} | {labels} | {family.documentation} |"


_EMPTY = ServiceView(
    version="", python_version="", instance="", started_at=0, startup_done=True, draining=False,
    reload_successful=True, reload_success_at=0, reload_error="", tunnels=[], backends=[], loop_lag=Histogram(),
)  # fmt: skip


def _states_and_reasons() -> Iterator[str]:
    yield from ("", "## States and reasons", "")
    yield f"States of a backend or a target: {_list(HealthState)}."
    yield ""
    yield f"States of a tunnel: {_list(TunnelState)}."
    yield "`quarantined`: waiting does not fix the tunnel's error (host key, login), so the gateway rarely retries."
    yield ""
    yield f"Reasons: {_list(FailureReason)}. The reason of a `blocked` backend or target is always `tunnel`."
    yield ""
    yield f"Reasons for which clients are rejected: {_list(RefusalReason)}, and the reasons above."
    yield ""
    yield f"States of an attachment: {_list(AttachmentState)}. Reasons for `blocked`: {_list(AttachmentObstacle)}."
    yield ""
    yield f"Actions in Docker: {_list(ActionKind)}."


def _list(values: Any) -> str:
    return ", ".join(f"`{value}`" for value in values)


if __name__ == "__main__":
    if "--check" in sys.argv:
        same = TARGET.read_text() == text()
        sys.exit(None if same else "docs/reference.md is out of date: run tools/reference.py")
    TARGET.write_text(text())
