"""Compare the throughput of the gateway's VPN tunnels with the throughput of VPN clients without the gateway.

Usage: sudo python bench/vpn_throughput.py [--rounds N] [--megabytes N]

Uses two connected network namespaces: the VPN servers and the data source are in one, and the clients in the other.
Without the gateway, the VPN client sets its routes, as in normal use. The runs are interleaved; the results are
medians.
"""

import argparse
import contextlib
import socket
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

HERE = Path(__file__).resolve().parent
sys.path[:0] = [str(HERE), str(HERE.parent)]

from gateway.demo.server_process import ServerProcess, free_port
from tests.support.certificates import Authority
from tests.support.gateway_process import Gateway
from tests.support.netns import BEHIND, NAMES, inside, run, two
from tests.support.vpn import OpenVpnServer
from tests.support.wireguard_peer import WireGuardPeer

NEAR, FAR = NAMES
CHUNK = 1 << 18
SERVER = f"""
import socket, sys, threading
def serve(client):
    head = client.recv(17, socket.MSG_WAITALL)
    size = int(head[1:])
    if head[:1] == b"d":
        block = bytes({CHUNK})
        while size > 0:
            size -= client.send(block[:size])
    else:
        while size > 0:
            size -= len(client.recv({CHUNK}))
        client.sendall(b"!")
    client.close()
with socket.create_server(("0.0.0.0", int(sys.argv[1]))) as server:
    while True:
        threading.Thread(target=serve, args=(server.accept()[0],), daemon=True).start()
"""


def transfer(host: str, port: int, direction: str, size: int) -> float:
    """Return the throughput of one transfer in MB/s."""
    with socket.create_connection((host, port), timeout=60) as sock:
        began = time.monotonic()
        sock.sendall(f"{direction}{size:016}".encode())
        if direction == "d":
            left = size
            while left:
                got = len(sock.recv(CHUNK))
                if not got:
                    raise SystemExit("the connection was closed")
                left -= got
        else:
            block, left = bytes(CHUNK), size
            while left:
                left -= sock.send(block[:left])
            if sock.recv(1) != b"!":
                raise SystemExit("the connection was closed")
        return size / 1e6 / (time.monotonic() - began)


def round_trips(host: str, port: int, size: int) -> float:
    """Return the time in microseconds to connect, request one byte and receive the byte."""
    del size
    times = []
    for _ in range(200):
        began = time.monotonic()
        transfer(host, port, "d", 1)
        times.append((time.monotonic() - began) * 1e6)
    return statistics.median(times)


def bare_openvpn(server: OpenVpnServer, folder: Path, authority: Authority) -> ServerProcess:
    """Run openvpn without the gateway, with the routes that openvpn sets."""
    config = server.client(
        folder / "bare.ovpn", "pull-filter ignore redirect-gateway", certificate=authority.issue("b")
    )
    return ServerProcess(
        ["/usr/sbin/openvpn", "--config", str(config), "--dev", "bare", "--dev-type", "tun"], folder / "bare.log"
    )


def bare_wireguard(peer: WireGuardPeer, folder: Path) -> ServerProcess:
    """Run wireguard-go and wg without the gateway, as wg-quick does."""
    config = peer.client(folder / "bare.conf").read_text()
    kept = "\n".join(line for line in config.splitlines() if not line.startswith(("Address", "DNS")))
    (folder / "bare.wg").write_text(kept)
    child = ServerProcess(["/usr/bin/wireguard-go", "-f", "bare"], folder / "bare.log")
    child.spawn()
    time.sleep(1)
    run(
        f"set -e; wg setconf bare {folder}/bare.wg; ip addr add {peer.network}.2/24 dev bare;"
        f"ip link set bare mtu 1420 up; ip route add {BEHIND} dev bare"
    )
    return child


def reachable(port: int, log: Path) -> None:
    """Wait until the VPN client has set its route."""
    deadline = time.monotonic() + 30
    while "bare" not in run(f"ip route get {BEHIND}"):
        if time.monotonic() > deadline:
            raise SystemExit(f"the VPN client without the gateway does not connect: {log.read_text()[-1500:]}")
        time.sleep(0.2)
    transfer(BEHIND, port, "d", 1)


def measure(kind: str, rounds: int, size: int) -> list[str]:
    """Measure one kind of VPN; return its table rows."""
    rows: dict[str, tuple[Callable[[str, int], float], bool]] = {
        "from the far side, MB/s": (lambda host, port: transfer(host, port, "d", size), False),
        "to the far side, MB/s": (lambda host, port: transfer(host, port, "u", size), False),
        "connect and receive one byte, microseconds": (lambda host, port: round_trips(host, port, 1), True),
    }
    with tempfile.TemporaryDirectory() as name, contextlib.ExitStack() as stack:
        folder = Path(name)
        stack.enter_context(two())
        authority = Authority(folder / "certificates")
        port = free_port()
        source = ServerProcess([sys.executable, "-c", SERVER, str(port)], folder / "source.log")
        stack.callback(source.stop)
        with inside(FAR):
            source.start(port)
        if kind == "openvpn":
            server: OpenVpnServer | WireGuardPeer = OpenVpnServer(folder / "server", authority)
            other: OpenVpnServer | WireGuardPeer = server
        else:
            server = WireGuardPeer(folder / "server")
            other = WireGuardPeer(folder / "other", port=51821, network="10.10.0")
            stack.callback(other.stop)
            other.start()
        stack.callback(server.stop)
        server.start()
        stack.enter_context(inside(NEAR))
        gateway = Gateway(folder)
        listen = free_port()
        gateway.write(f"""
            tunnels:
              office: {{kind: {kind}, config: {server.client(folder / "gateway.conf")}}}
            backends:
              bytes: {{kind: tcp, via: office, targets: ["{BEHIND}:{port}"], listen: "127.0.0.1:{listen}"}}
        """)
        stack.callback(gateway.stop)
        gateway.start().wait_up("bytes", timeout=30)
        if isinstance(other, OpenVpnServer):
            bare = bare_openvpn(other, folder, authority)
            bare.spawn()
        else:
            bare = bare_wireguard(other, folder)
        stack.callback(bare.stop)
        reachable(port, folder / "bare.log")
        lines = []
        for title, (act, smaller) in rows.items():
            found: dict[str, list[float]] = {"bare": [], "gateway": []}
            for _ in range(rounds):
                found["gateway"].append(act("127.0.0.1", listen))
                found["bare"].append(act(BEHIND, port))
            ours, theirs = statistics.median(found["gateway"]), statistics.median(found["bare"])
            ratio = theirs / ours if smaller else ours / theirs
            lines.append(f"| {kind}: {title} | {theirs:.0f} | {ours:.0f} | {ratio:.2f} |")
        return lines


def main() -> None:
    """Measure all kinds of VPNs, and print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--megabytes", type=int, default=200)
    options = parser.parse_args()
    print("| | bare | gateway | ratio, larger is better |\n| --- | --- | --- | --- |")
    for kind in ("openvpn", "wireguard"):
        print("\n".join(measure(kind, options.rounds, options.megabytes * 1_000_000)), flush=True)


if __name__ == "__main__":
    main()
