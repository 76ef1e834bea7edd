"""What the driver of an interface does for XDP, by netlink. This module alone uses pyroute2."""

from __future__ import annotations

import enum
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from pyroute2.ethtool import Ethtool
from pyroute2.netlink import genlmsg
from pyroute2.netlink.exceptions import NetlinkError
from pyroute2.netlink.generic import GenericNetlinkSocket
from pyroute2.netlink.nlsocket import NLM_F_REQUEST

if TYPE_CHECKING:
    from flowstream.host.links import LinkFacts

_NETDEV_CMD_DEV_GET: Final = 1
# Names of the kernel (net/ethtool/common.c) and of ethtool -K.
_RX_VLAN_OFFLOADS: Final = {
    "rx-vlan-hw-parse": "rxvlan",
    "rx-vlan-stag-hw-parse": "rx-vlan-stag-hw-parse",
}


class XdpFeature(enum.IntFlag):
    """XDP capabilities of a driver: enum netdev_xdp_act of linux/netdev.h."""

    BASIC = 1 << 0
    REDIRECT = 1 << 1
    NDO_XMIT = 1 << 2
    XSK_ZEROCOPY = 1 << 3
    HW_OFFLOAD = 1 << 4
    RX_SG = 1 << 5
    NDO_XMIT_SG = 1 << 6


@dataclass(frozen=True, slots=True)
class DriverFacts:
    """What a driver reports; None where the kernel does not.

    ``xdp_features`` requires Linux 6.3; ``rx_vlan_offloads`` are the features, by ethtool's
    names, that remove a packet's tag before XDP sees it.
    """

    xdp_features: XdpFeature | None
    rx_vlan_offloads: tuple[str, ...]


class _NetdevMessage(genlmsg):  # type: ignore[misc]
    """Attributes of a device in the generic netlink family "netdev" (linux/netdev.h)."""

    nla_map = (
        ("NETDEV_A_DEV_UNSPEC", "none"),
        ("NETDEV_A_DEV_IFINDEX", "uint32"),
        ("NETDEV_A_DEV_PAD", "none"),
        ("NETDEV_A_DEV_XDP_FEATURES", "uint64"),
    )


def driver_facts(link: LinkFacts) -> DriverFacts:
    """Ask about a link of the calling thread's network namespace."""
    return DriverFacts(_xdp_features(link.index), _rx_vlan_offloads(link.name))


def _xdp_features(index: int) -> XdpFeature | None:
    request = _NetdevMessage()
    request["cmd"], request["version"] = _NETDEV_CMD_DEV_GET, 1
    request["attrs"] = [("NETDEV_A_DEV_IFINDEX", index)]
    with GenericNetlinkSocket() as netlink:
        try:
            netlink.bind("netdev", _NetdevMessage)
            answer = netlink.nlm_request(request, msg_type=netlink.prid, msg_flags=NLM_F_REQUEST)
        except (NetlinkError, OSError):
            return None
    features = answer[0].get("NETDEV_A_DEV_XDP_FEATURES")
    return None if features is None else XdpFeature(features)


def _rx_vlan_offloads(name: str) -> tuple[str, ...]:
    tool = Ethtool()
    try:
        features = tool.get_features(name).features
    except (NetlinkError, OSError, UnicodeError):  # names are any octets, pyroute2 requires UTF-8
        return ()
    finally:
        tool.close()
    return tuple(
        called
        for feature, called in _RX_VLAN_OFFLOADS.items()
        if feature in features and features[feature].enable
    )
