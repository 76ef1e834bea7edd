"""A line to a broker with faults: slow, late, cut, deaf, or to something that is no broker."""

from __future__ import annotations

import asyncio
import socket
import struct
import threading
from contextlib import asynccontextmanager, contextmanager, suppress
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator

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
        self.mute_after: int | None = None
        """Pieces of answers of each connection after which the others are swallowed."""
        self.late_s = 0.0
        """How long each answer takes to come back."""
        self.late = 0
        """Pieces of answers that were late so far."""
        self.cut_after: int | None = None
        """Octets of requests after which a connection is cut, in the middle of one."""
        self.reset = False
        """Whether a cut is a reset, not an end."""
        self.cuts = 0
        self.garbage: bytes | None = None
        """What new connections get instead of a broker's answers."""
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
            if self.garbage is not None:
                await asyncio.get_running_loop().sock_sendall(near, self.garbage)
                return
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
        carried = answers = 0
        while piece := await loop.sock_recv(source, _PIECE if slow else 1 << 16):
            if slow:
                async with self._turn:
                    if self.bytes_per_second is not None:
                        await asyncio.sleep(len(piece) / self.bytes_per_second)
                    self.carried += len(piece)
                carried += len(piece)
                if self.cut_after is not None and carried > self.cut_after:
                    self._cut(source, to)
                    return
            elif self.mute or answers == self.mute_after:
                continue
            elif self.late_s:
                await asyncio.sleep(self.late_s)
                self.late += 1
            answers += not slow
            await loop.sock_sendall(to, piece)

    def _cut(self, *ends: socket.socket) -> None:
        self.cuts += 1
        for end in ends if self.reset else ():
            # Closing sends RST: socket(7), SO_LINGER.
            end.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))


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


@contextmanager
def line_in_thread(listener: socket.socket, target: int) -> Iterator[Line]:
    """A line that is up, served by a thread of its own; its attributes may be set meanwhile."""
    loop = asyncio.new_event_loop()
    relay = Line(listener, target)
    thread = threading.Thread(target=loop.run_forever, name="line")
    thread.start()
    serving = asyncio.run_coroutine_threadsafe(relay.serve(), loop)
    try:
        yield relay
    finally:
        serving.cancel()
        asyncio.run_coroutine_threadsafe(relay.close(), loop).result(10)
        loop.call_soon_threadsafe(loop.stop)
        thread.join()
        loop.close()
