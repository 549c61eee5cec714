"""Recognizes database addresses in the environment variables of applications."""

import re
from collections.abc import Iterator
from typing import Any

from gateway.backends import KINDS
from gateway.errors import UsageError
from gateway.importing.applications_with_ssh_tunnels import import_application_tunnel
from gateway.importing.database_address import DATABASE_NAME, OTHER_PORTS, DatabaseAddress, requested_tls
from gateway.importing.database_urls import find_urls
from gateway.importing.import_result import ImportResult, checks_login, has_check_key, is_host
from gateway.importing.imported_setup import LOOPBACK, ImportedClient, ImportedContainer

_HOST = re.compile(r"(?P<prefix>\w*?)_?(?:HOST|HOSTNAME|SERVER|ADDRESS)")
_SSH = re.compile(r"(?i)^(ssh|bastion|jump|tunnel)|(^|_)ssh(_|$)")


def find_clients(container: ImportedContainer, result: ImportResult) -> list[ImportedClient]:
    """Return a client for each remote service whose address is in the variables of a container.

    Args:
        container: The container.
        result: The imported configuration. The function adds notes, and the application's own SSH tunnel, if any.

    Raises:
        UsageError: An address is not valid.
    """
    found = [*_by_host(container.environment), *find_urls(container, result)]
    _note_libpq(container, result)
    via = import_application_tunnel(container, found[0].host, found[0].variables[0], result) if found else None
    clients = []
    for address in found:
        where = f"{container.where}: {address.variables[0]}"
        try:
            kind, port, note = address.kind()
        except UsageError as error:
            raise UsageError(f"{where}: {error}") from None
        keys = _check(address, kind, container)
        if address.words == "mongodb" and (
            address.more or "replicaSet" in container.environment[address.variables[0]]
        ):
            result.add_note(
                f"{where}: the driver connects to the names of the replica set's"
                " members, not to the backend: add a backend for each member, or set directConnection=true"
            )
        named = DATABASE_NAME.search(address.prefix) or address.words in OTHER_PORTS
        optional = not named and not note and not keys and kind == "tcp"
        name = address.host.lower() if address.host not in LOOPBACK else address.database or f"{kind}-{port}"
        clients.append(
            ImportedClient(
                where, name, kind, address.host, port, keys, via, container,
                address.parts, address.variables, optional=optional,
                more=tuple(each if ":" in each else f"{each}:{port}" for each in address.more),
                notes=tuple(filter(None, [note, _password_note(address, keys), _tls_note(address)])),
            )
        )  # fmt: skip
    return clients


def _note_libpq(container: ImportedContainer, result: ImportResult) -> None:
    """Add notes on variables that libpq uses instead of `PGHOST` (PostgreSQL, section 32.15)."""
    environment = container.environment
    if environment.get("PGSERVICE"):
        result.add_note(
            f"{container.where}: PGSERVICE: the connection service file is not read: pass its values, such as"
            " PGHOST=…, as another source"
        )
    if environment.get("PGHOST") and environment.get("PGHOSTADDR"):
        result.add_note(
            f"{container.where}: PGHOSTADDR: libpq connects to this address and not to PGHOST: remove the variable"
        )


def _by_host(environment: dict[str, str]) -> Iterator[DatabaseAddress]:
    for name, value in environment.items():
        match = _HOST.fullmatch(name) or re.fullmatch(r"(?P<prefix>PG)HOST", name)
        if name == "PGHOSTADDR" and not environment.get("PGHOST"):
            match = re.match("(?P<prefix>PG)", name)
        if match is None or not value or "/" in value or _SSH.search(name):
            continue
        prefix = match["prefix"]

        def first(*ends: str, prefix: str = prefix) -> str:
            """Return the name of the first variable that is set; empty if none is set.

            Each name consists of the prefix and one of `ends`.
            """
            names = (f"{prefix}{'_' if prefix and prefix != 'PG' else ''}{end}" for end in ends)
            return next((each for each in names if environment.get(each)), "")

        port_name = first("PORT", "PORT_NUMBER")
        value, *more = value.split(",")  # noqa: PLW2901 - `value` keeps only the first host
        host, _, port = value.partition(":") if re.fullmatch(r"[^:]+:(\d+|\$\{\w+\})", value) else (value, "", "")
        port = port or environment.get(port_name, "")
        if not is_host(host) or not (DATABASE_NAME.search(prefix) or port.isdecimal()):
            continue
        user, password = first("USER", "USERNAME"), first("PASSWORD", "PASS", "PASSWD", "PASSWORD_FILE", "PASSFILE")
        database = first("NAME", "DATABASE", "DBNAME", "DB")
        tls = first("SSLMODE", "SSL_MODE", "SSL", "TLS")
        engine = first("CONNECTION", "TYPE", "DRIVER", "ENGINE", "CLIENT", "DIALECT", "VENDOR")
        yield DatabaseAddress(
            (name, port_name) if port_name else (name,), prefix, host, port,
            f"{environment.get(engine, '')} {prefix}", environment.get(user, ""), password,
            environment.get(database, ""),
            tuple(filter(None, (name, port_name, user, password, database, engine, tls))),
            requested_tls(f"{tls.rpartition('_')[2]}={environment.get(tls, '')}"), tuple(more),
        )  # fmt: skip


def _check(address: DatabaseAddress, kind: str, container: ImportedContainer) -> dict[str, Any]:
    # Keep the login for kind tcp, because a later step can replace tcp with a kind whose check logs in.
    if kind != "tcp" and not checks_login(kind):
        return {}
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


def _tls_note(address: DatabaseAddress) -> str:
    if "verify" not in address.tls.lower():
        return ""
    return (
        f"{address.tls}: the client verifies the server's name, but it now connects to the name of the backend;"
        " verify only the certificate authority, for example with sslmode=verify-ca"
    )


def _password_note(address: DatabaseAddress, keys: dict[str, Any]) -> str:
    if keys.get("check", {}).get("password_file") != "PASSWORD_FILE":
        return ""
    value = "the password in" if address.password == address.variables[0] else "the value of"
    if address.password.endswith("PASSFILE"):
        return f"{address.password} names a file: copy the password from this file to PASSWORD_FILE"
    return f"write {value} {address.password} to PASSWORD_FILE"
