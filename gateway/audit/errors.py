"""Defines the error for a container setting that the printed commands cannot reproduce."""


class UnsupportedContainerSettingError(Exception):
    """Commands cannot reproduce a setting of a container, or must not contain it because it is a secret.

    The message contains the reason.
    """
