"""Decides whether connections without an SSH tunnel use the native engine. Does no I/O."""

from gateway.config import Config


def uses_native_engine(config: Config) -> bool:
    """Return whether connections without an SSH tunnel use the native engine.

    These connections have no configuration key for the native engine. If all SSH tunnels disable the native engine,
    the operator probably suspects a fault in it. Therefore, the other connections then do not use it either.
    """
    permitted = [
        spec.kind.uses_native_engine(spec.options)
        for spec in config.tunnels.values()
        if spec.kind.uses_native_engine is not None
    ]
    return any(permitted) or not permitted
