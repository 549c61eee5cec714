"""A check's password, read when it is needed."""

from gateway.contracts import Secret
from gateway.errors import ReachError, Reason


def reveal(password: Secret | None) -> str:
    """The password, or nothing where there is none.

    Raises:
        ReachError: Its file cannot be read.
    """
    if password is None:
        return ""
    try:
        return password.reveal()
    except OSError as error:
        raise ReachError(Reason.AUTH, f"check.password_file: {password.path}: {error.strerror}") from error
