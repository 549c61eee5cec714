"""Configures structured logs: JSON, or lines of text on a terminal. Only this module imports structlog."""

import logging
import sys

import structlog

from gateway.text_sanitizer import one_line, printable

_MAX_LENGTH = 4000
"""Maximum number of characters of one value in a text log. This is enough for a list of configuration errors."""


def configure(level: str, fmt: str) -> None:
    """Configure all loggers to write to standard error.

    Args:
        level: The lowest level to log: `debug`, `info`, `warning` or `error`.
        fmt: `text`, `json`, or `auto` (text on a terminal, otherwise JSON).
    """
    text = fmt == "text" or (fmt == "auto" and sys.stderr.isatty())
    shared: list[structlog.typing.Processor] = [
        structlog.stdlib.add_log_level,
        structlog.stdlib.add_logger_name,
        structlog.stdlib.ExtraAdder(),
        structlog.processors.TimeStamper(fmt="%H:%M:%S" if text else "iso", utc=not text),
    ]
    last: list[structlog.typing.Processor] = [structlog.processors.format_exc_info]
    last += (
        [
            _sanitize,
            # Use plain tracebacks: the default ones show local variables, which can contain passwords.
            structlog.dev.ConsoleRenderer(
                colors=sys.stderr.isatty(), exception_formatter=structlog.dev.plain_traceback
            ),
        ]
        if text
        else [structlog.processors.JSONRenderer()]  # needs no `_sanitize`, because JSON escapes control characters
    )
    formatter = structlog.stdlib.ProcessorFormatter(
        foreign_pre_chain=shared,
        processors=[structlog.stdlib.ProcessorFormatter.remove_processors_meta, _short_logger, *last],
    )
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(formatter)
    root = logging.getLogger()
    root.handlers = [handler]
    root.setLevel(level.upper())
    # Log only the warnings and errors of libraries, because the gateway itself logs their normal events.
    for name in ("asyncssh", "aiohttp", "asyncio"):
        logging.getLogger(name).setLevel(logging.WARNING)
    logging.captureWarnings(capture=True)


def _sanitize(
    logger: structlog.typing.WrappedLogger, method: str, event: structlog.typing.EventDict
) -> structlog.typing.EventDict:
    """Replace control characters, because strings from a server must not control the terminal or forge log lines."""
    del logger, method
    return {
        key: value
        if not isinstance(value, str)
        else printable(value)
        if key == "exception"
        else one_line(value, _MAX_LENGTH)
        for key, value in event.items()
    }


def _short_logger(
    logger: structlog.typing.WrappedLogger, method: str, event: structlog.typing.EventDict
) -> structlog.typing.EventDict:
    del logger, method
    event["logger"] = str(event.get("logger", "")).removeprefix("gateway.")
    return event
