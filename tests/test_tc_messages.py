"""Messages about filters of traffic control: octet by octet, and damaged."""

from __future__ import annotations

import struct
import sys

import pytest

from flowstream.host import netlink, tc_messages
from flowstream.host.netlink import DamagedMessageError
from flowstream.host.tc_messages import Filter, Parent, Place

PLACE = Place(7, Parent.EGRESS, 1, 0x1234)
ALL = 3


def attribute(kind: int, octets: bytes) -> bytes:
    return struct.pack("=HH", 4 + len(octets), kind) + octets + bytes(-len(octets) % 4)


def number(value: int) -> bytes:
    return struct.pack("=I", value)


def about(place: Place, *attributes: bytes) -> bytes:
    protocol = int.from_bytes(struct.pack(">H", ALL), sys.byteorder)
    head = struct.pack(
        "=BxxxiIII", 0, 7, place.handle, 0xFFFFFFF3, place.priority << 16 | protocol
    )
    return head + b"".join(attributes)


def message(kind: int, flags: int, body: bytes) -> bytes:
    return struct.pack("=IHHII", 16 + len(body), kind, flags, 9, 0) + body


OPTIONS = attribute(6, number(5)) + attribute(7, b"name\0") + attribute(8, number(1))
ADD = about(PLACE, attribute(1, b"bpf\0"), attribute(0x8002, OPTIONS + attribute(9, number(1))))
TOLD = about(
    PLACE,
    attribute(1, b"bpf\0"),
    attribute(0x8002, attribute(7, b"name\0") + attribute(11, number(77))),
)


def test_requests():
    # NLM_F_REQUEST | NLM_F_ACK | NLM_F_EXCL | NLM_F_CREATE, or NLM_F_REPLACE
    assert tc_messages.add_filter(9, PLACE, 5, b"name") == message(44, 0x605, ADD)
    assert tc_messages.replace_filter(9, PLACE, 5, b"name") == message(44, 0x105, ADD)
    named = about(PLACE, attribute(1, b"bpf\0"))
    assert tc_messages.find_filter(9, PLACE) == message(46, 5, named)
    assert tc_messages.delete_filter(9, PLACE) == message(45, 5, named)
    whole = struct.pack("=BxxxiIII", 0, 7, 0, 0xFFFFFFF2, 0)
    assert tc_messages.dump_filters(9, 7, Parent.INGRESS) == message(46, 0x301, whole)
    clsact = attribute(1, b"clsact\0")
    qdisc = struct.pack("=BxxxiIII", 0, 7, 0xFFFF0000, 0xFFFFFFF1, 0) + clsact
    assert tc_messages.add_clsact(9, 7) == message(36, 0x605, qdisc)
    assert tc_messages.delete_clsact(9, 7) == message(37, 5, qdisc)
    any_handle = struct.pack("=BxxxiIII", 0, 7, 0, 0xFFFFFFF1, 0) + clsact
    assert tc_messages.find_clsact(9, 7) == message(38, 5, any_handle)


@pytest.mark.parametrize(
    ("body", "read"),
    [
        (TOLD, Filter(PLACE, ALL, b"bpf", b"name", 77)),
        (about(PLACE, attribute(1, b"bpf\0")), Filter(PLACE, ALL, b"bpf")),
        (about(PLACE, attribute(1, b"u32\0"), attribute(2, b"x")), Filter(PLACE, ALL, b"u32")),
    ],
)
def test_a_filter_is_read(body, read):
    (told,) = netlink.messages(message(44, 2, body))
    assert tc_messages.filter_of(told) == read


def test_other_messages_are_no_filters():
    (told,) = netlink.messages(message(36, 2, TOLD))
    assert tc_messages.filter_of(told) is None


def test_a_filter_that_is_cut_off():
    cuts = [netlink.Message(44, 2, 9, memoryview(TOLD[:end])) for end in range(len(TOLD))]
    damaged = 0
    for cut in cuts:
        try:
            # Cut between two attributes it is another message.
            assert tc_messages.filter_of(cut) != Filter(PLACE, ALL, b"bpf", b"name", 77)
        except DamagedMessageError:
            damaged += 1
    assert damaged == len(TOLD) - 2
