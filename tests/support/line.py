"""A line to a broker that limits the bytes per second towards it and can swallow its answers."""

from __future__ import annotations

import asyncio
import socket
from contextlib import asynccontextmanager, suppress
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

# Small, so that little is in transit: the buffer of a line, not of the machine.
_BUFFER = 8192
_PIECE = 1024


class Line:
    """Relays connections to ``target``, a port of this host; they share its capacity."""

    def __init__(self, listener: socket.socket, target: int) -> None:
        self.bytes_per_second: float | None = None
        """Limit towards the broker; None: no limit."""
        self.mute = False
        """Whether answers are swallowed: requests arrive, and nobody hears of it."""
        self.carried = 0
        self._listener = listener
        self._target = target
        self._turn = asyncio.Lock()
        self._connections: set[asyncio.Task[None]] = set()

    async def serve(self) -> None:
        """Accept until cancelled."""
        loop = asyncio.get_running_loop()
        while True:
            near, _ = await loop.sock_accept(self._listener)
            task = asyncio.create_task(self._relay(near))
            self._connections.add(task)
            task.add_done_callback(self._connections.discard)

    async def close(self) -> None:
        """Cut every connection."""
        for task in self._connections:
            task.cancel()
        await asyncio.gather(*self._connections, return_exceptions=True)

    async def _relay(self, near: socket.socket) -> None:
        with near, socket.socket() as far, suppress(OSError):
            far.setblocking(False)
            await asyncio.get_running_loop().sock_connect(far, ("127.0.0.1", self._target))
            ways = [
                asyncio.create_task(self._carry(near, far, slow=True)),
                asyncio.create_task(self._carry(far, near, slow=False)),
            ]
            try:
                await asyncio.wait(ways, return_when=asyncio.FIRST_COMPLETED)
            finally:
                for way in ways:
                    way.cancel()
                await asyncio.gather(*ways, return_exceptions=True)

    async def _carry(self, source: socket.socket, to: socket.socket, *, slow: bool) -> None:
        loop = asyncio.get_running_loop()
        while piece := await loop.sock_recv(source, _PIECE if slow else 1 << 16):
            if slow:
                async with self._turn:
                    if self.bytes_per_second is not None:
                        await asyncio.sleep(len(piece) / self.bytes_per_second)
                    self.carried += len(piece)
            elif self.mute:
                continue
            await loop.sock_sendall(to, piece)


def listen(host: str = "127.0.0.1", port: int = 0) -> socket.socket:
    """Listen on a port of this host, 0: a free one."""
    listener = socket.socket()
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, _BUFFER)
    listener.setblocking(False)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    listener.bind((host, port))
    listener.listen()
    return listener


@asynccontextmanager
async def line(listener: socket.socket, target: int) -> AsyncIterator[Line]:
    """A line that is up."""
    relay = Line(listener, target)
    serving = asyncio.create_task(relay.serve())
    try:
        yield relay
    finally:
        serving.cancel()
        await asyncio.gather(serving, return_exceptions=True)
        await relay.close()
