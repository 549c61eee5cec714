"""Recognizes database addresses in environment variables that contain a URL."""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from urllib.parse import parse_qsl, unquote

from gateway.importing.database_address import OTHER_PORTS, DatabaseAddress, kind_of_word, requested_tls
from gateway.importing.import_result import is_host

_URL = re.compile(
    r"(?P<jdbc>jdbc:)?(?P<scheme>[a-z][a-z0-9+]*)://(?P<authority>[^/?#]*)(?P<path>[^?#]*)\??(?P<query>.*)", re.DOTALL
)
_SUFFIX = re.compile(r"(?i)_?(url|uri|dsn)$")
_HOST = re.compile(r"\[([^\]]*)\](?::(.*))?|([^:]*)(?::([^:]*))?")
_TLS_SCHEMES = ("rediss",)
"""URL schemes that request TLS."""


@dataclass(frozen=True)
class _Url:
    """A database URL, with each part in its original spelling.

    Args:
        scheme: The scheme, without a driver.
        hosts: The hosts, each with its port as text. The port can be empty or a reference to a variable.
        user: The user; empty if the URL has none.
        has_password: Whether the URL has a password.
        database: The database; empty if the URL has none.
        query: The parameters, as one text.
    """

    scheme: str
    hosts: tuple[tuple[str, str], ...]
    user: str
    has_password: bool
    database: str
    query: str


def find_urls(environment: dict[str, str]) -> Iterator[DatabaseAddress]:
    """Yield the address in each variable that contains the URL of a database.

    Args:
        environment: The variables.

    urllib.parse cannot parse these URLs: it changes the case of the host, and accepts neither several hosts nor
    references to variables.
    """
    for name, value in environment.items():
        url = _parse(value) if _SUFFIX.search(name) else None
        if url is None or not _is_known(url.scheme):
            continue
        (host, port), *more = url.hosts
        prefix = _SUFFIX.sub("", name)
        user = next((each for each in (f"{prefix}_USERNAME", f"{prefix}_USER") if environment.get(each)), "")
        separate = f"{prefix}_PASSWORD" if environment.get(f"{prefix}_PASSWORD") else ""
        password = name if url.has_password else separate
        yield DatabaseAddress(
            (name,), prefix, host, port or str(OTHER_PORTS.get(url.scheme, "")), url.scheme,
            url.user or environment.get(user, ""), password, url.database,
            tuple(filter(None, dict.fromkeys((name, user, password)))),
            url.scheme if url.scheme in _TLS_SCHEMES else requested_tls(url.query),
            tuple(f"{other}:{number}" if number.isdecimal() else other for other, number in more),
        )  # fmt: skip


def _is_known(scheme: str) -> bool:
    return scheme in OTHER_PORTS or (kind_of_word(scheme) is not None and scheme not in ("http", "https"))


def _parse(text: str) -> _Url | None:
    """Return the parts of a URL; None if the text is not a URL with a host."""
    match = _URL.fullmatch(text)
    if match is None:
        return None
    login, _, servers = match["authority"].rpartition("@")
    user, colon, _ = login.partition(":")
    hosts = []
    for server in servers.split(","):
        found = _HOST.fullmatch(server)
        if found is None or not is_host(found[1] or found[3] or ""):
            return None
        hosts.append((found[1] or found[3], found[2] or found[4] or ""))
    parameters = dict(parse_qsl(match["query"]))
    return _Url(
        match["scheme"].partition("+")[0], tuple(hosts), unquote(user) or parameters.get("user", ""),
        bool(colon) or "password" in parameters, unquote(match["path"].strip("/")), match["query"],
    )  # fmt: skip
