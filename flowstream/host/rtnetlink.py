"""Messages of rtnetlink(7) about links: a pure codec for the attributes that flowstream needs.

pyroute2 decodes all 40 attributes of a link: that takes 16 times as long, after 70 ms of import,
and requires names in UTF-8. Numbers: linux/netlink.h, linux/rtnetlink.h, linux/if_link.h.
"""

from __future__ import annotations

import enum
import struct
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

RTM_NEWLINK: Final = 16
RTM_DELLINK: Final = 17
RTMGRP_LINK: Final = 1
NLMSG_ERROR: Final = 2
NLMSG_DONE: Final = 3
NLM_F_DUMP_INTR: Final = 0x10

_RTM_GETLINK: Final = 18
_RTM_NEWNSID: Final = 88
_RTM_GETNSID: Final = 90
_NLM_F_REQUEST: Final = 0x1
_NLM_F_ACK: Final = 0x4
_NLM_F_DUMP: Final = 0x300
_RTEXT_FILTER_SKIP_STATS: Final = 8
_TYPE: Final = 0x3FFF
"""Without NLA_F_NESTED and NLA_F_NET_BYTEORDER."""
# struct nlmsghdr: length, type, flags, sequence number, port.
_HEADER: Final = struct.Struct("=IHHII")
# struct ifinfomsg: family, type, index, flags, change.
_LINK: Final = struct.Struct("=BxHiII")
_ATTRIBUTE: Final = struct.Struct("=HH")
_NUMBER: Final = struct.Struct("=I")
_ERROR: Final = struct.Struct("=i")
_NOTHING: Final = memoryview(b"")
# linux/net_namespace.h
_NETNSA_NSID: Final = 1
_NETNSA_FD: Final = 3
_NOT_ASSIGNED: Final = 1 << 31


class Attribute(enum.IntEnum):
    """Attributes of a link."""

    IFLA_IFNAME = 3
    IFLA_MTU = 4
    IFLA_LINK = 5
    IFLA_MASTER = 10
    IFLA_LINKINFO = 18
    IFLA_EXT_MASK = 29
    IFLA_LINK_NETNSID = 37
    IFLA_NEW_NETNSID = 45
    IFLA_PROP_LIST = 52
    IFLA_PARENT_DEV_NAME = 56


_IFLA_INFO_KIND: Final = 1
_IFLA_INFO_DATA: Final = 2
_IFLA_VXLAN_LINK: Final = 3
_IFLA_ALT_IFNAME: Final = 53


class DamagedMessageError(ValueError):
    """The octets are no whole messages."""


class Message(NamedTuple):
    """A netlink message; ``body`` refers to the octets that it was read from."""

    kind: int
    flags: int
    seq: int
    body: memoryview


@dataclass(frozen=True, slots=True)
class LinkMessage:
    """Body of RTM_NEWLINK and RTM_DELLINK; an attribute that comes again replaces the first."""

    family: int
    link_type: int
    index: int
    flags: int
    attributes: dict[int, memoryview]

    def number(self, attribute: Attribute) -> int | None:
        """Return an attribute that is an unsigned number of 32 bits; None without it."""
        return _number(self.attributes.get(attribute))

    def text(self, attribute: Attribute) -> bytes:
        """Return an attribute that is a text without its NUL, or nothing."""
        return _text(self.attributes.get(attribute))

    def kind(self) -> bytes:
        """Return the name of the link's kind such as veth; hardware has none."""
        return _text(self._info().get(_IFLA_INFO_KIND))

    def vxlan_link(self) -> int | None:
        """Return the index of the link that carries a VXLAN, None without one."""
        data = self._info().get(_IFLA_INFO_DATA)
        if data is None or self.kind() != b"vxlan":
            return None
        return _number(dict(_attributes(data)).get(_IFLA_VXLAN_LINK))

    def altnames(self) -> tuple[bytes, ...]:
        """Return the alternative names."""
        names = _attributes(self.attributes.get(Attribute.IFLA_PROP_LIST, _NOTHING))
        return tuple(_text(name) for key, name in names if key == _IFLA_ALT_IFNAME)

    def _info(self) -> dict[int, memoryview]:
        return dict(_attributes(self.attributes.get(Attribute.IFLA_LINKINFO, _NOTHING)))


def dump_links(seq: int) -> bytes:
    """Return the request for all links of a namespace, without their statistics."""
    mask = _ATTRIBUTE.pack(8, Attribute.IFLA_EXT_MASK) + _NUMBER.pack(_RTEXT_FILTER_SKIP_STATS)
    length = _HEADER.size + _LINK.size + len(mask)
    header = _HEADER.pack(length, _RTM_GETLINK, _NLM_F_REQUEST | _NLM_F_DUMP, seq, 0)
    return header + _LINK.pack(0, 0, 0, 0, 0) + mask


def get_netnsid(seq: int, fd: int) -> bytes:
    """Return the request for the number of the namespace behind a descriptor."""
    body = bytes(4) + _ATTRIBUTE.pack(8, _NETNSA_FD) + _NUMBER.pack(fd)
    flags = _NLM_F_REQUEST | _NLM_F_ACK
    return _HEADER.pack(_HEADER.size + len(body), _RTM_GETNSID, flags, seq, 0) + body


def netnsid_of(answer: Iterable[Message]) -> int | None:
    """Return the number in the answer to ``get_netnsid``, None when it has none yet."""
    for message in answer:
        if message.kind == _RTM_NEWNSID:
            number = _number(dict(_attributes(message.body[4:])).get(_NETNSA_NSID))
            return None if number is None or number >= _NOT_ASSIGNED else number
    return None


def messages(octets: bytes) -> Iterator[Message]:
    """Split what was received; raises ``DamagedMessageError``."""
    view = memoryview(octets)
    while view:
        if len(view) < _HEADER.size:
            raise DamagedMessageError("a header is cut off")
        length, kind, flags, seq, _ = _HEADER.unpack_from(view)
        if not _HEADER.size <= length <= len(view):
            raise DamagedMessageError(f"a message of {length} octets in {len(view)}")
        yield Message(kind, flags, seq, view[_HEADER.size : length])
        view = view[_aligned(length) :]


def error_of(message: Message) -> int:
    """Return the error number that ends a request, 0 when there is none."""
    if message.kind not in (NLMSG_ERROR, NLMSG_DONE) or len(message.body) < _ERROR.size:
        return 0
    return -int(_ERROR.unpack_from(message.body)[0])


def link_message(body: memoryview) -> LinkMessage:
    """Read the body of a message about a link; raises ``DamagedMessageError``."""
    if len(body) < _LINK.size:
        raise DamagedMessageError("a message about a link is cut off")
    family, link_type, index, flags, _ = _LINK.unpack_from(body)
    return LinkMessage(family, link_type, index, flags, dict(_attributes(body[_LINK.size :])))


def _attributes(view: memoryview) -> Iterator[tuple[int, memoryview]]:
    while view:
        if len(view) < _ATTRIBUTE.size:
            raise DamagedMessageError("an attribute is cut off")
        length, kind = _ATTRIBUTE.unpack_from(view)
        if not _ATTRIBUTE.size <= length <= len(view):
            raise DamagedMessageError(f"an attribute of {length} octets in {len(view)}")
        yield kind & _TYPE, view[_ATTRIBUTE.size : length]
        view = view[_aligned(length) :]


def _number(octets: memoryview | None) -> int | None:
    if octets is None:
        return None
    if len(octets) != _NUMBER.size:
        raise DamagedMessageError(f"a number of {len(octets)} octets")
    return int(_NUMBER.unpack(octets)[0])


def _text(octets: memoryview | None) -> bytes:
    return bytes(octets or b"").partition(b"\0")[0]


def _aligned(length: int) -> int:
    """Round up to the boundary of 4 octets on which the next part begins."""
    return length + 3 & ~3
