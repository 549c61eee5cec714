"""Creates parts of gateway configurations that several tests use."""

from pathlib import Path

from gateway.demo import mariadb, nfs, postgres
from gateway.demo.sshd import Bastion
from tests.support.files import write_secret
from tests.support.gateway_process import Gateway


def ssh_tunnel(bastion: Bastion, via: str | None = None, more: str = "") -> str:
    """Return the configuration keys of a tunnel through `bastion`, as a YAML flow mapping."""
    through = f"via: {via}, " if via else ""
    return (
        f"{{kind: ssh, {through}host: {bastion.address}, port: {bastion.port}, user: {bastion.user}, "
        f"identity_files: [{bastion.client_key}], known_hosts: [{bastion.known_hosts}]{more}}}"
    )


def database_check(server: "mariadb.MariaDB | postgres.Postgres", folder: Path, more: str = "interval: 1s") -> str:
    """Return the configuration keys of a check of a database, as a YAML flow mapping."""
    secret = folder / f"{type(server).__name__}.secret"
    write_secret(secret, server.check_password)
    return f"{{user: {server.check_user}, password_file: {secret}, database: {server.database}, {more}}}"


def write_nfs(
    gateway: Gateway,
    bastion: Bastion,
    server: "nfs.NfsServer",
    port: int,
    check: str = "{interval: 2s}",
    volume: str = "",
    docker: str = "",
) -> None:
    """Write a configuration of an NFS backend behind a bastion; the backend admits clients with any source port."""
    gateway.write(f"""
        tunnels:
          bastion: {ssh_tunnel(bastion)}
        backends:
          media:
            kind: nfs
            via: bastion
            targets: ["127.0.0.1:{server.port}"]
            export: /media
            listen: 127.0.0.1:{port}
            allow_unprivileged_ports: true
            check: {check}
            volume: {volume or "null"}
        docker: {docker or "null"}
    """)


CHECK = "check: {interval: 1s, fast_interval: 200ms, down_interval: 300ms, timeout: 1s}"
