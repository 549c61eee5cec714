"""Defines the error for a container setting that the commands of a fix cannot reproduce."""


class UnsupportedContainerSettingError(Exception):
    """The commands of a fix cannot reproduce a setting of a container, or must not contain it because it is a secret.

    The message contains the reason.
    """
