"""Decides whether the native engine relays the connections that do not use an SSH tunnel. Does no I/O."""

from gateway.config import Config


def uses_native_engine(config: Config) -> bool:
    """Return whether the native engine relays the connections that do not use an SSH tunnel.

    An operator who suspects a fault in the native engine disables it in the options of each SSH tunnel. If all SSH
    tunnels disable it, the other connections do not use it either.
    """
    permitted = [
        spec.kind.uses_native_engine(spec.options)
        for spec in config.tunnels.values()
        if spec.kind.uses_native_engine is not None
    ]
    return any(permitted) or not permitted
