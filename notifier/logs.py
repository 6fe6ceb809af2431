"""Logs: one JSON object a line on standard error, with ids and reason codes, never anything about a person."""

from __future__ import annotations

import logging
import sys

import structlog


def configure(level: str) -> None:
    """Sets structlog and the standard library to one form. Libraries speak only from warnings on.

    Tracebacks are cut to the error's type: a driver's message may quote a value.
    """
    number = logging.getLevelNamesMapping()[level.upper()]
    structlog.configure(
        processors=[
            structlog.contextvars.merge_contextvars,
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="iso", utc=True),
            structlog.processors.JSONRenderer(sort_keys=False),
        ],
        wrapper_class=structlog.make_filtering_bound_logger(number),
        logger_factory=structlog.PrintLoggerFactory(sys.stderr),
        cache_logger_on_first_use=True,
    )
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(_Json())
    logging.basicConfig(level=max(number, logging.WARNING), handlers=[handler], force=True)


class _Json(logging.Formatter):
    """A library's record, in our form, without its traceback."""

    def format(self, record: logging.LogRecord) -> str:
        error = record.exc_info[0].__name__ if record.exc_info and record.exc_info[0] else None
        entry = {"event": "library", "logger": record.name, "level": record.levelname.lower()}
        if error:
            entry["error"] = error
        # The message's arguments may quote a value; its template cannot.
        entry["message"] = str(record.msg)[:200]
        return str(structlog.processors.JSONRenderer()(None, "", entry))
