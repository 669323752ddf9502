"""Log lines of the server: what clients send, and what names hold, never begins a line of its own or reaches a terminal as a control."""

from __future__ import annotations

import logging
import traceback

from facegallery.embedder.text import printable

LOGGERS = ("facegallery.server", "uvicorn.error")


def escape_logs() -> None:
    """Escape the messages and the tracebacks of our loggers and uvicorn's."""
    for name in LOGGERS:
        logger = logging.getLogger(name)
        if _escape not in logger.filters:
            logger.addFilter(_escape)


def _escape(record: logging.LogRecord) -> bool:
    record.msg, record.args = printable(record.getMessage()), ()
    if record.exc_info and record.exc_info[1] is not None:
        record.exc_text = "\n".join(_lines(record.exc_info[1]))
    return True


def _lines(error: BaseException) -> list[str]:
    """A traceback, in which a message is one line."""
    found: list[str] = []
    for piece in traceback.format_exception(error):
        own = piece.startswith("  File ")  # two lines of our code; others hold a message
        found += map(printable, piece.rstrip("\n").split("\n") if own else [piece.rstrip("\n")])
    return found
