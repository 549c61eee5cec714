import pytest

from gateway.config import value_parsers
from gateway.contracts.config_types import HostPort


@pytest.mark.parametrize(
    ("text", "seconds"),
    [("500ms", 0.5), ("10s", 10.0), ("5m", 300.0), ("1h30m", 5400.0), ("0", 0.0), ("1.5s", 1.5), ("1d", 86400.0)],
)
def test_duration(text: str, seconds: float) -> None:
    assert value_parsers.duration(text) == pytest.approx(seconds)


@pytest.mark.parametrize("text", ["10", "s", "10 s", "-1s", "1s2", "ten", ""])
def test_an_invalid_duration_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="not a duration"):
        value_parsers.duration(text)


def test_values_that_no_timeout_or_size_can_have_are_refused() -> None:
    assert value_parsers.duration("36500d") == 36500 * 86400.0
    for text in ("36501d", "9" * 400 + "s"):
        with pytest.raises(ValueError, match="too long: write at most 36500d"):
            value_parsers.duration(text)
    for text in ("9000000TiB", "9" * 400):
        with pytest.raises(ValueError, match="too large"):
            value_parsers.size(text)


@pytest.mark.parametrize(("text", "size"), [("15MiB", 15 << 20), ("1GB", 10**9), ("512", 512), ("1.5KiB", 1536)])
def test_size(text: str, size: int) -> None:
    assert value_parsers.size(text) == size


@pytest.mark.parametrize("text", ["15mib", "MiB", "1 XB", "-1"])
def test_an_invalid_size_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="not a size"):
        value_parsers.size(text)


@pytest.mark.parametrize(
    ("text", "default", "found"),
    [
        ("db:3306", 0, HostPort("db", 3306)),
        ("db", 5432, HostPort("db", 5432)),
        ("[fd00::1]:3306", 0, HostPort("fd00::1", 3306)),
        ("[fd00::1]", 22, HostPort("fd00::1", 22)),
    ],
)
def test_endpoint(text: str, default: int, found: HostPort) -> None:
    assert value_parsers.host_port(text, default) == found


@pytest.mark.parametrize("text", ["db", "db:0", "db:65536", "fd00::1", "db:x", "a b:1", ":1"])
def test_an_invalid_endpoint_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match=r"host:port|needs a port"):
        value_parsers.host_port(text)


def test_an_endpoint_prints_as_it_is_written() -> None:
    assert str(HostPort("fd00::1", 1)) == "[fd00::1]:1"
    assert str(HostPort("db", 1)) == "db:1"


def test_listener_takes_addresses_and_paths_only() -> None:
    assert str(value_parsers.listener("/run/x.sock")) == "/run/x.sock"
    assert str(value_parsers.listener("unix:/run/x.sock")) == "/run/x.sock"
    assert value_parsers.listener("[::1]:3306") == HostPort("::1", 3306)
    with pytest.raises(ValueError, match="must be an IP address of this host"):
        value_parsers.listener("db.example.com:3306")
    for text in ("3306", ":3306"):
        with pytest.raises(ValueError, match=r"has no address: write 127\.0\.0\.1:3306"):
            value_parsers.listener(text)


def test_an_invalid_network_suggests_the_probable_one() -> None:
    with pytest.raises(ValueError, match=r"did you mean 10\.0\.0\.0/8"):
        value_parsers.network("10.0.0.1/8")


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("10.0.0.7", "10.0.0.7/32"),
        ("::ffff:10.0.0.7", "10.0.0.7/32"),
        ("::ffff:10.0.0.0/104", "10.0.0.0/8"),
        ("::ffff:0:0/96", "0.0.0.0/0"),
        ("::/0", "::/0"),
        ("fd00::/8", "fd00::/8"),
    ],
)
def test_a_network_of_ipv4_mapped_addresses_is_an_ipv4_network(text: str, expected: str) -> None:
    assert str(value_parsers.network(text)) == expected


@pytest.mark.parametrize(("text", "expected"), [("auto", "auto"), ("1", 1), ("16", 16)])
def test_a_number_of_threads_is_parsed(text: str, expected: object) -> None:
    assert value_parsers.thread_count(text) == expected


@pytest.mark.parametrize("text", ["0", "-1", "two", "1.5", ""])
def test_a_wrong_number_of_threads_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="is not a number of threads: write auto, or a whole number such as 2"):
        value_parsers.thread_count(text)
