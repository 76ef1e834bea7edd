"""A small HTTP server in the agent's event loop, which no client can hold up.

Every wait for a client has an end, connections and what is kept of each are bounded, and one
that asks again and again waits between its requests.
"""

from __future__ import annotations

import asyncio
import contextlib
from functools import partial
from http import HTTPStatus
from typing import TYPE_CHECKING, Final

import h11
import structlog

from flowstream.metrics.requests import TEXT, Answer

if TYPE_CHECKING:
    import socket

    from flowstream.metrics.requests import Responder

CONNECTIONS: Final = 32
"""At most; for one more, the one that has waited longest for a request is closed."""
REQUEST_OCTETS: Final = 8_192
"""The largest request line and header."""
IDLE_S: Final = 150.0
"""How long a connection may be without a request: more than Prometheus' longest usual interval."""
REQUEST_S: Final = 10.0
"""How long a request may take to come, from its first octet."""
ANSWER_S: Final = 20.0
"""How long an answer may take to be fetched."""
_PAUSE_S: Final = 0.02
"""Between two requests of one connection."""
_ACCEPT_PAUSE_S: Final = 0.001
_ACCEPT_RETRY_S: Final = 0.5
"""After an accept that failed, for want of descriptors as a rule."""


log = structlog.get_logger(__name__)


class Server:
    """Serves ``responder``'s answers on ``listener``, until cancelled."""

    def __init__(self, listener: socket.socket, responder: Responder) -> None:
        listener.setblocking(False)
        self._listener, self._responder = listener, responder
        # Those that wait for a request, and those that are answered; the oldest first.
        self._idle: dict[socket.socket, asyncio.Task[None]] = {}
        self._busy: dict[socket.socket, asyncio.Task[None]] = {}

    async def run(self) -> None:
        """Accept connections until cancelled, then close them all."""
        loop = asyncio.get_running_loop()
        try:
            while True:
                try:
                    connection, _ = await loop.sock_accept(self._listener)
                except OSError:
                    await asyncio.sleep(_ACCEPT_RETRY_S)
                else:
                    self._admit(connection)
                    # A flood of connections must not keep the loop to itself.
                    await asyncio.sleep(_ACCEPT_PAUSE_S)
        finally:
            tasks = [*self._idle.values(), *self._busy.values()]
            for task in tasks:
                task.cancel()
            if tasks:
                await asyncio.wait(tasks)

    def _admit(self, connection: socket.socket) -> None:
        """Converse with a client; with too many, close the one that has waited longest."""
        if len(self._idle) + len(self._busy) >= CONNECTIONS:
            among = self._idle or self._busy
            among.pop(next(iter(among))).cancel()
        task = asyncio.ensure_future(self._converse(connection))
        self._idle[connection] = task
        task.add_done_callback(partial(self._ended, connection))

    def _ended(self, connection: socket.socket, task: asyncio.Task[None]) -> None:
        self._idle.pop(connection, None)
        self._busy.pop(connection, None)
        if not task.cancelled() and (fault := task.exception()) is not None:
            log.error("metrics_fault", exc_info=fault)

    async def _converse(self, connection: socket.socket) -> None:
        with connection, contextlib.suppress(OSError, TimeoutError):
            connection.setblocking(False)
            client = _Client(connection)
            while (request := await client.request()) is not None:
                self._busy[connection] = self._idle.pop(connection)
                async with asyncio.timeout(ANSWER_S):
                    if not await client.answer(await self._responder.answer(request)):
                        return
                self._idle[connection] = self._busy.pop(connection)
                await asyncio.sleep(_PAUSE_S)


class _Client:
    """One connection, as requests and answers."""

    def __init__(self, connection: socket.socket) -> None:
        self._connection = connection
        self._http = h11.Connection(h11.SERVER, max_incomplete_event_size=REQUEST_OCTETS)
        self._loop = asyncio.get_running_loop()
        # The answer to the present request.
        self._has_body = True

    async def request(self) -> h11.Request | None:
        """Return the next request; None after the last one, and where one is not to be served.

        TimeoutError when none comes in time.
        """
        try:
            if (request := await self._receive()) is None:
                return None
            if not request.http_version.startswith(b"1."):
                refusal = (505, "only HTTP/1.1 and HTTP/1.0\n")
            elif isinstance(self._http.next_event(), h11.EndOfMessage):
                return request
            else:
                refusal = (413, "a request takes no content\n")
        except h11.RemoteProtocolError as err:
            refusal = (err.error_status_hint, f"{err}\n")
        await self._refuse(*refusal)
        return None

    async def _receive(self) -> h11.Request | None:
        async with asyncio.timeout(IDLE_S) as limit:
            while (event := self._http.next_event()) is h11.NEED_DATA:
                self._http.receive_data(
                    await self._loop.sock_recv(self._connection, REQUEST_OCTETS)
                )
                limit.reschedule(min(limit.when() or 0, self._loop.time() + REQUEST_S))
        if not isinstance(event, h11.Request):
            return None
        self._has_body = event.method != b"HEAD"
        return event

    async def answer(self, answer: Answer) -> bool:
        """Send an answer; return whether another request may follow."""
        await self._send(answer)
        if self._http.our_state is not h11.DONE:
            return False
        self._http.start_next_cycle()
        return True

    async def _refuse(self, status: int, reason: str) -> None:
        async with asyncio.timeout(ANSWER_S):
            closing = (("Connection", "close"),)
            await self._send(Answer(status, TEXT, reason.encode(), closing))

    async def _send(self, answer: Answer) -> None:
        headers = [
            ("Content-Type", answer.content_type),
            ("Content-Length", str(len(answer.body))),
            ("Cache-Control", "no-store"),
            ("X-Content-Type-Options", "nosniff"),
            *answer.headers,
        ]
        head = self._http.send(
            h11.Response(
                status_code=answer.status, reason=HTTPStatus(answer.status).phrase, headers=headers
            )
        )
        parts = [head or b""]
        if self._has_body:
            parts.append(self._http.send(h11.Data(data=answer.body)) or b"")
        self._http.send(h11.EndOfMessage())
        for part in parts:
            await self._loop.sock_sendall(self._connection, part)
