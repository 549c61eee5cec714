"""Runs Redis servers and Sentinels, and connects to them."""

import secrets
import signal
import socket
import time
from pathlib import Path
from typing import Self

from gateway.demo.server_process import ServerProcess, find, free_port
from tests.support.certificates import Issued

Answer = str | int | None | list["Answer"]


class RedisError(Exception):
    """An error reply."""


class RedisClient:
    """A connection to a Redis server.

    Args:
        port: The port on 127.0.0.1.
        password: The password of the default user; None to send no password.
    """

    def __init__(self, port: int, password: str | None = None, timeout: float = 5.0) -> None:
        self._sock = socket.create_connection(("127.0.0.1", port), timeout)
        self._file = self._sock.makefile("rb")
        if password is not None:
            try:
                self.run("AUTH", password)
            except BaseException:
                self.close()
                raise

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        self._file.close()
        self._sock.close()

    def run(self, *words: str) -> Answer:
        """Run a command.

        Raises:
            RedisError: The server replied with an error.
            OSError: The connection failed.
        """
        self._sock.sendall(b"*%d\r\n" % len(words) + b"".join(b"$%d\r\n%s\r\n" % (len(w), w.encode()) for w in words))
        return self._read()

    def _read(self) -> Answer:
        line = self._file.readline()
        if not line.endswith(b"\r\n"):
            raise ConnectionResetError
        mark, rest = line[:1], line[1:-2].decode()
        if mark == b"-":
            raise RedisError(rest)
        if mark == b":":
            return int(rest)
        if mark == b"$":
            return self._file.read(int(rest) + 2)[:-2].decode() if int(rest) >= 0 else None
        if mark == b"*":
            return [self._read() for _ in range(int(rest))]
        return rest


class Redis:
    """A Redis server on 127.0.0.1 that requires a password and does not save its data.

    Args:
        folder: The folder for the server's files.
        options: Additional lines for redis.conf.
        of: The primary of which this server is a replica; None to run a primary.
        tls: The certificate for TLS connections, which the server accepts on `tls_port`; None to accept no TLS
            connections.
    """

    check_user = "gateway"

    def __init__(self, folder: Path, *options: str, of: "Redis | None" = None, tls: Issued | None = None) -> None:
        folder.mkdir(parents=True)
        self.port, self.tls_port = free_port(), free_port()
        self.password: str = of.password if of else secrets.token_hex(8)
        self.check_password: str = of.check_password if of else secrets.token_hex(8)
        lines = [
            f"port {self.port}", "bind 127.0.0.1", f"dir {folder}", 'save ""', f"requirepass {self.password}",
            f"masterauth {self.password}", "repl-diskless-sync-delay 0",
            f"user {self.check_user} on >{self.check_password} -@all +ping +role +info",
            *([f"replicaof 127.0.0.1 {of.port}"] if of else []), *options,
        ]  # fmt: skip
        if tls is not None:
            lines += [
                f"tls-port {self.tls_port}", f"tls-cert-file {tls.certificate}", f"tls-key-file {tls.key}",
                f"tls-ca-cert-file {tls.ca}", "tls-auth-clients no",
            ]  # fmt: skip
        config = folder / "redis.conf"
        config.write_text("\n".join(lines) + "\n")
        self._process = ServerProcess([find("redis-server") or "redis-server", str(config)], folder / "log")

    def start(self) -> "Redis":
        self._process.start(self.port)
        return self

    def stop(self, number: signal.Signals = signal.SIGKILL) -> None:
        self._process.stop(number)

    def send(self, number: signal.Signals) -> None:
        self._process.send(number)

    def connect(self, port: int | None = None) -> RedisClient:
        """Open a connection, and log in as the default user.

        Args:
            port: The port to connect to, such as a port of the gateway; None to connect to the server's own port.
        """
        return RedisClient(port or self.port, self.password)

    def run(self, *words: str) -> Answer:
        """Run one command as the default user."""
        with self.connect() as client:
            return client.run(*words)

    @property
    def role(self) -> str:
        """The role that the server reports: `master` or `slave`; empty if the connection fails.

        The connection can fail because the server closes all connections when it changes its role.
        """
        try:
            answer = self.run("ROLE")
        except ConnectionError:
            return ""
        assert isinstance(answer, list)
        return str(answer[0])

    def wait_replicating(self, timeout: float = 20.0) -> None:
        """Wait until this replica is connected to its primary."""
        deadline = time.monotonic() + timeout
        while "master_link_status:up" not in str(self.run("INFO", "replication")):
            assert time.monotonic() < deadline
            time.sleep(0.05)


class Sentinel:
    """A Redis Sentinel that monitors one primary and can start a failover alone (quorum 1).

    Args:
        folder: The folder for the Sentinel's files.
        primary: The server that the Sentinel monitors.
    """

    def __init__(self, folder: Path, primary: Redis) -> None:
        folder.mkdir(parents=True)
        self.port = free_port()
        config = folder / "sentinel.conf"
        config.write_text(
            f"port {self.port}\nbind 127.0.0.1\ndir {folder}\nprotected-mode no\n"
            f"sentinel monitor shop 127.0.0.1 {primary.port} 1\nsentinel auth-pass shop {primary.password}\n"
            "sentinel down-after-milliseconds shop 5000\nsentinel failover-timeout shop 10000\n"
        )
        program = find("redis-server") or "redis-server"
        self._process = ServerProcess([program, str(config), "--sentinel"], folder / "log")

    def start(self) -> "Sentinel":
        self._process.start(self.port)
        return self

    def stop(self) -> None:
        self._process.stop()

    @property
    def primary_port(self) -> int:
        """The port of the server that the Sentinel reports as the primary."""
        with RedisClient(self.port) as client:
            answer = client.run("SENTINEL", "GET-MASTER-ADDR-BY-NAME", "shop")
        assert isinstance(answer, list)
        return int(str(answer[1]))

    def fail_over(self, timeout: float = 20.0) -> None:
        """Wait until the Sentinel knows a replica that it can promote, and then force a failover."""
        deadline = time.monotonic() + timeout
        while True:
            try:
                with RedisClient(self.port) as client:
                    client.run("SENTINEL", "FAILOVER", "shop")
            except RedisError as error:
                if not any(code in str(error) for code in ("NOGOODSLAVE", "INPROG")) or time.monotonic() > deadline:
                    raise
                time.sleep(0.2)
            else:
                return

    def wait_replicas(self, count: int, timeout: float = 20.0) -> None:
        """Wait until the Sentinel knows at least `count` replicas."""
        deadline = time.monotonic() + timeout
        with RedisClient(self.port) as client:
            while len(list(client.run("SENTINEL", "REPLICAS", "shop") or [])) < count:  # type: ignore[arg-type]
                assert time.monotonic() < deadline
                time.sleep(0.1)
