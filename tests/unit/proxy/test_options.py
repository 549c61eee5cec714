import pytest

from gateway.config import Config, ConfigSources, load
from gateway.contracts.config_types import HostPort
from gateway.errors import ConfigError


def config(tunnel: str) -> Config:
    return load(ConfigSources(tunnels=(f"egress={tunnel}",), backends=("a=tcp://db:1?via=egress",), environment={}))


@pytest.mark.parametrize(
    ("url", "endpoint", "tls"),
    [
        ("socks5://proxy", HostPort("proxy", 1080), False),
        ("socks5h://clerk@proxy:1081", HostPort("proxy", 1081), False),
        ("http://proxy.example:3128", HostPort("proxy.example", 3128), False),
        ("http://[fd00::1]", HostPort("fd00::1", 8080), False),
        ("https://proxy", HostPort("proxy", 443), True),
    ],
)
def test_a_proxy_as_a_url(url: str, endpoint: HostPort, tls: bool) -> None:
    options = config(url).tunnels["egress"].options
    assert (options.endpoint, options.tls) == (endpoint, tls)
    assert options.login == ("clerk" if "clerk" in url else None)


@pytest.mark.parametrize(
    ("url", "words"),
    [
        ("socks5://clerk:secret@proxy", "password_file"),
        ("socks5://", "must be socks5://host:port"),
        ("http://proxy:0", "must be http://host:port"),
        ("http://proxy:none", "none"),
        ("socks4://proxy", "socks4"),
    ],
)
def test_an_invalid_proxy_url_is_refused(url: str, words: str) -> None:
    with pytest.raises(ConfigError) as caught:
        config(url)
    assert words in str(caught.value)
    assert ":secret" not in str(caught.value)
