"""Messages of rtnetlink(7) about traffic control: clsact qdiscs and their BPF filters. Pure.

Numbers: linux/rtnetlink.h, linux/pkt_sched.h, linux/pkt_cls.h.
"""

from __future__ import annotations

import enum
import socket
import struct
from typing import TYPE_CHECKING, Final, NamedTuple

from flowstream.host import netlink
from flowstream.host.netlink import NLM_F_ACK, NLM_F_DUMP, DamagedMessageError

if TYPE_CHECKING:
    from flowstream.host.netlink import Message

ALL_PROTOCOLS: Final = 3
"""ETH_P_ALL (linux/if_ether.h)."""
BPF: Final = b"bpf"
"""Kind of the filters that are programs."""

_RTM_NEWQDISC: Final = 36
_RTM_DELQDISC: Final = 37
_RTM_GETQDISC: Final = 38
_RTM_NEWTFILTER: Final = 44
_RTM_DELTFILTER: Final = 45
_RTM_GETTFILTER: Final = 46
_NLM_F_REPLACE: Final = 0x100
_NLM_F_EXCL: Final = 0x200
_NLM_F_CREATE: Final = 0x400
_TC_H_CLSACT: Final = 0xFFFFFFF1
_CLSACT_HANDLE: Final = 0xFFFF0000
_TCA_KIND: Final = 1
_TCA_OPTIONS: Final = 2
_TCA_BPF_FD: Final = 6
_TCA_BPF_NAME: Final = 7
_TCA_BPF_FLAGS: Final = 8
_TCA_BPF_FLAGS_GEN: Final = 9
_TCA_BPF_ID: Final = 11
_TCA_BPF_FLAG_ACT_DIRECT: Final = 1
_TCA_CLS_FLAGS_SKIP_HW: Final = 1
_CLSACT: Final = netlink.attribute(_TCA_KIND, b"clsact\0")
# struct tcmsg: family, interface, handle, parent, info.
_TC: Final = struct.Struct("=BxxxiIII")


class Parent(enum.IntEnum):
    """Where a clsact qdisc runs filters, which is their parent (struct tcmsg)."""

    INGRESS = 0xFFFFFFF2
    EGRESS = 0xFFFFFFF3


class Place(NamedTuple):
    """A filter's place, which no other filter has. Lower priorities run first."""

    if_index: int
    parent: int
    priority: int
    handle: int


class Filter(NamedTuple):
    """A filter, or, with ``handle`` 0, what all of one priority have in common.

    ``protocol`` is an EtherType, in the host's order. Those of kind ``BPF`` have the ``name``
    that their owner gave them, and ``program_id``, the number of their program.
    """

    place: Place
    protocol: int
    kind: bytes
    name: bytes = b""
    program_id: int = 0


def add_clsact(seq: int, if_index: int) -> bytes:
    """Return the request for a clsact qdisc; EEXIST: it has one, or an ingress qdisc."""
    return _qdisc(_RTM_NEWQDISC, _NLM_F_CREATE | _NLM_F_EXCL, seq, if_index, _CLSACT_HANDLE)


def delete_clsact(seq: int, if_index: int) -> bytes:
    """Return the request that deletes the clsact qdisc with all its filters."""
    return _qdisc(_RTM_DELQDISC, 0, seq, if_index, _CLSACT_HANDLE)


def find_clsact(seq: int, if_index: int) -> bytes:
    """Return the request for the clsact qdisc; ENOENT: there is none, EINVAL: another kind."""
    return _qdisc(_RTM_GETQDISC, 0, seq, if_index, 0)


def _qdisc(kind: int, flags: int, seq: int, if_index: int, handle: int) -> bytes:
    body = _TC.pack(0, if_index, handle, _TC_H_CLSACT, 0) + _CLSACT
    return netlink.request(kind, flags | NLM_F_ACK, seq, body)


def dump_filters(seq: int, if_index: int, parent: Parent) -> bytes:
    """Return the request for all filters of an interface with one parent."""
    body = _TC.pack(0, if_index, 0, parent, 0)
    return netlink.request(_RTM_GETTFILTER, NLM_F_DUMP, seq, body)


def find_filter(seq: int, place: Place) -> bytes:
    """Return the request for one filter; ENOENT or EINVAL: there is none."""
    return _filter(_RTM_GETTFILTER, 0, seq, place)


def add_filter(seq: int, place: Place, program_fd: int, name: bytes) -> bytes:
    """Return the request for a new filter that runs a program; EEXIST: there is another."""
    options = _options(program_fd, name)
    return _filter(_RTM_NEWTFILTER, _NLM_F_CREATE | _NLM_F_EXCL, seq, place, options)


def replace_filter(seq: int, place: Place, program_fd: int, name: bytes) -> bytes:
    """Return the request that gives a filter another program, in one step; ENOENT: it is gone."""
    return _filter(_RTM_NEWTFILTER, _NLM_F_REPLACE, seq, place, _options(program_fd, name))


def delete_filter(seq: int, place: Place) -> bytes:
    """Return the request that deletes one filter; ENOENT or EINVAL: there is none."""
    return _filter(_RTM_DELTFILTER, 0, seq, place)


def _filter(kind: int, flags: int, seq: int, place: Place, options: bytes = b"") -> bytes:
    info = place.priority << 16 | socket.htons(ALL_PROTOCOLS)
    body = _TC.pack(0, place.if_index, place.handle, place.parent, info)
    body += netlink.attribute(_TCA_KIND, BPF + b"\0") + options
    return netlink.request(kind, flags | NLM_F_ACK, seq, body)


def _options(program_fd: int, name: bytes) -> bytes:
    """Direct action: what the program returns decides. Not in the NIC, where it cannot run."""
    return netlink.attribute(
        _TCA_OPTIONS,
        netlink.attribute(_TCA_BPF_FD, program_fd)
        + netlink.attribute(_TCA_BPF_NAME, name + b"\0")
        + netlink.attribute(_TCA_BPF_FLAGS, _TCA_BPF_FLAG_ACT_DIRECT)
        + netlink.attribute(_TCA_BPF_FLAGS_GEN, _TCA_CLS_FLAGS_SKIP_HW),
        nested=True,
    )


def filter_of(message: Message) -> Filter | None:
    """Read a message about a filter; None for others. Raises ``DamagedMessageError``."""
    if message.kind != _RTM_NEWTFILTER:
        return None
    if len(message.body) < _TC.size:
        raise DamagedMessageError("a message about a filter is cut off")
    _, if_index, handle, parent, info = _TC.unpack_from(message.body)
    attributes = dict(netlink.attributes(message.body[_TC.size :]))
    kind = netlink.text(attributes.get(_TCA_KIND))
    place = Place(if_index, parent, info >> 16, handle)
    protocol = socket.ntohs(info & 0xFFFF)
    options = attributes.get(_TCA_OPTIONS)
    if kind != BPF or options is None:
        return Filter(place, protocol, kind)
    values = dict(netlink.attributes(options))
    name, number = netlink.text(values.get(_TCA_BPF_NAME)), netlink.number(values.get(_TCA_BPF_ID))
    return Filter(place, protocol, kind, name, number or 0)
