"""Tests how the gateway reads the user name and the password for a proxy."""

from pathlib import Path

import pytest

from gateway.contracts.secret import Secret
from gateway.errors import FailureReason, TunnelError
from gateway.proxy.credentials import ProxyCredentials, read_credentials
from gateway.proxy.options import ProxyOptions

SOCKS, HTTP = "socks5://proxy", "http://proxy"


@pytest.mark.parametrize("url", [SOCKS, HTTP, "http://@proxy"])
def test_without_user_and_password_there_is_no_login(url: str) -> None:
    assert read_credentials(ProxyOptions(url)) is None


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        (ProxyOptions(SOCKS, "user", Secret("pass")), ProxyCredentials("user", "pass")),
        (ProxyOptions("http://user@proxy", None, Secret("pass")), ProxyCredentials("user", "pass")),
        (ProxyOptions(SOCKS, None, Secret("user:pa:ss")), ProxyCredentials("user", "pa:ss")),
        (ProxyOptions(HTTP, "user"), ProxyCredentials("user", "")),
        (ProxyOptions(SOCKS, "u" * 255, Secret("p" * 255)), ProxyCredentials("u" * 255, "p" * 255)),
    ],
)
def test_user_and_password_come_from_the_options(options: ProxyOptions, expected: ProxyCredentials) -> None:
    assert read_credentials(options) == expected


def test_each_login_reads_the_password_file(tmp_path: Path) -> None:
    path = tmp_path / "password"
    path.write_text("old\n")
    path.chmod(0o600)
    options = ProxyOptions(SOCKS, "user", Secret(path=path))
    assert read_credentials(options) == ProxyCredentials("user", "old")
    path.write_text("new\n")
    assert read_credentials(options) == ProxyCredentials("user", "new")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (ProxyOptions(SOCKS, "user"), "have 1 to 255 ASCII characters"),
        (ProxyOptions(SOCKS, "user", Secret("p" * 256)), "have 1 to 255 ASCII characters"),
        (ProxyOptions(SOCKS, "user", Secret("pässword")), "have 1 to 255 ASCII characters"),
        (ProxyOptions(HTTP, "us:er", Secret("x")), "without a colon in the user"),
        (ProxyOptions(HTTP, None, Secret("x")), "contains no user name"),
        (ProxyOptions(HTTP, "user", Secret(path=Path("/nonexistent/x"))), "No such file"),
    ],
)
def test_an_unusable_login_is_fatal(options: ProxyOptions, message: str) -> None:
    with pytest.raises(TunnelError, match=message) as failure:
        read_credentials(options)
    assert (failure.value.reason, failure.value.fatal) == (FailureReason.AUTH, True)
    assert "ssword" not in str(failure.value).replace("password", "")
