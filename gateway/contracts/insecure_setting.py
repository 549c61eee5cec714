"""Defines `InsecureSetting`: a setting that the gateway refuses in strict mode (`gateway.strict`)."""

from typing import NamedTuple


class InsecureSetting(NamedTuple):
    """An insecure setting in the configuration, which the gateway refuses in strict mode (`gateway.strict`).

    Args:
        key: The configuration key, relative to the tunnel or backend.
        message: The problem, and the setting to use instead. The gateway prints the message after the key, so the
            message begins with a verb, as in `is absent, so …`.
        advised: Whether to warn about the setting if strict mode is off.
    """

    key: str
    message: str
    advised: bool
