"""Defines the error for a container that has a setting that the commands of a fix cannot reproduce."""


class UnsupportedContainerSettingError(Exception):
    """The commands of a fix cannot reproduce a container's setting, or the setting can be a secret.

    The message contains the reason.
    """
