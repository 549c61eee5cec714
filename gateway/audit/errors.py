"""Defines the error for containers that the commands of a fix cannot recreate."""


class UnsupportedContainerSettingError(Exception):
    """The commands of a fix cannot recreate a container, for example because an option seems to contain a secret.

    The message contains the reason.
    """
