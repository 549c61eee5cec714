"""Recognizes database addresses in environment variables that contain a URL or another connection string."""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from urllib.parse import parse_qsl, unquote

from gateway.importing.database_address import (
    DATABASE_NAME,
    OTHER_PORTS,
    DatabaseAddress,
    kind_of_word,
    requested_tls,
)
from gateway.importing.import_result import ImportResult, is_host
from gateway.importing.imported_setup import ImportedContainer

_URL = re.compile(
    r"(?P<jdbc>jdbc:)?(?P<scheme>[a-z][a-z0-9+]*)://(?P<authority>[^/?#]*)(?P<path>[^?#]*)\??(?P<query>.*)", re.DOTALL
)
_SUFFIX = re.compile(r"(?i)_?(url|uri|dsn)$")
_HOST = re.compile(r"\[([^\]]*)\](?::(\d*|\$\{\w+\}))?|([^:]*)(?::(\d*|\$\{\w+\}))?")
_CONNECTION_STRING = re.compile(
    r"(?i)jdbc:|[^@\s]*@(?:tcp|unix)\(|(?:.*[;:\s])?(?:host|server|data source|addr|address)\s*=", re.DOTALL
)
"""Matches the start of connection strings of Oracle, Go drivers, libpq, PDO and ADO.NET."""
_TLS_SCHEMES = ("rediss",)
"""URL schemes that request TLS."""


@dataclass(frozen=True)
class _DatabaseUrl:
    """The parts of a database URL, in their original spelling.

    Args:
        scheme: The scheme, without the name of a driver.
        hosts: The hosts, each with its port, which can be empty or a reference to a variable.
        user: The user; empty if the URL has none.
        has_password: Whether the URL has a password.
        database: The database; empty if the URL has none.
        query: The query, which contains the parameters.
    """

    scheme: str
    hosts: tuple[tuple[str, str], ...]
    user: str
    has_password: bool
    database: str
    query: str


def find_urls(container: ImportedContainer, result: ImportResult) -> Iterator[DatabaseAddress]:
    """Yield the address in each variable that contains the URL of a database.

    Args:
        container: The container with the variables.
        result: The imported configuration, to which the function adds notes on connection strings that the import
            does not support.
    """
    environment = container.environment
    for name, value in environment.items():
        url = _parse(value)
        if problem := _problem(name, value, url):
            result.add_note(f"{container.where}: {name}: {problem}")
        elif url is not None and _is_imported(name, url.scheme):
            yield _address(name, url, environment)


def _is_imported(name: str, scheme: str) -> bool:
    """Return whether a URL is the address of a database.

    A scheme such as `tcp` does not identify a database. In this case, `name` must end with `URL`, `URI` or `DSN`.

    Args:
        name: The name of the variable that contains the URL.
        scheme: The scheme of the URL.
    """
    kind = kind_of_word(scheme)
    if scheme in OTHER_PORTS:
        return True
    if kind is not None and kind.default_port and kind.mount is None and not kind.imports.common_protocol:
        return True
    return kind is not None and scheme not in ("http", "https") and bool(_SUFFIX.search(name))


def _problem(name: str, value: str, url: _DatabaseUrl | None) -> str:
    """Return the reason why the import does not support a connection string; empty if there is no such reason."""
    scheme = value.removeprefix("jdbc:").partition("://")[0]
    if scheme.endswith("+srv"):
        return (
            "not imported, because the driver looks up its servers in DNS (SRV records), so no backend can replace"
            " the name; add a backend of kind tcp for one server, and connect with mongodb:// and"
            " directConnection=true"
        )
    if url is None and "://" in value and _is_imported(name, scheme.partition("+")[0]):
        return (
            "not imported, because the URL contains no valid host; in a password, write / as %2F, ? as %3F and # as"
            " %23, and if the server is remote, add a backend"
        )
    names_database = bool(_SUFFIX.search(name) or DATABASE_NAME.search(name))
    if re.fullmatch(r"\$\{\w+\}", value) and _SUFFIX.search(name) and DATABASE_NAME.search(_SUFFIX.sub("", name)):
        return f"not imported, because no source sets {value}; pass the file that sets it as another source"
    if url is None and _CONNECTION_STRING.match(value) and (names_database or re.search("(?i)conn|jdbc", name)):
        return "not imported, because this form of connection string is not supported; add a backend for its server"
    return ""


def _address(name: str, url: _DatabaseUrl, environment: dict[str, str]) -> DatabaseAddress:
    (host, port), *more = url.hosts
    prefix = _SUFFIX.sub("", name)
    user = next((each for each in (f"{prefix}_USERNAME", f"{prefix}_USER") if environment.get(each)), "")
    separate = f"{prefix}_PASSWORD" if environment.get(f"{prefix}_PASSWORD") else ""
    password = name if url.has_password else separate
    return DatabaseAddress(
        (name,), prefix, host, port or str(OTHER_PORTS.get(url.scheme, "")), url.scheme,
        url.user or environment.get(user, ""), password, url.database,
        tuple(filter(None, dict.fromkeys((name, user, password)))),
        url.scheme if url.scheme in _TLS_SCHEMES else requested_tls(url.query),
        tuple(f"{other}:{number}" if number.isdecimal() else other for other, number in more),
    )  # fmt: skip


def _parse(text: str) -> _DatabaseUrl | None:
    """Split a string into the parts of a URL. Return None if the string is not a URL with a host."""
    # Do not use urllib.parse: it changes the case of the host, and rejects a URL with two hosts or with a variable.
    match = _URL.fullmatch(text)
    if match is None:
        return None
    authority = match["authority"].partition(";")[0] if match["jdbc"] else match["authority"]
    login, _, servers = authority.rpartition("@")
    user, colon, _ = login.partition(":")
    hosts = []
    for server in servers.split(","):
        found = _HOST.fullmatch(server)
        if found is None or not is_host(found[1] or found[3] or ""):
            return None
        hosts.append((found[1] or found[3], found[2] or found[4] or ""))
    if not login and "@" in match["path"] + match["query"]:
        return None  # the password contains an unescaped `/`, `?` or `#`, so `hosts` contains a part of the password
    parameters = dict(parse_qsl(match["query"]))
    return _DatabaseUrl(
        match["scheme"].partition("+")[0], tuple(hosts), unquote(user) or parameters.get("user", ""),
        bool(colon) or "password" in parameters, unquote(match["path"].strip("/")), match["query"],
    )  # fmt: skip
