"""Converts the section `ops` to settings of the ops server, which serves health, metrics and the status page."""

from gateway.config import Config
from gateway.errors import ConfigProblem, GatewayError
from gateway.ops.settings import OpsSettings, read_secrets


def ops_settings(config: Config) -> OpsSettings:
    """Return the settings of the ops server. The field `redact` is a function that removes secrets from messages."""
    ops = config.ops

    def redact(message: str) -> str:
        key = message.partition(": ")[0]
        return config.redactor.redact(message, config.places.get(key, key))

    return OpsSettings(
        listen=ops.listen,
        admin_socket=ops.admin_socket,
        probe_listen=ops.probe_listen,
        hosts=ops.hosts,
        token_file=ops.token_file,
        metrics_token_file=ops.metrics_token_file,
        tls=ops.tls,
        authenticated=ops.authenticated,
        redact=redact,
    )


def file_problems(config: Config) -> list[ConfigProblem]:
    """Return the errors in the files that the section `ops` names. Blocks while it reads the files."""
    try:
        read_secrets(ops_settings(config))
    except GatewayError as error:
        key, _, message = str(error).partition(": ")
        return [ConfigProblem(config.places.get(key, key), key, message)]
    return []
