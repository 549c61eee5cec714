import pytest

from gateway.contracts.config_types import HostPort
from gateway.vpn.openvpn_config_sanitizer import parse_client_file
from gateway.vpn.openvpn_remotes import tcp_remotes, udp_remotes


@pytest.mark.parametrize(
    ("text", "remotes"),
    [
        ("remote a", []),
        ("remote a 1 udp\nremote b 443 tcp\nremote c 444 tcp4-client", ["b:443", "c:444"]),
        ("remote a\nremote b 2\nproto tcp-client\nport 3", ["a:3", "b:2"]),
        ("proto tcp\nremote a", ["a:1194"]),
        ("proto tcp\nrport 5\nremote a 1\nremote a 1", ["a:1"]),
        ("proto tcp\nremote ignored 1\n<connection>\nremote a 1\n</connection>", ["a:1"]),
        ("<connection>\nremote a 1\nproto tcp\n</connection>\n<connection>\nremote b 1\n</connection>", ["a:1"]),
    ],
)
def test_the_servers_of_a_file(text: str, remotes: list[str]) -> None:
    assert [str(each) for each in tcp_remotes(parse_client_file(text))] == remotes


def test_the_servers_over_udp() -> None:
    file = parse_client_file("remote a 1 udp\nremote b 443 tcp\nremote c")
    assert [str(each) for each in udp_remotes(file)] == ["a:1", "c:1194"]


def test_the_ipv6_server_of_a_file() -> None:
    assert tcp_remotes(parse_client_file("remote fd00::1 1 tcp6")) == [HostPort("fd00::1", 1)]
