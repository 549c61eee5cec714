"""Decides whether connections that no SSH channel carries use the engine in C."""

from gateway.config import Config


def uses_engine(config: Config) -> bool:
    """Return whether connections that no SSH channel carries use the engine.

    An operator who suspects a fault in the engine excludes it in the options of the SSH tunnels. If all of them
    exclude it, nothing uses it.
    """
    permitted = [
        spec.kind.uses_engine(spec.options) for spec in config.tunnels.values() if spec.kind.uses_engine is not None
    ]
    return any(permitted) or not permitted
