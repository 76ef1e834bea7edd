"""How the packets of a link begin, as an XDP program sees them.

A program sees a packet from its MAC header on (net/core/dev.c: bpf_prog_run_generic_xdp). On a
link without a link-layer header that is the IP header, if the driver puts the MAC header there
when it has taken off what was around the packet (skb_reset_mac_header). Those below do so, by
their sources, and tunnels and WireGuard were seen to do so on Linux 6.1 and 6.12. Others leave
it at the header of the outer packet. None of these drivers has native XDP.

==============  =====  ============================  =========================================
link type       from   kinds                         source
==============  =====  ============================  =========================================
NONE 65534             tun                           drivers/net/tun.c: tun_get_user
..                     wireguard                     drivers/net/wireguard: wg_reset_packet
..                     gre (external)                net/ipv4/ip_gre.c: __ipgre_rcv
..                     vxlan (gpe)                   drivers/net/vxlan: vxlan_rcv
..                     none: modems in raw-IP mode   drivers/net/usb/qmi_wwan.c
..              5.14   bareudp, gtp                  drivers/net/bareudp.c, gtp.c
PPP 512                ppp                           ppp_generic.c: ppp_receive_nonmp_frame
RAWIP 519              rmnet                         drivers/net/ethernet/qualcomm/rmnet
TUNNEL 768      5.14   ipip                          net/ipv4/ipip.c
TUNNEL6 769     5.14   ip6tnl                        net/ipv6/ip6_tunnel.c
SIT 776         5.14   sit                           net/ipv6/sit.c
IPGRE 778       5.14   gre, point-to-point           net/ipv4/ip_gre.c: __ipgre_rcv
IP6GRE 823      5.14   ip6gre                        net/ipv6/ip6_tunnel.c
==============  =====  ============================  =========================================

GRE that is not point-to-point keeps the outer IP header (ipgre_header_ops). vti, vti6 and xfrm
links get the link-layer header of the packet that was encrypted (skb_mac_header_rebuild).
"""

from __future__ import annotations

import enum
from typing import TYPE_CHECKING, Final, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Mapping

Version = tuple[int, int]
"""Major and minor version of a kernel."""

ETHER: Final = 1
LOOPBACK: Final = 772
_IPGRE: Final = 778
_IPSEC: Final = ("vti", "vti6", "xfrm")
_ANY: Final = (0, 0)
_RESET: Final = (5, 14)
"""The first kernel with "net: reset MAC header consistently across L3 virtual devices"."""

# By ARPHRD number (linux/if_arp.h) and kind: the first kernel.
_RAW_IP: Final[Mapping[int, Mapping[str, Version]]] = {
    65534: {
        **dict.fromkeys(("", "tun", "wireguard", "gre", "vxlan"), _ANY),
        **dict.fromkeys(("bareudp", "gtp"), _RESET),
    },
    512: {"ppp": _ANY},
    519: {"rmnet": _ANY},
    768: {"ipip": _RESET},
    769: {"ip6tnl": _RESET},
    776: {"sit": _RESET},
    _IPGRE: {"gre": _RESET},
    823: {"ip6gre": _RESET},
}


class Framing(enum.Enum):
    """What a packet begins with."""

    ETHERNET = enum.auto()
    RAW_IP = enum.auto()


class Reading(NamedTuple):
    """How packets of a link are read; ``framing`` is None when they cannot be, for ``reason``."""

    framing: Framing | None
    reason: str = ""


def reading(link_type: int, kind: str, *, point_to_point: bool, kernel: Version) -> Reading:
    """Judge a link by its ARPHRD number, kind ("" without one) and IFF_POINTOPOINT."""
    if link_type in (ETHER, LOOPBACK):
        return Reading(Framing.ETHERNET)
    if kind in _IPSEC:
        text = "its packets begin with what is left of the outer packet (IPsec)"
        return Reading(None, f"{text}: observe the interface that receives those")
    since = _RAW_IP.get(link_type, {}).get(kind)
    if since is None:
        named = f" and kind {kind}" if kind else ""
        return Reading(None, f"packets of link type {link_type}{named} cannot be read")
    if link_type == _IPGRE and not point_to_point:
        text = "packets of GRE that is not point-to-point begin with the outer header"
        return Reading(None, text)
    if kernel < since:
        text = "its packets begin with the outer header before Linux"
        return Reading(None, f"{text} {since[0]}.{since[1]}")
    return Reading(Framing.RAW_IP)
