"""Tests how the gateway derives the reason for a failed PostgreSQL login from the message of libpq."""

import pytest

from gateway.backend_support.postgres_errors import login_error
from gateway.errors import FailureReason

PREFIX = 'connection to server at "127.0.0.1", port 5432 failed: '


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("FATAL:  28P01: Passwort-Authentifizierung für Benutzer »u« fehlgeschlagen", FailureReason.AUTH),
        ("FATAL:  57P03: das Datenbanksystem startet", FailureReason.STARTING),
        ("FATAL:  53300: désolé, trop de clients sont déjà connectés", FailureReason.TOO_MANY_CONNECTIONS),
        ("FATAL:  3D000: la base de données « x » n'existe pas", FailureReason.QUERY),
        ('FATAL:  42501: permission denied for database "x"', FailureReason.AUTH),
        ('FATAL:  permission denied for database "x"', FailureReason.AUTH),
        ("FATAL:  the database system is not accepting connections", FailureReason.STARTING),
        ('FATAL:  28000: no pg_hba.conf entry for host "10.0.0.1", user "u"', FailureReason.AUTH),
        ("FATAL:  XX000: internal error", FailureReason.PROTOCOL),
        ("SSL error: certificate verify failed", FailureReason.TLS),
    ],
)
def test_the_sqlstate_decides_before_the_words(text: str, reason: FailureReason) -> None:
    assert login_error(PREFIX + text).reason is reason


def test_the_sqlstate_and_the_location_in_the_source_are_not_shown() -> None:
    found = login_error(f"{PREFIX}FATAL:  28P01: Passwort falsch\nORT:  auth_failed, auth.c:329\n")
    assert found.detail.startswith(f"{PREFIX}FATAL: Passwort falsch")
    assert "auth.c" not in found.detail
    assert "28P01" not in found.detail
