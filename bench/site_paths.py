"""Start the benchmark's load server, and the paths to this server that the benchmark compares, all on loopback."""

import contextlib
import importlib.util
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT))

from gateway.demo import postgres
from gateway.demo.server_process import ServerProcess, find, free_port
from gateway.demo.sshd import Bastion

LOAD = ROOT / "bench" / "bin" / "load"
DELAYS_MS = (20, 50, 100)
"""Round-trip times of the long paths, in milliseconds."""


@dataclass
class MeasuredPath:
    """One path to the load server.

    Args:
        name: Name of the path in the table.
        port: Port to which clients connect.
        delayed: Ports of the same path with a delay, by round-trip time in milliseconds.
        process: The process whose CPU time and memory are measured; None for the direct path.
        database: Port of a PostgreSQL server; 0 if the server does not run.
        bulk: Port for a bulk transfer that runs during queries; 0 if the transfer uses the port of the queries.
        second: A second process of the same kind on another port, which shares the load; None if there is none.
    """

    name: str
    port: int
    delayed: dict[int, int] = field(default_factory=dict)
    process: ServerProcess | None = None
    database: int = 0
    bulk: int = 0
    second: "MeasuredPath | None" = None

    def cpu(self) -> float:
        """Return the CPU time of the process and its children in seconds."""
        ticks = os.sysconf("SC_CLK_TCK")
        total = 0.0
        for pid in self._pids():
            with contextlib.suppress(FileNotFoundError, ProcessLookupError):
                fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
                total += (int(fields[11]) + int(fields[12])) / ticks
        return total

    def memory(self) -> float:
        """Return the resident memory of the process and its children in KiB."""
        total = 0.0
        for pid in self._pids():
            with contextlib.suppress(FileNotFoundError, ProcessLookupError):
                for line in Path(f"/proc/{pid}/status").read_text().splitlines():
                    if line.startswith("VmRSS:"):
                        total += float(line.split()[1])
        return total

    def _pids(self) -> list[int]:
        if self.process is None:
            return []
        children = subprocess.run(
            ["pgrep", "-P", str(self.process.pid)], capture_output=True, text=True, check=False, timeout=10
        )
        return [self.process.pid, *map(int, children.stdout.split())]


def build() -> None:
    """Compile the load program if the binary is missing or older than the source."""
    source = ROOT / "bench" / "load.c"
    if LOAD.exists() and LOAD.stat().st_mtime > source.stat().st_mtime:
        return
    compiler = find("gcc") or find("cc")
    if compiler is None:
        sys.exit("the benchmark's load program needs a C compiler: install the package gcc")
    LOAD.parent.mkdir(exist_ok=True)
    subprocess.run([compiler, "-O2", "-o", str(LOAD), str(source)], check=True, timeout=60)


Start = Callable[..., ServerProcess]


def starter(folder: Path, stack: contextlib.ExitStack) -> Start:
    """Return a function that starts a process, and waits until the process has opened its ports.

    `stack` stops all processes that the function has started.
    """

    def start(arguments: list[str], name: str, *ports: int, root: Path = ROOT) -> ServerProcess:
        process = ServerProcess(arguments, folder / f"{name}.log", environment={"PYTHONPATH": str(root)})
        process.start(ports[0])
        stack.callback(process.stop)
        for port in ports[1:]:
            process.wait_listening(port)
        return process

    return start


def _begin(folder: Path, stack: contextlib.ExitStack, bastion_folder: str = "bastion") -> tuple[Start, int, Bastion]:
    """Start the load server and an sshd.

    Returns:
        A function that starts more processes, the port of the load server, and the sshd.
    """
    start, server = starter(folder, stack), free_port()
    start([str(LOAD), "serve", str(server)], "load", server)
    bastion = Bastion(folder / bastion_folder).start()
    stack.callback(bastion.stop)
    return start, server, bastion


@contextlib.contextmanager
def running(folder: Path, other: Path | None = None, tunnel: str = "") -> Iterator[list[MeasuredPath]]:
    """Start the load server and all paths; stop them at the end of the block.

    Args:
        folder: Directory for the files of the server and the paths.
        other: Another checkout, whose gateway replaces ssh in the comparison.
        tunnel: More options of the gateways' tunnels, such as `, data_plane: asyncssh`.
    """
    build()
    with contextlib.ExitStack() as stack:
        start, server, bastion = _begin(folder, stack)
        far = {}
        for delay in DELAYS_MS:
            far[delay] = free_port()
            start(
                [str(LOAD), "delay", str(far[delay]), str(bastion.port), str(delay * 500)],
                f"delay{delay}",
                far[delay],
            )
        database = _database(folder, stack)
        far[0] = bastion.port
        paths = [
            MeasuredPath("direct", server, database=database),
            _gateway(folder, bastion, server, far, database, start, tunnel),
        ]
        if other is not None:
            (folder / "other").mkdir()
            yield [*paths, _gateway(folder / "other", bastion, server, far, database, start, tunnel, other)]
            return
        yield [
            *paths,
            ssh_forward("ssh -L", [], bastion, server, far, database, start),
            ssh_forward("ssh -L, AES-GCM", ["-c", "aes128-gcm@openssh.com"], bastion, server, far, database, start),
        ]


@contextlib.contextmanager
def with_cipher(folder: Path, cipher: str) -> Iterator[list[MeasuredPath]]:
    """Run the gateway and `ssh -L`; both allow only the cipher `cipher`."""
    build()
    with contextlib.ExitStack() as stack:
        start, server, bastion = _begin(folder, stack)
        far = {0: bastion.port}
        yield [
            _gateway(folder, bastion, server, far, 0, start, f", ciphers: [{cipher}]"),
            ssh_forward("ssh -L", ["-c", cipher], bastion, server, far, 0, start),
        ]


@contextlib.contextmanager
def with_two_connections(folder: Path) -> Iterator[list[MeasuredPath]]:
    """Run a gateway whose tunnel has two SSH connections, and two processes of `ssh -L`; all use AES-GCM."""
    build()
    with contextlib.ExitStack() as stack:
        start, server, bastion = _begin(folder, stack)
        far = {0: bastion.port}
        options = ["-c", "aes128-gcm@openssh.com"]
        first, second = (
            ssh_forward("two ssh -L, AES-GCM", options, bastion, server, far, 0, start) for _ in range(2)
        )
        first.second = second
        pool = ", connections: {min: 2, max: 2}"
        yield [_gateway(folder, bastion, server, far, 0, start, pool), first]


@contextlib.contextmanager
def beside_sshtunnel(folder: Path) -> Iterator[list[MeasuredPath]]:
    """Run the load server, the gateway, and the Python package sshtunnel if it is installed."""
    with contextlib.ExitStack() as stack:
        start, server, bastion = _begin(folder, stack, "bastion2")
        (folder / "2").mkdir()
        paths = [MeasuredPath("direct", server), _gateway(folder / "2", bastion, server, {0: bastion.port}, 0, start)]
        if importlib.util.find_spec("sshtunnel"):
            listen = free_port()
            script = str(ROOT / "bench" / "sshtunnel_forward.py")
            arguments = [str(bastion.port), bastion.user, str(bastion.client_key), str(listen), str(server)]
            paths.append(
                MeasuredPath(
                    "sshtunnel", listen, process=start([sys.executable, script, *arguments], "sshtunnel", listen)
                )
            )
        yield paths


@contextlib.contextmanager
def straight(folder: Path, other: Path | None = None) -> Iterator[list[MeasuredPath]]:
    """Run the load server, the gateway without a tunnel, and HAProxy in TCP mode if HAProxy is installed.

    Args:
        folder: Directory for the files of these programs.
        other: Another checkout, whose gateway replaces HAProxy in the comparison.
    """
    build()
    with contextlib.ExitStack() as stack:
        server, proxy = free_port(), free_port()
        start = starter(folder, stack)
        start([str(LOAD), "serve", str(server)], "load", server)
        paths = [MeasuredPath("direct", server), _straight_gateway(folder, server, start)]
        if other is not None:
            (folder / "straight").mkdir()
            paths.append(_straight_gateway(folder / "straight", server, start, other))
        haproxy = find("haproxy") if other is None else None
        if haproxy:
            (folder / "haproxy.cfg").write_text(
                "global\n  maxconn 8000\n  nbthread 1\ndefaults\n  mode tcp\n  timeout connect 10s\n"
                "  timeout client 1h\n  timeout server 1h\n"
                f"listen load\n  bind 127.0.0.1:{proxy}\n  server one 127.0.0.1:{server}\n"
            )
            process = start([haproxy, "-f", str(folder / "haproxy.cfg"), "-db"], "haproxy", proxy)
            paths.append(MeasuredPath("HAProxy", proxy, process=process))
        yield paths


def _straight_gateway(folder: Path, server: int, start: Start, root: Path = ROOT) -> MeasuredPath:
    listen, ops = free_port(), free_port()
    (folder / "straight.yaml").write_text(
        f"ops: {{listen: 127.0.0.1:{ops}, admin_socket: {folder}/straight.sock}}\n"
        "shutdown: {delay: 0s, drain: 1s}\n"
        f"backends: {{load: {{kind: tcp, targets: ['127.0.0.1:{server}'], listen: 127.0.0.1:{listen}, "
        "max_connections: 100000, check: {interval: 1h}}}\n"
    )
    arguments = [sys.executable, "-m", "gateway", "run", "-c", str(folder / "straight.yaml")]
    process = start(arguments, f"straight-{_name(root)}", ops, root=root)
    return MeasuredPath(_name(root), listen, process=process)


def _name(root: Path) -> str:
    return "gateway" if root == ROOT else root.name


def _database(folder: Path, stack: contextlib.ExitStack) -> int:
    """Start a PostgreSQL server with pgbench's tables; return the port, or 0 if PostgreSQL is not installed."""
    pgbench = find("pgbench", "/usr/lib/postgresql/*/bin")
    if not postgres.available() or pgbench is None:
        return 0
    server = postgres.Postgres(folder / "postgres").start()
    stack.callback(server.stop)
    os.environ.update(PGUSER=server.user, PGPASSWORD=server.password, PGDATABASE=server.database, PGHOST="127.0.0.1")
    arguments = ["-i", "-q", "-s", "5", "-p", str(server.port)]
    subprocess.run([pgbench, *arguments], check=True, timeout=120, capture_output=True)
    return server.port


def _gateway(
    folder: Path,
    bastion: Bastion,
    server: int,
    far: dict[int, int],
    database: int,
    start: Start,
    more: str = "",
    root: Path = ROOT,
) -> MeasuredPath:
    ops, listen, bulk, queries = free_port(), free_port(), free_port(), free_port()
    delayed = {delay: free_port() for delay in far}
    keys = f"kind: ssh, host: 127.0.0.1, user: {bastion.user}, identity_files: [{bastion.client_key}]{more}"
    known = f"known_hosts: [{bastion.known_hosts}], host_key_alias: '[127.0.0.1]:{bastion.port}'"
    options = f"kind: tcp, targets: ['127.0.0.1:{server}'], max_connections: 100000, check: {{interval: 1h}}"
    lines = [
        f"ops: {{listen: 127.0.0.1:{ops}, admin_socket: {folder}/admin.sock}}",
        "shutdown: {delay: 0s, drain: 1s}",
        "tunnels:",
        # A transfer that runs during queries uses the tunnel `bulk`. The transfer then has separate SSH connections,
        # like the transfers of a backend of kind nfs.
        *(
            f"  {name}: {{{keys}, port: {bastion.port}, known_hosts: [{bastion.known_hosts}]}}"
            for name in ("near", "bulk")
        ),
        *(f"  far{delay}: {{{keys}, port: {port}, {known}}}" for delay, port in far.items()),
        "backends:",
        f"  load: {{{options}, via: near, listen: 127.0.0.1:{listen}}}",
        f"  bulk: {{{options}, via: bulk, listen: 127.0.0.1:{bulk}}}",
        *(
            f"  far{delay}: {{{options}, via: far{delay}, listen: 127.0.0.1:{port}}}"
            for delay, port in delayed.items()
        ),
    ]
    if database:
        target = f"kind: postgres, targets: ['127.0.0.1:{database}'], via: near"
        lines.append(f"  queries: {{{target}, listen: 127.0.0.1:{queries}}}")
    (folder / "gateway.yaml").write_text("\n".join(lines) + "\n")
    arguments = [sys.executable, "-m", "gateway", "run", "-c", str(folder / "gateway.yaml")]
    process = start(arguments, _name(root), ops, listen, *delayed.values(), root=root)
    time.sleep(1.5)  # The gateway needs several round trips to open and measure a slow tunnel.
    return MeasuredPath(_name(root), listen, delayed, process, queries if database else 0, bulk)


def ssh_forward(
    name: str, options: list[str], bastion: Bastion, server: int, far: dict[int, int], database: int, start: Start
) -> MeasuredPath:
    """Start `ssh -L` with additional options to the port `server`; return its path."""
    near, queries = free_port(), free_port()
    delayed = {delay: free_port() for delay in far}
    alias = f"HostKeyAlias=[127.0.0.1]:{bastion.port}"
    known = f"UserKnownHostsFile={bastion.known_hosts}"
    common = ["ssh", "-N", "-i", str(bastion.client_key), "-o", known, "-o", alias, *options]
    for delay, port in far.items():
        forward = f"127.0.0.1:{delayed[delay]}:127.0.0.1:{server}"
        start([*common, "-p", str(port), "-L", forward, f"{bastion.user}@127.0.0.1"], "ssh", delayed[delay])
    forward = f"127.0.0.1:{near}:127.0.0.1:{server}"
    also = ["-L", f"127.0.0.1:{queries}:127.0.0.1:{database}"] if database else []
    login = f"{bastion.user}@127.0.0.1"
    process = start([*common, "-p", str(bastion.port), "-L", forward, *also, login], "ssh", near)
    return MeasuredPath(name, near, delayed, process, queries if database else 0)
