"""Runs database and NFS clients for the chaos tests. Each client checks that every response is correct."""

import contextlib
import hashlib
import random
import subprocess
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path
from typing import Any, Generic, Protocol, TypeVar

import psycopg
import pymysql

from gateway.demo.mariadb import MariaDB
from gateway.demo.postgres import Postgres
from tests.support.redis import Redis, RedisClient

PATIENCE = 25
"""Default for the number of seconds that a client waits for a response."""
MARGIN = 5.0
_PAUSE = 0.02


class WrongAnswerError(Exception):
    """The response does not match the request."""


@dataclass
class Attempt:
    """One attempt of one client.

    Args:
        began: The monotonic time of the start, in seconds.
        ended: The monotonic time of the end, in seconds.
        outcome: `ok`, `refused`, `failed`, `wrong` or `late`.
        detail: The error message; empty for `ok`.
    """

    began: float
    ended: float
    outcome: str
    detail: str = ""


class Client(threading.Thread):
    """Makes attempts one after the other, until `stop` is called.

    Args:
        kind: The name of this kind of client in the table of results.
        step: A function that makes one attempt, and raises an error if the attempt fails.
        margin: An attempt is `late` if it takes more than `step.patience` plus this number of seconds.
    """

    def __init__(self, kind: str, step: "Step", margin: float = MARGIN) -> None:
        super().__init__(daemon=True)
        self.kind = kind
        self.attempts: list[Attempt] = []
        self._step = step
        self._margin = margin
        self._stop = threading.Event()

    def run(self) -> None:
        while not self._stop.is_set():
            began = time.monotonic()
            outcome, detail = "ok", ""
            try:
                self._step()
            except WrongAnswerError as error:
                outcome, detail = "wrong", str(error)
            except Exception as error:  # noqa: BLE001 - a database driver can raise any error
                detail = f"{type(error).__name__}: {error}"
                outcome = "refused" if "refused" in detail.lower() else "failed"
            ended = time.monotonic()
            if ended - began > self._step.patience + self._margin:
                outcome, detail = "late", f"{ended - began:.1f} s; {detail}"
            self.attempts.append(Attempt(began, ended, outcome, detail.replace("\n", " ")[:200]))
            time.sleep(_PAUSE)
        self._step.close()

    @property
    def patience(self) -> float:
        """Seconds that the client waits for a response."""
        return self._step.patience

    def stop(self) -> None:
        """Stop after the current attempt."""
        self._stop.set()

    def next_success(self, since: float, within: float) -> float:
        """Wait for the first successful attempt that began after `since`, and return the monotonic time of its end.

        Raises:
            TimeoutError: No attempt succeeds within `within` seconds.
        """
        deadline = time.monotonic() + within
        while time.monotonic() < deadline:
            found = next((each for each in self.attempts if each.began > since and each.outcome == "ok"), None)
            if found is not None:
                return found.ended
            time.sleep(0.05)
        raise TimeoutError(f"a client of kind {self.kind} had no success within {within:g} s")

    def waits(self, since: float, until: float) -> list[float]:
        """Return the duration in seconds of each interruption that begins in the period from `since` to `until`.

        An interruption begins at the end of a failed attempt, and ends at the end of the next successful attempt.
        """
        found, broke = [], None
        for each in self.attempts:
            if each.outcome != "ok" and broke is None and since <= each.ended <= until:
                broke = each.ended
            elif each.outcome == "ok" and broke is not None:
                found.append(each.ended - broke)
                broke = None
        return found

    def longest_silence(self, since: float, until: float) -> float:
        """Return the longest time without a success that overlaps the period from `since` to `until`, in seconds.

        The part before `since` does not count. The part after `until` counts, until the next success.
        """
        ends = [each.ended for each in self.attempts if each.outcome == "ok"]
        return max((b - max(a, since) for a, b in pairwise(ends) if since <= b and a <= until), default=0.0)


@dataclass
class Step:
    """The action that a client repeats. A step can keep state between attempts, such as a connection.

    Args:
        patience: The number of seconds to wait for a response.
    """

    patience: int = field(default=PATIENCE, kw_only=True)

    def __call__(self) -> None:
        """Make one attempt."""
        raise NotImplementedError

    def close(self) -> None:
        """Release the state of the step, for example close its connection."""


class ClosableConnection(Protocol):
    """A connection that a client can close."""

    def close(self) -> None:
        """Close the connection."""


S = TypeVar("S")
C = TypeVar("C", bound=ClosableConnection)


@dataclass
class ConnectionStep(Step, Generic[S, C]):
    """Sends one request to a server through the gateway.

    Args:
        server: The server.
        port: The gateway's port on 127.0.0.1 for this server.
        keep: Whether all attempts use the same connection. Otherwise, each attempt opens a new connection.
    """

    server: S
    port: int
    keep: bool
    _connection: C | None = field(default=None, init=False)

    def connect(self) -> C:
        """Open a connection."""
        raise NotImplementedError

    def request(self, connection: C) -> None:
        """Send one request. Raise WrongAnswerError if the response does not match the request."""
        raise NotImplementedError

    def __call__(self) -> None:
        """See `Step`."""
        if self._connection is None:
            self._connection = self.connect()
        try:
            self.request(self._connection)
        except BaseException:
            self.close()
            raise
        if not self.keep:
            self.close()

    def close(self) -> None:
        """See `Step`."""
        connection, self._connection = self._connection, None
        if connection is not None:
            with contextlib.suppress(pymysql.err.MySQLError, psycopg.Error, OSError):
                connection.close()


@dataclass
class MySqlStep(ConnectionStep[MariaDB, "pymysql.connections.Connection[Any]"]):
    """Sends a random value to MariaDB in a query, and checks that the response contains this value."""

    def connect(self) -> "pymysql.connections.Connection[Any]":
        """See `ConnectionStep`."""
        return pymysql.connect(
            host="127.0.0.1", port=self.port, user=self.server.user, password=self.server.password,
            database=self.server.database, connect_timeout=self.patience, read_timeout=self.patience,
            write_timeout=self.patience, ssl_disabled=True,
        )  # fmt: skip

    def request(self, connection: "pymysql.connections.Connection[Any]") -> None:
        """See `ConnectionStep`."""
        token = f"{random.getrandbits(64):x}"
        with connection.cursor() as cursor:
            cursor.execute("SELECT %s, REPEAT('x', %s)", (token, size := random.randint(1, 50_000)))
            row = cursor.fetchone()
        if row != (token, "x" * size):
            raise WrongAnswerError(f"asked for {token}, got {str(row)[:80]}")


@dataclass
class PostgresStep(ConnectionStep[Postgres, "psycopg.Connection[Any]"]):
    """Inserts a row with a unique title in a transaction, and checks that exactly one row has this title."""

    written: int = 0
    name: str = field(default_factory=lambda: f"{random.getrandbits(48):x}")

    def connect(self) -> "psycopg.Connection[Any]":
        """See `ConnectionStep`."""
        return psycopg.connect(
            host="127.0.0.1", port=self.port, user=self.server.user, password=self.server.password,
            dbname=self.server.database, connect_timeout=self.patience, tcp_user_timeout=self.patience * 1000,
        )  # fmt: skip

    def request(self, connection: "psycopg.Connection[Any]") -> None:
        """See `ConnectionStep`."""
        title = f"{self.name}-{self.written}"
        self.written += 1
        with connection.transaction():
            connection.execute("INSERT INTO reports (title) VALUES (%s)", (title,))
            row = connection.execute("SELECT count(*) FROM reports WHERE title = %s", (title,)).fetchone()
        if row != (1,):
            raise WrongAnswerError(f"row {title} exists {row} times")


@dataclass
class RedisStep(ConnectionStep[Redis, RedisClient]):
    """Writes a random value to Redis, and checks that Redis returns the same value."""

    server: Redis

    def connect(self) -> RedisClient:
        """See `ConnectionStep`."""
        return RedisClient(self.port, self.server.password, self.patience)

    def request(self, connection: RedisClient) -> None:
        """See `ConnectionStep`."""
        token = f"{random.getrandbits(64):x}"
        connection.run("SET", token, token * 100, "EX", "60")
        answer = connection.run("GET", token)
        if answer != token * 100:
            raise WrongAnswerError(f"asked for {token}, got {str(answer)[:80]}")


@dataclass
class NfsStep(Step):
    """Reads a file over NFS, and compares the file's checksum with the expected checksum."""

    port: int
    path: str
    digest: str

    def __call__(self) -> None:
        """See `Step`."""
        url = f"nfs://127.0.0.1{self.path}?version=4&nfsport={self.port}&timeo={self.patience}&retrans=0&autoreconnect=0"
        try:
            done = subprocess.run(["nfs-cat", url], capture_output=True, timeout=self.patience, check=False)
        except subprocess.TimeoutExpired as error:
            raise TimeoutError("nfs-cat did not exit") from error
        if done.returncode != 0:
            raise OSError(done.stderr.decode(errors="replace").strip()[-150:] or f"exit code {done.returncode}")
        if hashlib.sha256(done.stdout).hexdigest() != self.digest:
            raise WrongAnswerError(f"{len(done.stdout)} bytes with another checksum")


def random_file(path: Path, size: int) -> str:
    """Write a file of `size` random bytes; return the checksum of the file."""
    data = random.randbytes(size)
    path.write_bytes(data)
    return hashlib.sha256(data).hexdigest()


Make = Callable[[], Step]
