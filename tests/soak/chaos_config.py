"""Writes the configuration of the gateway in the site for chaos tests."""

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
    """Write the files of secrets, and return the configuration of the gateway."""
    for name, secret in (("maria", maria.check_password), ("pg", pg.check_password), ("redis", redis.check_password)):
        write_secret(folder / f"{name}.secret", secret)
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
          cloud:
            kind: command
            mode: port
            command: [{folder}/program, "{{local_port}}", "{{host}}", "{{port}}"]
        backends:
          orders:
            kind: mysql
            via: bastion
            targets: ["127.0.0.1:{maria.port}"]
            listen: 127.0.0.1:{ports["orders"]}
            hold: 20s
            check: {{user: {maria.check_user}, password_file: {folder}/maria.secret, interval: 2s}}
          ledger:
            kind: mysql
            via: [spare, bastion]
            targets: ["127.0.0.1:{maria.port}"]
            listen: 127.0.0.1:{ports["ledger"]}
            hold: 20s
            check: {{user: {maria.check_user}, password_file: {folder}/maria.secret, interval: 2s}}
          archive:
            kind: mysql
            via: cloud
            targets: ["127.0.0.1:{maria.port}"]
            listen: 127.0.0.1:{ports["archive"]}
            hold: 20s
            check: {{user: {maria.check_user}, password_file: {folder}/maria.secret, interval: 2s}}
          sessions:
            kind: redis
            via: bastion
            targets: ["127.0.0.1:{redis.port}"]
            listen: 127.0.0.1:{ports["sessions"]}
            hold: 20s
            check: {{user: {redis.check_user}, password_file: {folder}/redis.secret, interval: 2s}}
          reports:
            kind: postgres
            via: bastion
            targets: ["127.0.0.1:{pg.port}"]
            listen: 127.0.0.1:{ports["reports"]}
            hold: 20s
            check: {{user: {pg.check_user}, password_file: {folder}/pg.secret, database: {pg.database}, interval: 2s}}
    """
    return textwrap.dedent(text) + (textwrap.indent(textwrap.dedent(media), "  ") if files else "")
