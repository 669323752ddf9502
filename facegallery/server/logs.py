"""Escape the server's log lines, so that text from clients cannot begin a line or control a terminal."""

from __future__ import annotations

import logging
import traceback

from facegallery.embedder.text import printable

LOGGERS = ("facegallery.server", "uvicorn.error")


def escape_logs() -> None:
    """Escape messages and tracebacks of this program's loggers and of uvicorn's."""
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
    """Split a traceback into lines; a message takes one line."""
    found: list[str] = []
    for piece in traceback.format_exception(error):
        is_code = piece.startswith("  File ")  # two lines of source; the other pieces hold a message
        found += map(printable, piece.rstrip("\n").split("\n") if is_code else [piece.rstrip("\n")])
    return found
