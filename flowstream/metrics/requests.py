"""Requests for metrics and health, to their answers; no input or output."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Final, NamedTuple

import msgspec
import structlog

from flowstream.records.text import interface_name, utf8_text

if TYPE_CHECKING:
    from h11 import Request

    from flowstream.metrics.exposition import Exposition
    from flowstream.metrics.observation import Health, Observable

TEXT: Final = "text/plain; charset=utf-8"
_ABSOLUTE: Final = re.compile(rb"https?://[^/?#]*", re.IGNORECASE)
_METHODS: Final = (b"GET", b"HEAD")

log = structlog.get_logger(__name__)


class Answer(NamedTuple):
    """An answer to a request."""

    status: int
    content_type: str
    body: bytes
    headers: tuple[tuple[str, str], ...] = ()


class Responder:
    """Answers requests about a run."""

    def __init__(self, run: Observable, exposition: Exposition) -> None:
        self._run, self._exposition = run, exposition

    async def answer(self, request: Request) -> Answer:
        """Return the answer to a request, whatever fails in the run."""
        if request.method not in _METHODS:
            return _text(405, "only GET and HEAD\n", ("Allow", "GET, HEAD"))
        try:
            return await self._answer(_path(request.target), request)
        except Exception:
            log.exception("metrics_fault")
            return _text(500, "a fault of the agent, which its log names\n")

    async def _answer(self, path: bytes, request: Request) -> Answer:
        match path:
            case b"/metrics":
                accept = b",".join(value for name, value in request.headers if name == b"accept")
                exposed = await self._exposition.exposed(accept.decode("latin-1"))
                return Answer(200, exposed.content_type, exposed.text)
            case b"/healthz":
                # The event loop turns: this is its answer.
                return _text(200, "ok\n")
            case b"/readyz":
                return _readiness(self._run.health())
        return _text(404, "there are /metrics, /healthz and /readyz\n")


def _text(status: int, text: str, *headers: tuple[str, str]) -> Answer:
    return Answer(status, TEXT, text.encode(), headers)


def _path(target: bytes) -> bytes:
    """Return the path of a request as it stands, without query; nothing is decoded."""
    # A server must take the absolute form, too (RFC 9112, 3.2.2).
    return _ABSOLUTE.sub(b"", target, count=1).partition(b"?")[0]


def _readiness(health: Health) -> Answer:
    content = {
        "ready": not health.reason,
        "condition": health.condition,
        "reason": utf8_text(health.reason),
        "attached": [
            {
                "interface": interface_name(each.interface),
                "direction": each.key.direction,
                "netns": utf8_text(each.netns),
            }
            for each in health.attached
        ],
    }
    body = msgspec.json.encode(content) + b"\n"
    return Answer(503 if health.reason else 200, "application/json", body)
