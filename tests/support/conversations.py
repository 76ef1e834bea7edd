"""What two hosts say to each other by real sockets, until all of it has arrived."""

from __future__ import annotations

import contextlib
import socket
import struct
import threading
from pathlib import Path
from typing import TYPE_CHECKING, Final

from support.traffic import wait_until

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from support.hosts import Host

# linux/udp.h
UDP_SEGMENT, _UDP_GRO = 103, 104
_TIME_WAIT, _LISTEN = "06", "0A"  # net/tcp_states.h
Option = tuple[int, int, int | bytes]

# So much is on its way at most: a veth's queue holds 256 packets, and none may be lost.
_WINDOW: Final = 200_000


@contextlib.contextmanager
def connected(
    client: Host, server: Host, version: int, port: int, options: Sequence[Option] = ()
) -> Iterator[tuple[socket.socket, socket.socket]]:
    """A connection: the end of the client and that of the server; both are closed."""
    window = (socket.SOL_SOCKET, socket.SO_RCVBUF, _WINDOW)
    with (
        server.socket(version, socket.SOCK_STREAM) as listener,
        client.socket(version, socket.SOCK_STREAM) as near,
    ):
        for each in (listener, near):
            each.settimeout(60)
            for option in (window, *options):
                each.setsockopt(*option)
        listener.bind((server.addresses[version], port))
        listener.listen()
        near.connect((server.addresses[version], port))
        far, _ = listener.accept()
        with far:
            far.settimeout(60)
            yield near, far


def carry(source: socket.socket, sink: socket.socket, octets: int) -> None:
    """Send so many octets at once."""
    sending = threading.Thread(target=source.sendall, args=(bytes(octets),))
    sending.start()
    received = 0
    while received < octets:
        received += len(sink.recv(1 << 20))
    sending.join()
    assert received == octets


def bulk(
    source: Host,
    sink: Host,
    version: int,
    port: int,
    octets: int = 400_009,
    options: Sequence[Option] = (),
) -> None:
    """Let ``source`` open a connection and send much."""
    with connected(source, sink, version, port, options) as (near, far):
        carry(near, far, octets)


def chatter(source: Host, sink: Host, version: int, port: int) -> None:
    """Let both ends write little, in turn."""
    with connected(source, sink, version, port) as ends:
        for each in ends:
            each.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        for size in range(1, 24):
            for sender, receiver in (ends, ends[::-1]):
                carry(sender, receiver, size)


def urgent_then_reset(source: Host, sink: Host, version: int, port: int) -> None:
    """Send urgent data, and end the connection by a reset."""
    with connected(source, sink, version, port) as (near, far):
        carry(near, far, 4_001)
        far.setsockopt(socket.SOL_SOCKET, socket.SO_OOBINLINE, 1)
        near.send(b"!", socket.MSG_OOB)
        assert far.recv(1) == b"!"
        near.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        near.close()
        with contextlib.suppress(ConnectionResetError):
            far.recv(1)


def refused(source: Host, sink: Host, version: int, port: int) -> None:
    """Connect to a port that nobody listens on."""
    with source.socket(version, socket.SOCK_STREAM) as near:
        near.settimeout(60)
        with contextlib.suppress(ConnectionRefusedError):
            near.connect((sink.addresses[version], port))


def datagrams(
    source: Host,
    sink: Host,
    version: int,
    port: int,
    sizes: Sequence[int],
    segment: int = 0,
    joined: bool = False,
    options: Sequence[Option] = (),
) -> None:
    """Send datagrams; with ``segment`` each is cut into such of that size (UDP_SEGMENT).

    ``joined``: the receiver takes those that the kernel has joined (UDP_GRO).
    """
    with (
        sink.socket(version, socket.SOCK_DGRAM) as receiver,
        source.socket(version, socket.SOCK_DGRAM) as sender,
    ):
        receiver.settimeout(60)
        receiver.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1 << 20)
        receiver.setsockopt(socket.SOL_UDP, _UDP_GRO, int(joined))
        receiver.bind((sink.addresses[version], port))
        for option in ((socket.SOL_UDP, UDP_SEGMENT, segment), *options):
            sender.setsockopt(*option)
        sender.bind((source.addresses[version], port))
        sender.connect((sink.addresses[version], port))
        for size in sizes:
            sender.send(bytes(size))
        missing = sum(sizes)
        while missing:
            missing -= len(receiver.recv(1 << 17))


def echo(source: Host, sink: Host, version: int, _port: int, size: int) -> None:
    """Send three ICMP echo requests with ``size`` octets; they are answered."""
    source.run("ping", "-q", "-c", "3", "-i", "0.01", "-s", str(size), sink.addresses[version])


def settled(*hosts: Host) -> bool:
    """Wait until every connection is closed at both ends: no packet is on its way."""
    return wait_until(lambda: not any(map(_is_busy, hosts)))


def _is_busy(host: Host) -> bool:
    with host.device.namespace.entered():
        tables = [
            Path(f"/proc/thread-self/net/{name}").read_text(encoding="ascii")
            for name in ("tcp", "tcp6")
        ]
    states = [line.split()[3] for table in tables for line in table.splitlines()[1:]]
    return any(state not in (_TIME_WAIT, _LISTEN) for state in states)
