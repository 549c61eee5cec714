"""Defines the faults that the chaos tests inject, for example a killed SSH server or dropped packets."""

import contextlib
import os
import random
import shutil
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from gateway.demo.sshd import make_key
from tests.soak.chaos_site import Site


@dataclass(frozen=True)
class Fault:
    """A fault that the chaos tests can inject.

    Args:
        name: The name of the fault, for the table of results and the option `--only`.
        injected: The context manager that starts the fault, and ends it if the fault lasts for some time.
        lasts: The minimum and maximum duration of the fault in seconds.
        possible: A function that returns whether this machine supports the fault.
        only_asked: Whether the tests inject this fault only if the option `--only` selects it.
        failures: The number of attempts that each client is allowed to fail because of the fault. More failures are
            allowed if the fault is not `replaced` and lasts longer than a client waits for a response.
        program_failures: The number of failures that each client of the tunnel `cloud` is allowed, if this number is
            greater than `failures`. The program of this tunnel accepts a connection before the program connects to
            the target. If the target is down, clients are therefore reset until a check finds that it is down.
        silence: The maximum time in seconds for which a client has no success, in addition to the duration of the
            fault.
        replaced: Whether the gateway can serve clients again before the fault ends, for example over another path.
            If so, the duration of the fault is not added to `silence`.
        own_words: Error messages that do not count as failures, because the server sends them when it stops or
            starts.
    """

    name: str
    injected: Callable[[Site], "contextlib.AbstractContextManager[None]"]
    lasts: tuple[float, float] = (0.0, 0.0)
    possible: Callable[[Site], bool] = lambda _: True
    only_asked: bool = False
    failures: int = 1
    program_failures: int = 0
    silence: float = 12.0
    replaced: bool = False
    own_words: tuple[str, ...] = ()


@contextmanager
def _kill_session(site: Site) -> Iterator[None]:
    sessions = site.bastion.sessions()
    if sessions:
        site.bastion.kill_session(random.choice(sessions))
    yield


@contextmanager
def _kill_sessions(site: Site) -> Iterator[None]:
    site.bastion.kill_sessions()
    yield


@contextmanager
def _freeze_session(site: Site) -> Iterator[None]:
    sessions = site.bastion.sessions()
    if not sessions:
        yield
        return
    frozen = random.choice(sessions)
    site.bastion.kill_session(frozen, signal.SIGSTOP)
    try:
        yield
    finally:
        site.bastion.kill_session(frozen, signal.SIGCONT)


@contextmanager
def _freeze_sessions(site: Site) -> Iterator[None]:
    site.bastion.kill_sessions(signal.SIGSTOP)
    try:
        yield
    finally:
        site.bastion.kill_sessions(signal.SIGCONT)


@contextmanager
def _stall(site: Site) -> Iterator[None]:
    site.bastion.freeze()
    try:
        yield
    finally:
        site.bastion.thaw()


@contextmanager
def _bastion_down(site: Site) -> Iterator[None]:
    site.bastion.crash()
    try:
        yield
    finally:
        site.bastion.start()


@contextmanager
def _spare_down(site: Site) -> Iterator[None]:
    site.wait_in_use("ledger", "spare")
    site.spare.crash()
    try:
        yield
    finally:
        site.spare.start()


@contextmanager
def _spare_stalled(site: Site) -> Iterator[None]:
    site.wait_in_use("ledger", "spare")
    site.spare.freeze()
    try:
        yield
    finally:
        site.spare.thaw()


@contextmanager
def _spare_dropped(site: Site) -> Iterator[None]:
    site.wait_in_use("ledger", "spare")
    with _filtered(lambda site: site.spare.port, "DROP")(site):
        yield


@contextmanager
def _program_killed(site: Site) -> Iterator[None]:
    site.signal_programs(signal.SIGKILL)
    yield


@contextmanager
def _program_stopped(site: Site) -> Iterator[None]:
    site.signal_programs(signal.SIGSTOP)
    try:
        yield
    finally:
        site.signal_programs(signal.SIGCONT)


@contextmanager
def _program_noisy(site: Site) -> Iterator[None]:
    """Kill the program of the tunnel `cloud`; the restarted program prints 100 MB to its standard error."""
    noisy = site.folder / "noisy"
    noisy.touch()
    site.signal_programs(signal.SIGKILL)
    try:
        yield
    finally:
        noisy.unlink()


def _filtered(
    port: Callable[[Site], int], *verdict: str
) -> Callable[[Site], "contextlib.AbstractContextManager[None]"]:
    @contextmanager
    def injected(site: Site) -> Iterator[None]:
        rules = [
            ["INPUT", "-i", "lo", "-p", "tcp", flag, str(port(site)), "-j", *verdict]
            for flag in ("--dport", "--sport")
        ][: 1 if "tcp-reset" in verdict else 2]
        for rule in rules:
            subprocess.run(["iptables", "-w", "-I", *rule], check=True, timeout=10)
        try:
            yield
        finally:
            for rule in rules:
                subprocess.run(["iptables", "-w", "-D", *rule], check=False, timeout=10)

    return injected


@contextmanager
def _mariadb_restart(site: Site) -> Iterator[None]:
    site.mariadb.stop(signal.SIGKILL)
    try:
        yield
    finally:
        site.mariadb.start()


@contextmanager
def _mariadb_frozen(site: Site) -> Iterator[None]:
    site.mariadb.send(signal.SIGSTOP)
    try:
        yield
    finally:
        site.mariadb.send(signal.SIGCONT)


@contextmanager
def _postgres_restart(site: Site) -> Iterator[None]:
    site.postgres.stop()
    try:
        yield
    finally:
        site.postgres.start()


@contextmanager
def _redis_restart(site: Site) -> Iterator[None]:
    site.redis.stop(signal.SIGKILL)
    try:
        yield
    finally:
        site.redis.start()


@contextmanager
def _redis_frozen(site: Site) -> Iterator[None]:
    site.redis.send(signal.SIGSTOP)
    try:
        yield
    finally:
        site.redis.send(signal.SIGCONT)


@contextmanager
def _nfs_restart(site: Site) -> Iterator[None]:
    assert site.nfs is not None
    site.nfs.stop(signal.SIGKILL)
    try:
        yield
    finally:
        site.nfs.start()


@contextmanager
def _disk_full(site: Site) -> Iterator[None]:
    assert site.nfs is not None
    filler = site.nfs.export / "filler"
    with contextlib.suppress(OSError), filler.open("wb") as file:
        while True:
            file.write(bytes(65536))
    try:
        yield
    finally:
        filler.unlink()


@contextmanager
def _wrong_key(site: Site) -> Iterator[None]:
    """Remove the gateway's key from the bastion, and close all connections."""
    allowed = site.bastion.folder / "authorized_keys"
    before = allowed.read_text()
    allowed.write_text("")
    site.bastion.kill_sessions()
    try:
        yield
    finally:
        allowed.write_text(before)
        site.admin.post("/-/tunnels/bastion/reconnect")


@contextmanager
def _rotated_key(site: Site) -> Iterator[None]:
    """Replace the SSH key on the gateway and the bastion together; clients must not notice."""
    make_key(site.bastion.client_key)
    site.bastion.authorize()
    yield


@contextmanager
def _reload(site: Site) -> Iterator[None]:
    site.gateway.send(signal.SIGHUP)
    yield


@contextmanager
def _gateway_stopped(site: Site) -> Iterator[None]:
    """Suspend the gateway's process, as `docker pause` does. When the process resumes, its clocks have jumped."""
    site.gateway.send(signal.SIGSTOP)
    try:
        yield
    finally:
        site.gateway.send(signal.SIGCONT)


def _root(_: Site) -> bool:
    return os.geteuid() == 0 and shutil.which("iptables") is not None


def _has_nfs(site: Site) -> bool:
    return site.nfs is not None


FAULTS = [
    Fault("kill one session", _kill_session, silence=3),
    Fault("kill all sessions", _kill_sessions, silence=4),
    Fault("freeze one session", _freeze_session, (4, 20), replaced=True, silence=11),
    Fault("freeze all sessions", _freeze_sessions, (4, 20), replaced=True, silence=12),
    Fault("stall the path", _stall, (2, 15)),
    Fault("bastion down", _bastion_down, (0.5, 6)),
    Fault("drop packets", _filtered(lambda site: site.bastion.port, "DROP"), (2, 15), _root),
    Fault(
        "reset packets",
        _filtered(lambda site: site.bastion.port, "REJECT", "--reject-with", "tcp-reset"),
        (0.5, 4),
        _root,
    ),
    Fault("one path killed", _spare_down, (0.5, 6), replaced=True, silence=4),
    Fault("one path stalled", _spare_stalled, (11, 15), replaced=True, silence=9),
    Fault("one path dropped", _spare_dropped, (11, 15), _root, replaced=True, silence=9),
    Fault("program killed", _program_killed, silence=4),
    Fault("program stopped", _program_stopped, (14, 18), replaced=True, failures=2, silence=12),
    Fault("program noisy", _program_noisy, (2, 5), replaced=True, silence=5),
    Fault("mariadb killed", _mariadb_restart, (0.5, 3), failures=3, program_failures=10),
    Fault("mariadb frozen", _mariadb_frozen, (1, 8)),
    Fault(
        "postgres restarted",
        _postgres_restart,
        (0.5, 3),
        failures=3,
        own_words=("the database system is", "terminating connection due to administrator"),
    ),
    Fault("postgres unreachable", _filtered(lambda site: site.postgres.port, "DROP"), (2, 8), _root),
    Fault("redis killed", _redis_restart, (0.5, 3), failures=3),
    Fault("redis frozen", _redis_frozen, (1, 8)),
    Fault("nfs killed", _nfs_restart, (0.5, 3), _has_nfs),
    Fault("disk full", _disk_full, (2, 5), _has_nfs, failures=0),
    Fault("wrong key", _wrong_key, (1, 3)),
    Fault("rotated key", _rotated_key, (2, 3), failures=0),
    Fault("reload", _reload, failures=0),
    Fault("long stall", _stall, (39, 39), only_asked=True, failures=0),
    Fault(
        "long silence",
        _filtered(lambda site: site.bastion.port, "DROP"),
        (39, 39),
        _root,
        only_asked=True,
        failures=0,
    ),
    Fault("gateway stopped", _gateway_stopped, (1, 9)),
]


def settled(site: Site, seconds: float) -> float | None:
    """Wait until every backend is up; return how many seconds the recovery took, or None after a timeout."""
    began = time.monotonic()
    while time.monotonic() - began < seconds:
        with contextlib.suppress(Exception):
            if site.up():
                return time.monotonic() - began
        time.sleep(0.05)
    return None
