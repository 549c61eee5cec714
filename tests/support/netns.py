"""Creates two network namespaces: `near` for the gateway and its clients, and `far` for VPN servers and databases."""

import contextlib
import subprocess
import threading
from collections.abc import Iterator
from pathlib import Path

from pyroute2 import netns  # type: ignore[import-untyped]

OUTER_NEAR, OUTER_FAR, OUTER_OTHER = "10.201.0.2", "10.201.0.1", "10.201.0.3"
"""One address of `near` and two addresses of `far` on the link between them. The link represents the Internet."""
BEHIND, BEHIND_V6 = "10.20.0.1", "fd20::1"
"""The IPv4 address and the IPv6 address at which clients of the VPN reach the databases."""
NAMES = ("gwt-near", "gwt-far")


def run(command: str, check: bool = True) -> str:
    """Run a shell command in the network namespace of the calling thread, and return the command's output."""
    done = subprocess.run(["sh", "-c", command], capture_output=True, text=True, timeout=30, check=False)
    assert done.returncode == 0 or not check, f"{command}: {done.stderr}"
    return done.stdout


@contextlib.contextmanager
def inside(name: str) -> Iterator[None]:
    """Move the calling thread and its new child processes to a network namespace until the block ends."""
    assert threading.current_thread() is threading.main_thread(), "only the main thread may change its namespace"
    netns.pushns(name)
    try:
        yield
    finally:
        netns.popns()


@contextlib.contextmanager
def two() -> Iterator[None]:
    """Create the namespaces and a link. `far` redirects TCP connections to `BEHIND` or `OUTER_OTHER` to 127.0.0.1."""
    near, far = NAMES
    _remove()
    for name in NAMES:
        run(f"ip netns add {name} && ip -n {name} link set lo up")
    run(f"ip -n {near} link add outer type veth peer name outer netns {far}")
    run(
        f"ip -n {near} addr add {OUTER_NEAR}/24 dev outer; ip -n {near} link set outer up;"
        f"ip -n {far} link set outer up;"
        f"ip -n {far} addr add {BEHIND}/32 dev lo; ip -n {far} addr add {BEHIND_V6}/128 dev lo nodad;"
        # Segmentation offload is off, so that packets have the same size as on a real network. The default route of
        # `near` leads to `far`. Tests therefore detect packets that bypass the VPN.
        f"ip -n {near} link set outer gso_max_segs 1; ip -n {far} link set outer gso_max_segs 1;"
        f"ip -n {near} route add default via {OUTER_FAR};"
        f"ip -n {near} addr add fd99::2/64 dev outer nodad; ip -n {far} addr add fd99::1/64 dev outer nodad;"
        f"ip -n {near} -6 route add default via fd99::1"
    )
    give_addresses(far)
    with inside(far):
        for key in ("conf/all/route_localnet", "conf/outer/route_localnet", "conf/outer/promote_secondaries"):
            Path("/proc/sys/net/ipv4", key).write_text("1")
        for address in (BEHIND, OUTER_OTHER):
            for chain in ("PREROUTING", "OUTPUT"):
                run(f"iptables -t nat -A {chain} -p tcp -d {address} -j DNAT --to-destination 127.0.0.1")
    with inside(near):
        # The namespace has no DNS server. Without this rule, a DNS query would fail only after a timeout.
        run("iptables -A OUTPUT -o outer -p udp --dport 53 -j REJECT")
    try:
        yield
    finally:
        _remove()


def give_addresses(far: str) -> None:
    """Set the addresses of `far` on the link to `OUTER_FAR`, which is the default source, and `OUTER_OTHER`."""
    run(
        f"ip -n {far} -4 addr flush dev outer; ip -n {far} addr add {OUTER_FAR}/24 dev outer;"
        f"ip -n {far} addr add {OUTER_OTHER}/24 dev outer"
    )


def _remove() -> None:
    for name in NAMES:
        if name in netns.listnetns():
            run(f"ip netns pids {name} | xargs -r kill -9; ip netns del {name}")
