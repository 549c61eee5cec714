"""Creates the configuration of the gateway for the chaos tests."""

import textwrap
from pathlib import Path

from gateway.demo import mariadb, nfs, postgres
from gateway.demo.sshd import Bastion
from tests.support.files import write_secret
from tests.support.redis import Redis


def chaos_config(
    folder: Path,
    ops: int,
    bastion: Bastion,
    spare: Bastion,
    maria: mariadb.MariaDB,
    pg: postgres.Postgres,
    redis: Redis,
    files: nfs.NfsServer | None,
    ports: dict[str, int],
) -> str:
    """Write the password files, and return the configuration of the gateway."""
    for name, secret in (("maria", maria.check_password), ("pg", pg.check_password), ("redis", redis.check_password)):
        write_secret(folder / f"{name}.secret", secret)

    def of(name: str, server: mariadb.MariaDB | postgres.Postgres | Redis, secret: str, more: str = "") -> str:
        """Return the keys `targets`, `listen`, `hold` and `check` of a database backend."""
        check = f"user: {server.check_user}, password_file: {folder}/{secret}.secret, interval: 2s{more}"
        return (
            f'targets: ["127.0.0.1:{server.port}"], listen: "127.0.0.1:{ports[name]}", hold: 20s, check: {{{check}}}'
        )

    media = f"""
          media:
            kind: nfs
            via: bastion
            targets: ["127.0.0.1:{files.port if files else 0}"]
            listen: 127.0.0.1:{ports["media"]}
            export: /media
            hold: 20s
            allow_unprivileged_ports: true
            check: {{interval: 2s}}
    """
    text = f"""
        gateway: {{instance: chaos, state_dir: {folder}/state}}
        ops: {{listen: "127.0.0.1:{ops}", admin_socket: {folder}/admin.sock}}
        shutdown: {{delay: 0s, drain: 3s}}
        tunnels:
          bastion:
            kind: ssh
            host: 127.0.0.1
            port: {bastion.port}
            user: {bastion.user}
            identity_files: [{bastion.client_key}]
            known_hosts: [{bastion.known_hosts}]
          spare:
            kind: ssh
            host: {spare.address}
            port: {spare.port}
            user: {spare.user}
            identity_files: [{spare.client_key}]
            known_hosts: [{spare.known_hosts}]
            data_plane: asyncssh
          cloud:
            kind: command
            mode: port
            command: [{folder}/program, "{{local_port}}", "{{host}}", "{{port}}"]
        backends:
          orders: {{kind: mysql, via: bastion, {of("orders", maria, "maria")}}}
          ledger: {{kind: mysql, via: [spare, bastion], {of("ledger", maria, "maria")}}}
          archive: {{kind: mysql, via: cloud, {of("archive", maria, "maria")}}}
          sessions: {{kind: redis, via: bastion, {of("sessions", redis, "redis")}}}
          reports: {{kind: postgres, via: bastion, {of("reports", pg, "pg", f", database: {pg.database}")}}}
    """
    return textwrap.dedent(text) + (textwrap.indent(textwrap.dedent(media), "  ") if files else "")
