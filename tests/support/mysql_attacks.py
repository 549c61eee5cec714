"""Defines scripts of malicious MySQL servers that try to get the password of a client."""

from collections.abc import Callable

from tests.support.mysql_end import DENIED, PEM, SALT, MysqlEnd

Script = Callable[[MysqlEnd], None]


def by_dialog(end: MysqlEnd) -> None:
    """Request the password with the authentication plugin `dialog`, which MariaDB uses for PAM."""
    end.greet("mysql_native_password")
    end.switch("dialog", b"\2Password: ")
    end.send(DENIED)


def by_clear_password(end: MysqlEnd) -> None:
    end.greet("mysql_native_password")
    end.switch("mysql_clear_password", b"")
    end.send(DENIED)


def by_own_key(end: MysqlEnd) -> None:
    """Request the password, encrypted with an RSA public key that the server itself sends."""
    end.greet("mysql_native_password")
    _offer_key(end, end.switch("sha256_password"))


def by_unrequested_key(end: MysqlEnd) -> None:
    end.greet("mysql_native_password")
    end.switch("sha256_password")
    end.ask(b"\1" + PEM)
    end.send(DENIED)


def by_sha256_as_default(end: MysqlEnd) -> None:
    _offer_key(end, end.greet("sha256_password"))


def by_full_caching_sha2(end: MysqlEnd) -> None:
    end.greet("caching_sha2_password")
    _offer_key(end, end.ask(b"\1\4"))


def by_switch_to_full_caching_sha2(end: MysqlEnd) -> None:
    end.greet("mysql_native_password")
    end.switch("caching_sha2_password")
    _offer_key(end, end.ask(b"\1\4"))


def by_second_switch(end: MysqlEnd) -> None:
    """Request a change of the authentication plugin twice. The second request does not contain a plugin name."""
    end.greet("mysql_native_password")
    end.switch("caching_sha2_password")
    end.ask(b"\xfe" + SALT + b"\0")
    _offer_key(end, end.ask(b"\1\4"))


def by_second_switch_of_the_default(end: MysqlEnd) -> None:
    end.greet("caching_sha2_password")
    end.switch("caching_sha2_password")
    end.ask(b"\xfe" + SALT + b"\0")
    _offer_key(end, end.ask(b"\1\4"))


def by_full_after_fast_caching_sha2(end: MysqlEnd) -> None:
    end.greet("caching_sha2_password")
    end.send(b"\1\3")
    _offer_key(end, end.ask(b"\1\4"))


def _offer_key(end: MysqlEnd, answer: bytes) -> None:
    if answer in (b"\1", b"\2") or answer.endswith(b"\1\1sha256_password\0"):
        end.ask(b"\1" + PEM)
    end.send(DENIED)


HOSTILE: dict[str, Script] = {
    script.__name__: script
    for script in (
        by_dialog, by_clear_password, by_own_key, by_sha256_as_default, by_full_caching_sha2,
        by_switch_to_full_caching_sha2, by_second_switch, by_second_switch_of_the_default,
        by_full_after_fast_caching_sha2,
    )
}  # fmt: skip
