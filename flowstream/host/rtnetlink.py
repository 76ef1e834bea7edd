"""Messages of rtnetlink(7) about links: a pure codec for the attributes that flowstream needs.

pyroute2 decodes all 40 attributes of a link: that takes 16 times as long, after 70 ms of import,
and requires names in UTF-8. Numbers: linux/rtnetlink.h, linux/if_link.h.
"""

from __future__ import annotations

import enum
import struct
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from flowstream.host import netlink
from flowstream.host.netlink import NLM_F_ACK, NLM_F_DUMP, DamagedMessageError

if TYPE_CHECKING:
    from collections.abc import Iterable

    from flowstream.host.netlink import Message

RTM_NEWLINK: Final = 16
RTM_DELLINK: Final = 17
RTMGRP_LINK: Final = 1

_RTM_GETLINK: Final = 18
_RTM_NEWNSID: Final = 88
_RTM_GETNSID: Final = 90
_RTEXT_FILTER_SKIP_STATS: Final = 8
# struct ifinfomsg: family, type, index, flags, change.
_LINK: Final = struct.Struct("=BxHiII")
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
        return netlink.number(self.attributes.get(attribute))

    def text(self, attribute: Attribute) -> bytes:
        """Return an attribute that is a text without its NUL, or nothing."""
        return netlink.text(self.attributes.get(attribute))

    def kind(self) -> bytes:
        """Return the name of the link's kind such as veth; hardware has none."""
        return netlink.text(self._info().get(_IFLA_INFO_KIND))

    def vxlan_link(self) -> int | None:
        """Return the index of the link that carries a VXLAN, None without one."""
        data = self._info().get(_IFLA_INFO_DATA)
        if data is None or self.kind() != b"vxlan":
            return None
        return netlink.number(dict(netlink.attributes(data)).get(_IFLA_VXLAN_LINK))

    def altnames(self) -> tuple[bytes, ...]:
        """Return the alternative names."""
        names = netlink.attributes(self.attributes.get(Attribute.IFLA_PROP_LIST, _NOTHING))
        return tuple(netlink.text(name) for key, name in names if key == _IFLA_ALT_IFNAME)

    def _info(self) -> dict[int, memoryview]:
        return dict(netlink.attributes(self.attributes.get(Attribute.IFLA_LINKINFO, _NOTHING)))


def dump_links(seq: int) -> bytes:
    """Return the request for all links of a namespace, without their statistics."""
    mask = netlink.attribute(Attribute.IFLA_EXT_MASK, _RTEXT_FILTER_SKIP_STATS)
    return netlink.request(_RTM_GETLINK, NLM_F_DUMP, seq, _LINK.pack(0, 0, 0, 0, 0) + mask)


def get_netnsid(seq: int, fd: int) -> bytes:
    """Return the request for the number of the namespace behind a descriptor."""
    body = bytes(4) + netlink.attribute(_NETNSA_FD, fd)
    return netlink.request(_RTM_GETNSID, NLM_F_ACK, seq, body)


def netnsid_of(answer: Iterable[Message]) -> int | None:
    """Return the number in the answer to ``get_netnsid``, None when it has none yet."""
    for message in answer:
        if message.kind == _RTM_NEWNSID:
            number = netlink.number(dict(netlink.attributes(message.body[4:])).get(_NETNSA_NSID))
            return None if number is None or number >= _NOT_ASSIGNED else number
    return None


def link_message(body: memoryview) -> LinkMessage:
    """Read the body of a message about a link; raises ``DamagedMessageError``."""
    if len(body) < _LINK.size:
        raise DamagedMessageError("a message about a link is cut off")
    family, link_type, index, flags, _ = _LINK.unpack_from(body)
    return LinkMessage(
        family, link_type, index, flags, dict(netlink.attributes(body[_LINK.size :]))
    )
