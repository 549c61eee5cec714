"""Tests of the addresses of members, and of host names that resolve to several members."""

import pytest

from gateway.contracts.config_types import HostPort
from gateway.fleet.member_addresses import Member, MemberAddress, expand, parse_file, parse_member


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("gw:9090", MemberAddress("http", HostPort("gw", 9090))),
        ("http://gw:9090/", MemberAddress("http", HostPort("gw", 9090))),
        ("https://gw.example.com:443", MemberAddress("https", HostPort("gw.example.com", 443))),
        ("[2001:db8::1]:9090", MemberAddress("http", HostPort("2001:db8::1", 9090))),
        ("dns+tasks.gateway:9090", MemberAddress("http", HostPort("tasks.gateway", 9090), discover=True)),
        ("dns+https://gateway:9090", MemberAddress("https", HostPort("gateway", 9090), discover=True)),
    ],
)
def test_an_address_is_parsed_and_written(text: str, expected: MemberAddress) -> None:
    assert parse_member(text) == expected
    assert parse_member(str(expected)) == expected


@pytest.mark.parametrize(
    "text",
    ["", "gw", "gw:", "gw:0", "gw:70000", "ftp://gw:9090", "http://gw:9090/path", "http://u:p@gw:9090", "gw:9090?x=1",
     "gw :9090", "dns+", "http://[::1:9090", "gw\n:9090", "dns+dns+gw:9090"],
)  # fmt: skip
def test_other_texts_are_refused_with_an_example(text: str) -> None:
    with pytest.raises(ValueError, match=r"gateway-1\.example\.com:9090"):
        parse_member(text)


def test_a_file_has_one_address_per_line_and_comments() -> None:
    found, problems = parse_file("# site a\na:1\n\n b:2  # old\nhttp://\n")
    assert [str(each) for each in found] == ["a:1", "b:2"]
    assert len(problems) == 1
    assert problems[0].startswith("line 5: 'http://' is not")


def test_each_address_of_a_name_is_a_member_with_the_name_for_its_certificate() -> None:
    found = expand(parse_member("dns+https://tasks.gateway:9090"), ["10.0.0.3", "10.0.0.2", "10.0.0.3"])
    assert found == [Member("https", HostPort(host, 9090), "tasks.gateway") for host in ("10.0.0.2", "10.0.0.3")]
    assert found[0].url("/x") == "https://10.0.0.2:9090/x"
    assert found[0].name == "10.0.0.2:9090 (tasks.gateway)"
