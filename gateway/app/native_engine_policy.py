"""Decides whether connections without an SSH tunnel use the native engine. Does no I/O."""

from gateway.config import Config


def uses_native_engine(config: Config) -> bool:
    """Return whether connections without an SSH tunnel use the native engine.

    No configuration key selects the native engine for these connections. If all SSH tunnels disable the native
    engine, the operator probably suspects a fault in it. In this case, connections without an SSH tunnel do not use
    the native engine either.
    """
    permitted = [
        spec.kind.uses_native_engine(spec.options)
        for spec in config.tunnels.values()
        if spec.kind.uses_native_engine is not None
    ]
    return any(permitted) or not permitted
