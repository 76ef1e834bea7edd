"""Logging: structlog for flowstream, with the libraries' stdlib records routed through it.

Everything goes to standard error: readable lines on a terminal, one JSON object
per line elsewhere. Times are UTC.
"""

from __future__ import annotations

import logging
import os
import sys
from typing import IO, TYPE_CHECKING

import structlog

from flowstream.wording import printable

if TYPE_CHECKING:
    from structlog.typing import EventDict, Processor

# At level info these log every request and rebalance.
_TALKATIVE = ("aiokafka", "asyncio", "pyroute2")


def configure(
    level: str = "info", log_format: str = "auto", stream: IO[str] | None = None
) -> None:
    """Configure logging for the process; a later call replaces an earlier one.

    ``level`` is debug, info, warning or error; ``log_format`` auto, console or
    json; ``stream`` defaults to standard error. Later failures to write to the
    stream are ignored.
    """
    stream = sys.stderr if stream is None else stream
    if log_format == "auto":
        log_format = "console" if stream.isatty() else "json"
    shared: list[Processor] = [
        structlog.contextvars.merge_contextvars,
        structlog.stdlib.add_log_level,
        structlog.stdlib.add_logger_name,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
        structlog.processors.StackInfoRenderer(),
    ]
    handler = logging.StreamHandler(stream)
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=[*shared, structlog.stdlib.ExtraAdder()],
            processors=[
                structlog.stdlib.ProcessorFormatter.remove_processors_meta,
                *_renderers(log_format, stream),
            ],
        )
    )
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(level.upper())
    for name in _TALKATIVE:
        logging.getLogger(name).setLevel(
            logging.NOTSET if level == "debug" else max(root.level, logging.WARNING)
        )
    # A full disk or closed pipe behind stderr must not cause a traceback per line.
    logging.raiseExceptions = False
    logging.captureWarnings(capture=True)
    structlog.configure(
        processors=[
            structlog.stdlib.filter_by_level,
            *shared,
            structlog.stdlib.ProcessorFormatter.wrap_for_formatter,
        ],
        wrapper_class=structlog.stdlib.BoundLogger,
        logger_factory=structlog.stdlib.LoggerFactory(),
        cache_logger_on_first_use=False,
    )


def _renderers(log_format: str, stream: IO[str]) -> list[Processor]:
    if log_format == "json":
        return [
            structlog.processors.format_exc_info,
            # json's default ensure_ascii makes the lines safe for any encoding.
            structlog.processors.JSONRenderer(default=str),
        ]
    colors = stream.isatty() and not os.environ.get("NO_COLOR")
    plain = structlog.dev.plain_traceback
    return [
        _escape,
        structlog.dev.ConsoleRenderer(colors=colors, exception_formatter=plain),
    ]


def _escape(_: object, __: str, event: EventDict) -> EventDict:
    """Escape what a terminal would obey or not show: names may be those of others."""
    for key, value in event.items():
        if isinstance(value, str):
            event[key] = printable(value)
    return event
