"""Defines the error for containers that commands cannot recreate."""


class UnsupportedContainerSettingError(Exception):
    """Commands cannot recreate a container, for example because an option seems to contain a secret.

    The message contains the reason.
    """
