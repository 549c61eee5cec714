"""`gateway demo`: starts servers and the gateway, sends queries, and simulates an outage."""

import contextlib
import importlib.resources
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import FrameType

import click
import psycopg
import pymysql

from gateway.demo.clients import clients
from gateway.demo.server_process import DemoError, ServerProcess
from gateway.demo.servers import DemoServers, running_servers
from gateway.errors import GatewayError, TargetPathError

_START_TIMEOUT = 30.0
_STOP_SIGNALS = (signal.SIGTERM, signal.SIGINT)


def main(*, once: bool) -> int:
    """Run the demo, and return the exit code of the process.

    Args:
        once: Exit after the last query, instead of waiting for Ctrl-C.
    """
    # Set the handler of SIGINT explicitly, because a shell can start this process with SIGINT ignored.
    for number in _STOP_SIGNALS:
        signal.signal(number, _interrupt)
    try:
        with tempfile.TemporaryDirectory(prefix="gateway-demo-") as name:
            folder = Path(name)
            folder.chmod(0o755)  # the database servers run as other users, and must be able to enter the folder
            click.secho("1. Servers on loopback, in place of a remote network", bold=True)
            with running_servers(folder) as servers:
                _print_servers(servers)
                _demo(servers, once=once)
    except KeyboardInterrupt:
        click.echo("\nstopped")
    except DemoError as error:
        click.secho(f"the demo failed: {error}", fg="red", err=True)
        return 1
    return 0


def _demo(servers: DemoServers, *, once: bool) -> None:
    click.secho("\n2. The gateway in front of these servers", bold=True)
    with _gateway(servers):
        _wait_for(lambda: _all_ready(servers), _START_TIMEOUT)
        click.secho("\n3. Queries through the gateway", bold=True)
        for client in clients(servers):
            started = time.perf_counter()
            click.echo(f"   {client.backend:8} {client.query()}   ({(time.perf_counter() - started) * 1e3:.1f} ms)")
        click.secho("\n4. gateway status", bold=True)
        _status(servers)
        click.secho("\n5. An outage: every SSH connection is killed", bold=True)
        _outage(servers)
        if once:
            return
        click.secho("\n6. Try it yourself", bold=True)
        ops = servers.ports["ops"]
        click.echo(f"   status page  http://127.0.0.1:{ops}/\n   metrics      http://127.0.0.1:{ops}/metrics")
        click.echo(f"   commands     {sys.argv[0]} status --admin-socket {servers.folder}/admin.sock")
        for client in clients(servers):
            click.echo(f"   {client.backend:11}  {client.command}")
        _wait_for_signal()


def _wait_for_signal() -> None:
    """Wait for Ctrl-C or SIGTERM, and raise `KeyboardInterrupt`."""
    # With `signal.pause`, the process would miss a signal that arrives immediately before pause(2).
    previous = signal.pthread_sigmask(signal.SIG_BLOCK, _STOP_SIGNALS)
    try:
        click.echo("\nPress Ctrl-C to stop everything.")
        signal.sigwait(_STOP_SIGNALS)
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, previous)
    raise KeyboardInterrupt


def _print_servers(servers: DemoServers) -> None:
    by_name = {"MariaDB": servers.mariadb, "PostgreSQL": servers.postgres, "NFS": servers.nfs}
    click.echo(f"   SSH bastion  127.0.0.1:{servers.bastion.port}  {servers.bastion.software}")
    for name, server in by_name.items():
        if server is not None:
            click.echo(f"   {name:11}  127.0.0.1:{server.port}")
    for each in servers.skipped:
        click.secho(f"   skipped: {each}", fg="yellow")
    if not servers.backends:
        raise DemoError("no backend's server can run: install the packages for at least one of the servers above")


@contextlib.contextmanager
def _gateway(servers: DemoServers) -> Iterator[None]:
    config = _configuration(servers)
    arguments = [sys.executable, "-m", "gateway", "run", "-c", str(config)]
    log = servers.folder / "gateway.log"
    process = ServerProcess(arguments, log, environment=servers.environment())
    started = time.perf_counter()
    process.start(servers.ports["ops"])
    click.echo(f"   gateway run -c {config.name}   listening after {(time.perf_counter() - started) * 1e3:.0f} ms")
    try:
        yield
    finally:
        process.stop(signal.SIGTERM)


def _configuration(servers: DemoServers) -> Path:
    """Write a copy of configs/demo.yaml that contains only the backends in `servers.backends`. Return its path."""
    packaged = importlib.resources.files("gateway.demo").joinpath("demo.yaml")
    in_repository = Path(__file__).parents[2] / "configs" / "demo.yaml"
    text = packaged.read_text() if packaged.is_file() else in_repository.read_text()
    head, _, tail = text.partition("backends:\n")
    blocks = ["  " + block for block in tail.removeprefix("  ").split("\n  ")]
    kept, keep = [], False
    for block in blocks:
        if not block.startswith("    "):
            keep = block.strip().rstrip(":") in servers.backends
        if keep:
            kept.append(block)
    path = servers.folder / "demo.yaml"
    path.write_text(head + "backends:\n" + "\n".join(kept) + "\n")
    return path


def _all_ready(servers: DemoServers) -> bool:
    from gateway.ops.ops_api_client import OpsApiClient  # noqa: PLC0415 - slow to import

    require = ",".join(servers.backends)
    code, _ = OpsApiClient(None, str(servers.folder / "admin.sock")).get(f"/readyz?require={require}")
    return code == 200


def _wait_for(condition: Callable[[], bool], timeout: float) -> None:
    deadline = time.monotonic() + timeout
    while not condition():
        if time.monotonic() > deadline:
            raise DemoError(f"the backends are not up after {timeout:g} s")
        time.sleep(0.05)


def _status(servers: DemoServers) -> None:
    done = subprocess.run(  # noqa: S603 - a fixed command line
        [sys.executable, "-m", "gateway", "status", "--admin-socket", str(servers.folder / "admin.sock")],
        capture_output=True,
        text=True,
        timeout=20,
        check=False,
        env={**os.environ, "NO_COLOR": "1"},
    )
    if done.returncode != 0:
        raise DemoError(f"gateway status: {done.stderr.strip()}")
    click.echo("".join(f"   {line}\n" for line in done.stdout.splitlines()), nl=False)


def _outage(servers: DemoServers) -> None:
    client = clients(servers)[0]
    if servers.bastion.sshd:
        killed = servers.bastion.kill_sessions()
        click.echo(f"   killed {killed} sshd processes")
    else:
        servers.bastion.stop(signal.SIGKILL)
        servers.bastion.start()
        click.echo("   killed the bastion and started it again")
    started = time.perf_counter()
    try:
        result = client.query()
    except (pymysql.err.MySQLError, psycopg.Error, TargetPathError, GatewayError) as error:
        raise DemoError(f"the query after the outage failed: {error}") from error
    took = (time.perf_counter() - started) * 1e3
    click.echo(f"   {client.backend:8} {result}   ({took:.0f} ms, including the reconnect)")


def _interrupt(number: int, frame: FrameType | None) -> None:
    del number, frame
    raise KeyboardInterrupt
