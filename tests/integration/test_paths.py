"""Tests of backends and tunnels with several paths: two bastions on two loopback addresses."""

import contextlib
import re
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from gateway.demo.server_process import free_port
from gateway.demo.sshd import Bastion
from tests.soak import chaos_site, paths
from tests.support.clients import connect, echo, is_reset
from tests.support.configs import CHECK, ssh_tunnel
from tests.support.files import scratch
from tests.support.gateway_process import Gateway, command
from tests.support.requirements import need, need_sshd
from tests.support.servers import echoing, serving
from tests.support.slow_link import Shape, SlowLink

pytestmark = [pytest.mark.integration, pytest.mark.timeout(180)]

QUICK = ", keepalive: {interval: 200ms, suspect: 2s, replace: 1s}"
Pair = tuple[Bastion, Bastion]


@pytest.fixture
def pair(tmp_path: Path) -> Iterator[Pair]:
    need_sshd()
    with contextlib.ExitStack() as stack:
        one, two = (
            Bastion(tmp_path / name, address=address) for name, address in (("a", "127.0.0.1"), ("b", "127.0.0.2"))
        )
        for bastion in (one, two):
            bastion.start()
            stack.callback(bastion.stop)
        yield one, two


def served(listen: int) -> None:
    """Check that the backend serves a new client."""
    with connect(listen) as client:
        assert echo(client) == b"hello"


def path(gateway: Gateway, backend: str, tunnel: str) -> tuple[bool, bool]:
    """Return whether a path is up, and whether new clients use it."""
    found = next(each for each in gateway.backend(backend)["paths"] if each["tunnel"] == tunnel)
    return found["up"], found["in_use"]


def test_one_path_is_enough_and_each_path_is_shown(gateway: Gateway, pair: Pair) -> None:
    with serving(echoing) as port, serving(echoing) as other:
        listen = {name: free_port() for name in ("both", "deep", "split")}
        gateway.write(f"""
            tunnels:
              a: {ssh_tunnel(pair[0], more=QUICK)}
              b: {ssh_tunnel(pair[1], more=QUICK)}
              inner: {ssh_tunnel(pair[1], via="[a, b]", more=QUICK)}
            backends:
              both:
                {{kind: tcp, via: [a, b], targets: ["127.0.0.1:{port}"], {CHECK},
                 listen: "127.0.0.1:{listen["both"]}", hold: 30s}}
              deep:
                {{kind: tcp, via: inner, targets: ["127.0.0.1:{port}"], {CHECK},
                 listen: "127.0.0.1:{listen["deep"]}"}}
              split:
                kind: tcp
                targets: [{{address: "127.0.0.1:{port}", via: a}}, {{address: "127.0.0.1:{other}", via: [b]}}]
                listen: 127.0.0.1:{listen["split"]}
                {CHECK}
        """)
        gateway.start().wait_up("both", "deep", "split")
        gateway.wait(
            lambda: path(gateway, "both", "a") == (True, True) and path(gateway, "both", "b") == (True, False)
        )
        for each in listen.values():
            served(each)
        checked = command("check", "-c", str(gateway.config), "both")
        assert re.findall(r"^both +127\S+ +(\w) +up", checked.stdout, re.MULTILINE) == ["a", "b"]

        pair[0].freeze()
        gateway.wait(lambda: gateway.tunnel("a")["state"] == "suspect")
        gateway.wait(lambda: path(gateway, "both", "b") == (True, True))
        for each in listen.values():
            served(each)
        assert gateway.tunnel("inner")["connects"] == 1  # `inner` opens its new SSH connections through `b`
        pair[0].crash()
        gateway.wait(lambda: gateway.tunnel("a")["state"] == "backoff")
        for each in listen.values():
            served(each)
        gateway.wait(lambda: gateway.tunnel("inner")["state"] == "up")
        gateway.wait(lambda: gateway.tunnel("inner")["via_in_use"] == "b")
        assert gateway.state("both") == ("up", None)
        assert gateway.state("split")[0] == "degraded"
        assert path(gateway, "both", "a") == (False, False)
        explained = gateway.command("explain", "both").stdout
        assert re.search(r"^path +a +down +-\n +tunnel a is down: ", explained, re.MULTILINE), explained
        assert re.search(
            r"^path +b +up +-\n +clients: \d, switches: 1, used by new clients$", explained, re.MULTILINE
        ), explained
        assert explained.count("warning: a down since ") == 1
        assert "root cause: " not in explained
        assert "root cause: a down since " in gateway.command("explain", "split").stdout
        assert re.search(r"^both +b +up\n +clients: \d, switches: 1,", gateway.command("status").stdout, re.MULTILINE)
        _, metrics = gateway.http.get("/metrics")
        assert 'gateway_way_up{backend="both",tunnel="a"} 0.0' in metrics
        assert 'gateway_way_switches_total{backend="both",tunnel="b"} 1.0' in metrics

        pair[1].crash()
        gateway.wait_state("both", "blocked", "tunnel")
        causes = gateway.command("explain", "deep").stdout
        assert [causes.count(f"root cause: {name} down since ") for name in ("a", "b", "inner")] == [1, 1, 0]
        with connect(listen["both"]) as held:
            held.settimeout(40)
            held.sendall(b"hello")
            time.sleep(0.5)
            pair[1].start()
            assert held.recv(5) == b"hello"
        pair[0].start()
        gateway.wait_up("both", "deep", "split")


def test_reload_quarantine_and_reconnect_concern_one_path(gateway: Gateway, pair: Pair) -> None:
    with serving(echoing) as port:
        listen = free_port()
        body = f"""
            tunnels: {{a: {ssh_tunnel(pair[0])}, b: {ssh_tunnel(pair[1])}}}
            backends:
              both: {{kind: tcp, via: %s, targets: ["127.0.0.1:{port}"], listen: "127.0.0.1:{listen}", {CHECK}}}
        """
        gateway.write(body % "[a, b]", shutdown="{delay: 0s, drain: 2s}")
        gateway.start("--reload-on-change", "false").wait_up("both")
        # If the check over `b` succeeds before the check over `a`, new clients use `b` at first.
        gateway.wait(
            lambda: path(gateway, "both", "a") == (True, True) and path(gateway, "both", "b") == (True, False)
        )
        with connect(listen) as first:
            assert echo(first) == b"hello"
            (pair[0].folder / "authorized_keys").write_text("")
            assert gateway.command("reconnect", "a").returncode == 0
            assert is_reset(first)
        gateway.wait(lambda: gateway.tunnel("a")["state"] == "quarantined")
        gateway.wait(lambda: path(gateway, "both", "b") == (True, True))
        with connect(listen) as second:
            assert echo(second) == b"hello"
            pair[0].authorize()
            gateway.command("reconnect", "a")
            # Clients do not return to `a` immediately.
            gateway.wait(lambda: path(gateway, "both", "a") == (True, False))
            gateway.write(body % "[b]", shutdown="{delay: 0s, drain: 2s}")
            assert gateway.command("reload").stdout == "backends changed: both\n"
            gateway.write(body % "[a, b]", shutdown="{delay: 0s, drain: 2s}")
            assert gateway.command("reload").returncode == 0
            assert echo(second) == b"hello"
            gateway.write(body % "a", shutdown="{delay: 0s, drain: 2s}")
            assert gateway.command("reload").returncode == 0
            served(listen)
            assert echo(second) == b"hello"  # tunnel `b` stays open, because it is still configured
        assert gateway.backend("both")["via"] == "a"


def test_new_clients_prefer_the_path_with_the_lower_latency(gateway: Gateway, shared_bastion: Bastion) -> None:
    fast, slow = Shape(), Shape(delay=0.1)
    to = shared_bastion.port
    with serving(echoing) as port, SlowLink(to, slow) as one, SlowLink(to, fast) as other:
        known = gateway.folder / "known_hosts"
        of_bastion = shared_bastion.known_hosts.read_text()
        known.write_text("".join(of_bastion.replace(f":{to} ", f":{each.port} ") for each in (one, other)))
        keys = f"kind: ssh, host: 127.0.0.1, user: {shared_bastion.user}, known_hosts: [{known}]"
        identity = f"identity_files: [{shared_bastion.client_key}]"
        listen = free_port()
        gateway.write(f"""
            tunnels:
              a: {{{keys}, {identity}, port: {one.port}}}
              b: {{{keys}, {identity}, port: {other.port}}}
            backends:
              both: {{kind: tcp, via: [a, b], prefer_way: latency, targets: ["127.0.0.1:{port}"],
                      listen: "127.0.0.1:{listen}", check: {{interval: 300ms, fast_interval: 200ms}}}}
        """)
        gateway.start().wait_up("both")
        gateway.wait(lambda: path(gateway, "both", "b") == (True, True))
        served(listen)
        one.shape(fast)
        other.shape(slow)
        gateway.wait(lambda: path(gateway, "both", "a") == (True, True))
        served(listen)


def test_clients_use_the_other_path_while_a_bastion_is_killed_stopped_or_cut_off(
    capsys: pytest.CaptureFixture[str],
) -> None:
    lacking = chaos_site.missing()
    need(lacking is None, str(lacking))
    with scratch() as folder:
        code = paths.run(len(paths.possible()), paths.possible(), folder, slack=3)
    assert code == 0, capsys.readouterr().out
