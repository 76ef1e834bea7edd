"""Messages of the kernel about links and filters: facts, or damage."""

from __future__ import annotations

import contextlib
import struct
from typing import TYPE_CHECKING

from flowstream.host import netlink, rtnetlink, tc_messages
from flowstream.host.links import facts_of

if TYPE_CHECKING:
    from collections.abc import Sequence


def seeds() -> Sequence[bytes]:
    """Return a message of each kind, with every attribute that is read."""
    number = struct.pack("=I", 7)
    kind = _attribute(1, b"vxlan\0") + _attribute(2 | 0x8000, _attribute(3, number))
    names = _attribute(53, b"x1\0") + _attribute(53, b"\xff\0")
    attributes = [
        *(_attribute(key, number) for key in (4, 5, 10, 37, 45)),
        *(_attribute(key, b"x0\0") for key in (3, 56)),
        *(_attribute(18 | 0x8000, kind), _attribute(52 | 0x8000, names)),
    ]
    link = struct.pack("=BxHiII", 0, 1, 7, 1, 0) + b"".join(attributes)
    done = _message(3, struct.pack("=i", 0))
    failed = _message(2, struct.pack("=i", -16))
    netnsid = _message(88, bytes(4) + _attribute(1, number))
    asked = [rtnetlink.dump_links(7), rtnetlink.get_netnsid(7, 3)]
    told = [
        _message(16, link),
        _message(17, link) + done,
        failed,
        netnsid,
        _message(44, _filter()),
    ]
    return [*told, *asked]


def _filter() -> bytes:
    options = _attribute(7, b"flowstream\0") + _attribute(11, struct.pack("=I", 7))
    fixed = struct.pack("=BxxxiIII", 0, 7, 0x12, 0xFFFFFFF3, 1 << 16 | 0x0300)
    return fixed + _attribute(1, b"bpf\0") + _attribute(2 | 0x8000, options)


def _attribute(key: int, octets: bytes) -> bytes:
    return struct.pack("=HH", 4 + len(octets), key) + octets + bytes(-len(octets) % 4)


def _message(kind: int, body: bytes) -> bytes:
    return struct.pack("=IHHII", 16 + len(body), kind, 0, 1, 0) + body


def target(data: bytes) -> None:
    """Read all messages; names hold no NUL, and nothing but the octets that there are."""
    with contextlib.suppress(netlink.DamagedMessageError):
        for message in netlink.messages(data):
            assert len(message.body) <= len(data)
            assert isinstance(netlink.error_of(message), int)
            with contextlib.suppress(netlink.DamagedMessageError):
                _check(message)
            with contextlib.suppress(netlink.DamagedMessageError):
                number = rtnetlink.netnsid_of([message])
                assert number is None or 0 <= number < 2**31
            with contextlib.suppress(netlink.DamagedMessageError):
                _check_filter(message)


def _check_filter(message: netlink.Message) -> None:
    found = tc_messages.filter_of(message)
    if found is not None:
        assert found.kind == tc_messages.BPF or not (found.name or found.program_id)
        assert len(found.name) + len(found.kind) <= len(message.body)
        assert 0 <= found.place.priority < 2**16


def _check(message: netlink.Message) -> None:
    told = rtnetlink.link_message(message.body)
    facts = facts_of(told, reports_parents=True)
    if facts is None:
        return
    names = (facts.name, facts.kind, facts.parent_device or "", *facts.altnames)
    assert all("\0" not in name for name in names)
    assert sum(map(len, names)) <= len(message.body)
    assert all(0 <= number < 2**32 for number in (facts.mtu, facts.lower, facts.master))
