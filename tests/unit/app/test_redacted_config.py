"""The configuration on the status page has no secrets."""

from pathlib import Path

from gateway.app.redacted_config import config_text
from gateway.config.loader import ConfigSources, load

SECRET = "hunter2-not-shown"


def test_the_configuration_is_shown_without_secrets(tmp_path: Path) -> None:
    password = tmp_path / "password"
    password.write_text(SECRET)
    password.chmod(0o600)
    file = tmp_path / "gateway.yaml"
    file.write_text(f"""
        gateway: {{instance: test, state_dir: {tmp_path}}}
        tunnels:
          edge: {{kind: proxy, url: "socks5://proxy:1080", user: me, password: "{SECRET}"}}
          bastion: {{kind: ssh, host: h, user: me, agent: /a, proxy_command: [nc, "{SECRET}", "%h"]}}
          program: {{kind: command, mode: stdio, command: [/bin/nc, "{SECRET}", "{{host}}", "{{port}}"]}}
        backends:
          orders:
            kind: mysql
            via: edge
            targets: [db-1:3306, db-2:3306]
            listen: 127.0.0.1:3306
            hold: 20s
            check: {{user: "${{CHECK_USER}}", password_file: {password}, interval: 5s}}
          reports:
            kind: postgres
            targets: [pg]
            check: {{user: u, password_command: [/bin/echo, {SECRET}]}}
          search: {{kind: http, targets: ["es:9200"], check: {{path: "/health?token={SECRET}"}}}}
          raw: {{kind: tcp, targets: ["app:7000"], check: {{send: "{SECRET}", expect: "{SECRET}"}}}}
          match: {{kind: tcp, targets: ["app:7000"], check: {{expect_pattern: "{SECRET}"}}}}
          media: {{kind: nfs, targets: [nfs], export: /srv, volume: {{name: media-volume}}}}
    """)
    file.chmod(0o600)
    config = load(ConfigSources(file=file, environment={"CHECK_USER": "checker"}))
    found = config_text(config)
    assert not any(name.startswith("backends") for name in found), "the page of each backend has its keys"
    assert config_text(config, "missing") == {}
    for name in config.backends:
        found |= config_text(config, name)
    assert SECRET not in str(found)
    orders = dict(found["backends.orders"])
    assert orders["kind"] == "mysql"
    assert orders["via"] == "edge"
    assert orders["targets"] == "db-1:3306, db-2:3306"
    assert (orders["hold"], orders["check.interval"]) == ("20s", "5s")
    assert orders["check.user"] == "${CHECK_USER}"
    assert orders["check.password"] == f"from {password}"
    assert dict(found["backends.reports"])["check.password_command"] == "(hidden)"
    assert dict(found["backends.search"])["check.path"] == "/health?(hidden)"
    assert dict(found["backends.raw"])["check.expect"] == "(hidden)"
    assert dict(found["backends.match"])["check.expect_pattern"] == "(hidden)"
    assert dict(found["backends.media"])["volume.name"] == "media-volume"
    assert dict(found["tunnels.edge"])["password"] == "(hidden)"
    assert dict(found["tunnels.bastion"])["proxy_command"] == "(hidden)"
    assert dict(found["tunnels.program"])["command"] == "(hidden)"
    assert dict(found["gateway"])["instance"] == "test"
