"""Measure the time and the memory that `gateway fleet` and the service need to show a fleet.

Usage: python bench/fleet.py [MEMBERS] [REFUSING]

By default, the fleet has 500 members. The script measures twice. First, all members answer. Then, REFUSING of the
members (by default 50) refuse connections. A separate process simulates the members that answer. It listens on a port
for each member, and answers like a gateway with ten backends.
"""

import asyncio
import http.client
import json
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT))

from gateway.demo.server_process import ServerProcess, free_port

_SUMMARY = {
    "instance": "site", "version": "0.1.0", "status": "ready", "started_at": "2026-01-01T00:00:00.000Z", "clients": 7,
    "warnings": 0, "reload_successful": True, "tunnels": {"up": 2}, "backends": {"up": 9, "down": 1},
    "problems": [{"name": "backend orders", "state": "down", "reason": "refused", "detail": "x" * 100}],
}  # fmt: skip


def main(members: int, refusing: int) -> None:
    """Measure `gateway fleet` and the service, first without and then with members that refuse connections."""
    stub = subprocess.Popen([sys.executable, __file__, "--serve", str(members)], stdout=subprocess.PIPE, text=True)
    try:
        ports = json.loads(stub.stdout.readline() if stub.stdout else "[]")
        unused = [free_port() for _ in range(refusing)]
        for title, addresses in (
            ("all answer", ports),
            (f"{refusing} refuse connections", ports[: members - refusing] + unused),
        ):
            print(f"{members} members, {title}")
            with tempfile.TemporaryDirectory() as name:
                folder = Path(name)
                (folder / "members").write_text("".join(f"127.0.0.1:{port}\n" for port in addresses))
                _measure_command(folder)
                _measure_service(folder, members)
    finally:
        stub.terminate()
        stub.wait(10)


def _measure_command(folder: Path) -> None:
    started, before = time.perf_counter(), resource.getrusage(resource.RUSAGE_CHILDREN)
    command = [sys.executable, "-m", "gateway", "fleet", "--file", str(folder / "members")]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=True, cwd=ROOT)
    seconds = time.perf_counter() - started
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    cpu = used.ru_utime + used.ru_stime - before.ru_utime - before.ru_stime
    rows = len([line for line in done.stdout.splitlines() if not line.startswith(" ")]) - 1
    print(f"  gateway fleet: {seconds:.2f} s ({cpu:.2f} s of CPU time), {used.ru_maxrss / 1024:.0f} MiB, {rows} rows")


def _measure_service(folder: Path, members: int) -> None:
    ops = free_port()
    (folder / "c.yaml").write_text(
        f"ops: {{listen: 127.0.0.1:{ops}, admin_socket: {folder}/admin.sock}}\nshutdown: {{delay: 0s}}\n"
        f"fleet: {{file: {folder}/members}}\nbackends: {{a: {{kind: tcp, targets: ['127.0.0.1:{ops}']}}}}\n"
    )
    environment = {"PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-m", "gateway", "run", "-c", str(folder / "c.yaml")]
    service = ServerProcess(command, folder / "log", environment=environment)
    try:
        service.start(ops)
        started = time.perf_counter()
        first = _get(ops)
        answered = time.perf_counter() - started
        while sum(each["state"] != "unknown" for each in first["members"]) < members:
            time.sleep(0.02)
            first = _get(ops)
        print(f"  first response of /api/v1/fleet: {answered * 1e3:.0f} ms after the service listens")
        print(f"  result of every member: {time.perf_counter() - started:.2f} s after the service listens")
        time.sleep(20)
        started = time.perf_counter()
        _get(ops)
        pages = int(Path(f"/proc/{service.pid}/statm").read_text().split()[1])
        memory = pages * resource.getpagesize() / 2**20
        print(f"  later: response in {(time.perf_counter() - started) * 1e3:.0f} ms, memory {memory:.0f} MiB")
    finally:
        service.stop()


def _get(port: int) -> dict[str, list[dict[str, object]]]:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=30)
    connection.request("GET", "/api/v1/fleet")
    found: dict[str, list[dict[str, object]]] = json.loads(connection.getresponse().read())
    connection.close()
    return found


async def _serve(members: int) -> None:
    body = json.dumps(_SUMMARY).encode()
    head = f"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n".encode()

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while await reader.readuntil(b"\r\n\r\n"):
                writer.write(head + body)
                await writer.drain()
        except (OSError, asyncio.IncompleteReadError):
            writer.close()

    servers = [await asyncio.start_server(answer, "127.0.0.1", 0) for _ in range(members)]
    print(json.dumps([server.sockets[0].getsockname()[1] for server in servers]), flush=True)
    await asyncio.Event().wait()


if __name__ == "__main__":
    if sys.argv[1:2] == ["--serve"]:
        asyncio.run(_serve(int(sys.argv[2])))
    else:
        main(int((sys.argv[1:] or ["500"])[0]), int((sys.argv[2:] or ["50"])[0]))
