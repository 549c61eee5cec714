"""Structured logs: JSON for machines, readable lines on a terminal; the only room with structlog."""

import logging
import sys

import structlog

from gateway.text import one_line, printable

_LONGEST = 4000
"""Characters of one value, which may hold several problems of a configuration."""


def configure(level: str, fmt: str) -> None:
    """Send every log record to standard error.

    Args:
        level: The least severe to show: `debug`, `info`, `warning` or `error`.
        fmt: `text`, `json`, or `auto`: text on a terminal.
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
            _fit_for_terminal,
            # Plain: the prettier tracebacks show local variables, and a password may be among them.
            structlog.dev.ConsoleRenderer(
                colors=sys.stderr.isatty(), exception_formatter=structlog.dev.plain_traceback
            ),
        ]
        if text
        else [structlog.processors.JSONRenderer()]  # which escapes everything
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
    # Libraries speak up only when something is wrong: our own edges tell the rest.
    for name in ("asyncssh", "aiohttp", "asyncio"):
        logging.getLogger(name).setLevel(logging.WARNING)
    logging.captureWarnings(capture=True)


def _fit_for_terminal(
    logger: structlog.typing.WrappedLogger, method: str, event: structlog.typing.EventDict
) -> structlog.typing.EventDict:
    """Keep a server's text from controlling the terminal and from looking like a line of ours."""
    del logger, method
    return {
        key: value
        if not isinstance(value, str)
        else printable(value)
        if key == "exception"
        else one_line(value, _LONGEST)
        for key, value in event.items()
    }


def _short_logger(
    logger: structlog.typing.WrappedLogger, method: str, event: structlog.typing.EventDict
) -> structlog.typing.EventDict:
    del logger, method
    event["logger"] = str(event.get("logger", "")).removeprefix("gateway.")
    return event
