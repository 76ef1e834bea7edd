"""Requests to the attacher, by an agent that hostile input has taken over.

The input is a list of messages: kinds of descriptors in an octet, length in two octets, a
request. A process that has given up its privileges, in a network namespace of its own,
answers each of them, lives, keeps no descriptor, and loads none but its own program.
"""

from __future__ import annotations

import ctypes
import os
import socket
import struct
from functools import cache
from typing import TYPE_CHECKING, Final, NamedTuple

import msgspec
from support import attached
from support.net import namespace

from flowstream.attacher import attaching, protocol
from flowstream.attacher.client import Attacher
from flowstream.attacher.process import Process
from flowstream.attacher.protocol import Request
from flowstream.host.privileges import User
from flowstream.kernel import libbpf, structures
from flowstream.kernel.counter import PROGRAMS, CounterProbe
from flowstream.kernel.link import Hook, Mode
from flowstream.undecodable import UNDECODABLE

if TYPE_CHECKING:
    import random
    from collections.abc import Iterator, Sequence

_ITEM: Final = struct.Struct(">BH")
_USER: Final = 54_321
"""Of no other process: programs that it has loaded are the attacher's."""
_MOST: Final = 8
"""Messages of an input."""
_LOOPBACK: Final = 1
_LINK_TYPES: Final = {Hook.XDP: libbpf.BPF_LINK_TYPE_XDP, Hook.TC: libbpf.BPF_LINK_TYPE_TCX}


class _Running(NamedTuple):
    process: Process
    probe: CounterProbe
    descriptors: dict[int, str]
    foreign: list[int]
    """Descriptors of a namespace, a map, a socket and a file."""


@cache
def _running() -> _Running:
    with namespace() as place, place.entered():
        process = Process()
        probe = CounterProbe(max_flows=16)
        # With CAP_SYS_ADMIN, as with --netns: more could go wrong.
        own = os.open("/proc/thread-self/ns/net", os.O_RDONLY)
        Attacher(process, probe, User(_USER, _USER), [own])
    attachment_map = probe.maps(_LOOPBACK).pkt_count.fd
    file = os.open(os.devnull, os.O_RDWR)
    foreign = [own, attachment_map, os.dup(process.socket.fileno()), file]
    return _Running(process, probe, attached.descriptors(process.pid), foreign)


def _request(**changed: object) -> bytes:
    usual: dict[str, object] = {
        "op": "attach", "if_index": _LOOPBACK, "record_index": 7, "direction": 0,
        "mode": Mode.AUTO, "sampling": 1, "raw": False, "netns": True, "link": False,
        "earlier": None,
    }  # fmt: skip
    return msgspec.msgpack.encode([*(usual | changed).values()])


def _items(*messages: tuple[int, bytes]) -> bytes:
    return b"".join(_ITEM.pack(kinds, len(body)) + body for kinds, body in messages)


def seeds() -> Sequence[bytes]:
    """Return what an agent asks for, and what it never does. Kind 4 is its namespace."""
    return [
        _items((4, _request()), (4, _request(mode="generic", sampling=17))),
        _items((0, _request(netns=False))),
        _items((1, _request()), (2, _request()), (3, _request())),
        _items((0x14, _request(link=True, mode="native"))),
        _items((0x34, _request(link=True, mode="generic")), (3, _request(link=True))),
        _items((0x14, _request(link=True, mode="native", earlier=(5, 6)))),
        _items((4, _request(if_index=1_009)), (4, _request(mode="offload"))),
        _items((4, _request(mode="tcx")), (4, _request(mode="tcx", direction=1))),
        _items((0x14, _request(link=True, mode="tcx")), (4, _request(mode="clsact"))),
        _items((4, _request(direction=1)), (4, _request(sampling=0)), (4, _request(op="detach"))),
        _items((0xFF, _request()), (0, _request()), (4, _request(netns=False))),
        _items((4, _request(if_index=-1)), (4, _request(record_index=1 << 32))),
        _items((0, b"\x90"), (0, b"\xdd\xff\xff\xff\xff"), (0, b"\x93\xa6attach\xff\xc0")),
        _items((4, _request() + b"\0" * 5_000), (3, b"\0" * 4_097)),
    ]


def mutate(data: bytes, rng: random.Random) -> bytes:
    """Change one field of one message to another value of any type."""
    messages = [*_messages(data)] or [(4, _request())]
    place = rng.randrange(len(messages))
    kinds, body = messages[place]
    try:
        fields = msgspec.msgpack.decode(body)
    except UNDECODABLE:
        fields = None
    if not isinstance(fields, list) or not fields:
        fields = msgspec.msgpack.decode(_request())
    values: tuple[object, ...] = (
        0,
        1,
        -1,
        2**31 - 1,
        2**32,
        2**63,
        True,
        None,
        "native",
        "tcx",
        "detach",
        [1, 2],
        b"",
        {},
    )
    fields[rng.randrange(len(fields))] = rng.choice(values)
    messages[place] = (rng.choice((kinds, rng.randrange(256))), msgspec.msgpack.encode(fields))
    return _items(*messages)


def _messages(data: bytes) -> Iterator[tuple[int, bytes]]:
    at = 0
    while at + _ITEM.size <= len(data):
        kinds, length = _ITEM.unpack_from(data, at)
        at += _ITEM.size
        yield kinds, data[at : at + length]
        at += length


def target(data: bytes) -> None:
    """Send the messages, and look at the answers and at the attacher."""
    running = _running()
    before = _newest_program()
    for kinds, body in [*_messages(data)][:_MOST]:
        # The end of the connection, which ends the attacher.
        if body:
            _check(running, body, _descriptors(running, kinds))
    # After its answer it has closed what came with the message before.
    _check(running, b"\x90", [])
    assert attached.descriptors(running.process.pid) == running.descriptors
    for number, name, user in _programs_after(before):
        assert user != _USER or name in PROGRAMS.values(), f"program {number} is {name}"


def _descriptors(running: _Running, kinds: int) -> list[int]:
    """Two descriptors or fewer by the two halves of an octet; more than are taken by 0xff."""
    if kinds == 0xFF:
        return running.foreign * 3
    return [
        running.foreign[kind % len(running.foreign)] for kind in (kinds & 15, kinds >> 4) if kind
    ]


def _check(running: _Running, body: bytes, fds: list[int]) -> None:
    may_attach = _is_valid(body, fds)
    sock = running.process.socket
    _send(sock, body, fds)
    answer, received = protocol.receive(sock, 16)
    reply = protocol.decode_reply(answer)
    try:
        if reply.errno is not None:
            assert not received
        else:
            assert may_attach
            program, link, *maps = received
            hook = reply.mode.hook
            assert libbpf.prog_info(program)[1] == PROGRAMS[hook]
            info = libbpf.object_info(structures.LinkInfo, link)
            assert info.type == _LINK_TYPES[hook]
            assert len(maps) == len(running.probe.creator.own)
    finally:
        protocol.close(received)


def _is_valid(body: bytes, fds: list[int]) -> bool:
    """Whether the attacher may do it: this process decodes the request as well."""
    try:
        request = protocol.decode_request(body)
        attaching._target(request, fds)
    except UNDECODABLE:
        return False
    assert isinstance(request, Request)
    return True


def _send(sock: socket.socket, body: bytes, fds: list[int]) -> None:
    rights = (socket.SOL_SOCKET, socket.SCM_RIGHTS, struct.pack(f"{len(fds)}i", *fds))
    sock.sendmsg([body], [rights] if fds else [])


def _newest_program() -> int:
    return max((number for number, _, _ in _programs_after(0)), default=0)


def _programs_after(number: int) -> Iterator[tuple[int, str, int]]:
    """Number, name and user of each program that was loaded after program ``number``."""
    library, following = libbpf.library(), ctypes.c_uint32(number)
    while library.bpf_prog_get_next_id(following.value, ctypes.byref(following)) == 0:
        fd = library.bpf_prog_get_fd_by_id(following.value)
        if fd < 0:
            continue
        info = libbpf.described(structures.ProgInfo, fd)
        os.close(fd)
        yield info.id, info.name.decode(errors="replace"), info.created_by_uid
