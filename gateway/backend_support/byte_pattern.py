"""Compiles regular expressions for servers' responses. Uses RE2, which matches in linear time."""

from typing import Protocol

_MAX_MEMORY = 1 << 20
"""Maximum memory of a compiled expression, in bytes."""


class BytePattern(Protocol):
    """Defines the interface of a compiled regular expression."""

    def search(self, data: bytes) -> object:
        """Search `data`, and return a match; None if the expression does not match."""


def compile_pattern(pattern: str) -> BytePattern:
    """Compile a regular expression that matches bytes.

    Args:
        pattern: The expression in the syntax of RE2 (RE2 documentation, "Syntax").

    Raises:
        ValueError: The syntax is not valid, the expression is too large, or google-re2 is not installed.
    """
    try:
        import re2  # noqa: PLC0415 - google-re2 is optional
    except ImportError:
        raise ValueError("needs google-re2: pip install 'gateway[patterns]'") from None
    options = re2.Options()
    options.encoding = re2.Options.Encoding.LATIN1  # in Latin-1, each byte is one character
    options.max_mem = _MAX_MEMORY
    options.log_errors = False
    try:
        compiled: BytePattern = re2.compile(pattern.encode(), options)
    except re2.error as error:
        reason = error.args[0] if error.args else b""
        text = reason.decode(errors="replace") if isinstance(reason, bytes) else str(reason)
        raise ValueError(f"is not a valid RE2 regular expression: {text}") from None
    return compiled
