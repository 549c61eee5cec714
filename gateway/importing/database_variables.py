"""Finds database addresses in the environment variables of applications."""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any
from urllib.parse import unquote, urlsplit

from gateway.backends import KINDS, BackendKind, kind_of_port
from gateway.importing.application_tunnel import own_tunnel
from gateway.importing.import_result import ImportResult, checks_login, has_check_key, is_host
from gateway.importing.model import LOOPBACK, ImportedClient, ImportedContainer
from gateway.importing.ssh_forward import port_number

_HOST = re.compile(r"(?P<prefix>\w*?)_?(?:HOST|HOSTNAME|SERVER|ADDRESS)")
_DATABASE = re.compile(
    r"(?i)(^|_)(db|database|datasource|sql|pg|mysql|mariadb|postgres(ql)?|redis|mongo(db)?)\d?($|_)"
)
_SSH = re.compile(r"(?i)^(ssh|bastion|jump|tunnel)|(^|_)ssh(_|$)")
_URL = re.compile(r"(?:jdbc:)?(?P<scheme>[a-z][a-z0-9+]*)://")
_WORDS = {"pgsql": "postgres", "pg": "postgres", "psycopg": "postgres", "psycopg2": "postgres", "mysqli": "mysql",
          "asyncpg": "postgres", "pymysql": "mysql", "mysql2": "mysql"}  # fmt: skip
"""The kind of database for each driver name."""
_TLS = re.compile(r"(?i)\b(?:(?:pg)?sslmode|ssl-mode|mode|ssl|usessl|tls)=(require\w*|verify[\w-]*|true|1)\b")
"""URL parameters that request TLS."""
_TLS_SCHEMES = ("rediss",)
"""URL schemes that request TLS."""
_OTHER_PORTS = {"mongodb": 27017, "amqp": 5672}
"""Default ports of services for which the gateway has no backend kind."""
_WITHOUT_PROTOCOL = ("tcp", "http")
"""Kinds that are ignored in the names of variables, because words such as `HTTP_HOST` do not show the protocol."""


@dataclass(frozen=True)
class _DatabaseAddress:
    """The address of a database, as environment variables describe it.

    Args:
        variables: The variables that contain the address: host and port, or a URL.
        prefix: The common prefix of these variables' names, such as `DB`.
        host: The host.
        port: The port; 0 if it is not known.
        words: Words, separated by spaces, that can contain the name of a database kind or of a driver.
        user: The user; empty if it is not known.
        password: The name of the variable with the password; empty if there is none.
        database: The database; empty if it is not known.
        parts: All variables that describe the database or the login.
        tls: The URL parameter that requests TLS; empty if there is none.
        more: Additional hosts, each with or without a port.
    """

    variables: tuple[str, ...]
    prefix: str
    host: str
    port: int
    words: str
    user: str = ""
    password: str = ""
    database: str = ""
    parts: tuple[str, ...] = ()
    tls: str = ""
    more: tuple[str, ...] = ()


def find_clients(container: ImportedContainer, result: ImportResult) -> list[ImportedClient]:
    """Return a client for each remote service whose address is in the variables of a container.

    Args:
        container: The container.
        result: Receives notes, and a tunnel if the application opens one itself.
    """
    found = [*_by_host(container.environment), *_by_url(container.environment)]
    via = own_tunnel(container, found[0].host, found[0].variables[0], result) if found else None
    clients = []
    for address in found:
        kind, port, note = _kind(address)
        keys = _check(address, kind, container)
        optional = not _DATABASE.search(address.prefix) and not note and not keys and kind == "tcp"
        where = f"{container.where}: {address.variables[0]}"
        name = address.host if address.host not in LOOPBACK else address.database or f"{kind}-{port}"
        clients.append(
            ImportedClient(
                where, name, kind, address.host, port, keys, via, container,
                address.parts, address.variables, optional=optional,
                more=tuple(each if ":" in each else f"{each}:{port}" for each in address.more),
                notes=tuple(filter(None, [note, _password_note(address, keys), _tls_note(address)])),
            )
        )  # fmt: skip
    return clients


def _by_host(environment: dict[str, str]) -> Iterator[_DatabaseAddress]:
    for name, value in environment.items():
        match = _HOST.fullmatch(name) or re.fullmatch(r"(?P<prefix>PG)HOST", name)
        if match is None or not value or "/" in value or _SSH.search(name):
            continue
        prefix = match["prefix"]

        def first(*ends: str, prefix: str = prefix) -> str:
            """Return the name of the first variable that is set, from names with this prefix and each suffix."""
            names = (f"{prefix}{'_' if prefix and prefix != 'PG' else ''}{end}" for end in ends)
            return next((each for each in names if environment.get(each)), "")

        port_name = first("PORT", "PORT_NUMBER")
        value, *more = value.split(",")  # noqa: PLW2901 - `value` keeps only the first host
        host, _, port = value.partition(":") if re.fullmatch(r"[^:]+:\d+", value) else (value, "", "")
        port = port or environment.get(port_name, "")
        if not is_host(host) or not (_DATABASE.search(prefix) or port.isdecimal()):
            continue
        user, password = first("USER", "USERNAME"), first("PASSWORD", "PASS", "PASSWD", "PASSWORD_FILE")
        database = first("NAME", "DATABASE", "DBNAME", "DB")
        tls = first("SSLMODE", "SSL_MODE", "SSL", "TLS")
        engine = first("CONNECTION", "TYPE", "DRIVER", "ENGINE", "CLIENT", "DIALECT", "VENDOR")
        yield _DatabaseAddress(
            (name, port_name) if port_name else (name,), prefix, host, port_number(port) if port.isdecimal() else 0,
            f"{environment.get(engine, '')} {prefix}", environment.get(user, ""), password,
            environment.get(database, ""),
            tuple(filter(None, (name, port_name, user, password, database, engine, tls))),
            _requested_tls(f"{tls.rpartition('_')[2]}={environment.get(tls, '')}"), tuple(more),
        )  # fmt: skip


def _by_url(environment: dict[str, str]) -> Iterator[_DatabaseAddress]:
    for name, value in environment.items():
        match = _URL.match(value)
        if match is None or not re.search(r"(?i)(url|uri|dsn)$", name):
            continue
        scheme = match["scheme"].partition("+")[0]
        known = scheme in _WORDS or scheme in _OTHER_PORTS or _kind_of_word(scheme) is not None
        if not known or scheme in ("http", "https"):
            continue
        address = value.removeprefix("jdbc:")
        try:
            parts = urlsplit(address)
            host, port = parts.hostname or "", parts.port or _OTHER_PORTS.get(scheme, 0)
        except ValueError:
            continue
        if not is_host(host):
            continue
        prefix = re.sub(r"(?i)_?(url|uri|dsn)$", "", name)
        inline = parts.password is not None
        user = next((each for each in (f"{prefix}_USERNAME", f"{prefix}_USER") if environment.get(each)), "")
        password = name if inline else f"{prefix}_PASSWORD" if environment.get(f"{prefix}_PASSWORD") else ""
        login = unquote(parts.username or "") or environment.get(user, "")
        yield _DatabaseAddress(
            (name,), prefix, host, port, scheme, login, password, unquote(parts.path.strip("/")),
            tuple(filter(None, dict.fromkeys((name, user, password)))),
            scheme if scheme in _TLS_SCHEMES else _requested_tls(parts.query),
        )  # fmt: skip


def _requested_tls(text: str) -> str:
    match = _TLS.search(text)
    return match[0] if match else ""


def _kind_of_word(word: str) -> BackendKind | None:
    word = _WORDS.get(word, word)
    return next((kind for kind in KINDS.values() if word in (kind.name, *kind.aliases, *kind.schemes)), None)


def _kind(address: _DatabaseAddress) -> tuple[str, int, str]:
    """Return the kind and port of a database, and a note; the note is empty unless the kind and port are a guess."""
    words = re.findall(r"[a-z0-9]+", address.words.lower())
    found = filter(None, map(_kind_of_word, words))
    kind = next((each for each in found if each.name not in _WITHOUT_PROTOCOL), None)
    if address.port:
        return (kind or kind_of_port(address.port)).name, address.port, ""
    if kind is not None and kind.default_port:
        return kind.name, kind.default_port, ""
    other = next((_OTHER_PORTS[word] for word in words if word in _OTHER_PORTS), 0)
    if other:
        return "tcp", other, ""
    return (
        "mysql",
        KINDS["mysql"].default_port,
        "the variables contain no port; if this is not MySQL, set kind and port",
    )


def _check(address: _DatabaseAddress, kind: str, container: ImportedContainer) -> dict[str, Any]:
    if kind != "tcp" and not checks_login(kind):
        return {}  # for kind tcp, keep the login, because a forward can still change the kind
    if not address.user and not (address.password and KINDS[kind].imports.password_without_user):
        return {}
    check: dict[str, Any] = {"user": address.user} if address.user else {}
    if address.password:
        check["password_file"] = "PASSWORD_FILE"  # noqa: S105 - a placeholder, replaced when the backend has a name
    if address.password.endswith("_FILE"):
        path = container.environment[address.password]
        check["password_file"] = container.host_path(path) or path
    if address.database and (kind == "tcp" or has_check_key(kind, "database")):
        check["database"] = address.database
    if address.tls:
        check["tls"] = {"mode": "require"}
    return {"check": check}


def _tls_note(address: _DatabaseAddress) -> str:
    if "verify" not in address.tls.lower():
        return ""
    return (
        f"{address.tls}: the client verifies the server's name, but it now connects to the name of the backend;"
        " verify only the certificate authority, for example with sslmode=verify-ca"
    )


def _password_note(address: _DatabaseAddress, keys: dict[str, Any]) -> str:
    if keys.get("check", {}).get("password_file") != "PASSWORD_FILE":
        return ""
    value = "the password in" if address.password == address.variables[0] else "the value of"
    return f"write {value} {address.password} to PASSWORD_FILE"
