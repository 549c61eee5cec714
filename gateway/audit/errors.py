"""Defines the error for a container setting that the printed commands cannot reproduce."""


class UnsupportedContainerSettingError(Exception):
    """A setting of a container cannot be reproduced by commands, or is a secret. The message contains the reason."""
