"""Chosen interfaces that see a packet more than once: a pure function of their facts."""

from __future__ import annotations

from collections import defaultdict
from typing import TYPE_CHECKING, Final, NamedTuple

from flowstream.host.link_types import LOOPBACK, Framing
from flowstream.wording import listed

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping

    from flowstream.host.links import LinkFacts

_TUNNELS: Final = frozenset(
    (
        *("amt", "bareudp", "erspan", "geneve", "gre", "gretap", "gtp", "ip6erspan", "ip6gre"),
        *("ip6gretap", "ip6tnl", "ipip", "l2tpeth", "ovpn", "ppp", "sit", "vti", "vti6", "vxlan"),
        *("wireguard", "xfrm"),
    )
)
_BRIDGES: Final = frozenset(("bridge", "openvswitch"))
_SHOWN: Final = 4
_EITHER: Final = "leave out one or the other, for example by -i '!NAME'"
_ONE_DIRECTION: Final = "leave it out, for example by -i '!{}', or observe one direction"


class Seen(NamedTuple):
    """A chosen interface: number and label of its network namespace, and its facts."""

    place: int
    netns: str
    link: LinkFacts

    @property
    def name(self) -> str:
        """What to call it in a message."""
        return f"{self.link.name} in {self.netns}" if self.netns else self.link.name


class Overlap(NamedTuple):
    """``interface`` sees packets that ``others``, which are chosen too, see as well.

    ``text`` says which packets. Without others it sees them twice itself.
    """

    interface: Seen
    others: tuple[Seen, ...]
    text: str

    @property
    def remedy(self) -> str:
        """What to choose instead."""
        return _EITHER if self.others else _ONE_DIRECTION.format(self.interface.link.name)


def overlaps(
    chosen: Iterable[Seen], places: Mapping[tuple[int, int], int], *, both: bool = False
) -> list[Overlap]:
    """Return the overlaps among the chosen interfaces.

    ``places``: number of a namespace by that of another one and by the number that it has
    there (LinkFacts.lower_netnsid). ``both``: received and sent packets are observed. A
    packet that the host forwards, which it receives and sends, is none: the directions
    of its records differ.
    """
    by_index = {(each.place, each.link.index): each for each in chosen}
    return [
        *(_of_loopbacks(by_index) if both else ()),
        *_of_masters(by_index),
        *_of_lower_links(by_index, places, both=both),
        *_of_tunnels(by_index, places),
    ]


_Chosen = dict[tuple[int, int], Seen]


def _of_loopbacks(chosen: _Chosen) -> Iterator[Overlap]:
    for each in chosen.values():
        if each.link.link_type == LOOPBACK:
            text = "receives what it sends: both directions see each packet"
            yield Overlap(each, (), text)


def _of_masters(chosen: _Chosen) -> Iterator[Overlap]:
    """Find bonds, bridges and the like with their members."""
    members = defaultdict(list)
    for each in chosen.values():
        if master := chosen.get((each.place, each.link.master)):
            members[master].append(each)
    for master, others in members.items():
        if master.link.kind == "vrf":
            continue  # its packets are not received anew
        if master.link.kind in _BRIDGES:
            text = f"packets to {master.name} itself are seen on {_listed(others)} too"
        else:
            text = f"all its packets are seen on {_listed(others)} too"
        yield Overlap(master, tuple(others), text)


def _of_lower_links(
    chosen: _Chosen, places: Mapping[tuple[int, int], int], *, both: bool
) -> Iterator[Overlap]:
    """Find VLANs, macvlans, ipvlans and the like with the link below, and pairs of veth."""
    for each in chosen.values():
        lower = _lower(each, chosen, places)
        if lower is None or each.link.kind in _TUNNELS:
            continue
        if each.link.kind != "veth":
            yield Overlap(each, (lower,), f"all its packets are seen on {lower.name} too")
        elif (each.place, each.link.index) < (lower.place, lower.link.index):
            yield Overlap(each, (lower,), _veth_pair(lower.name, both=both))


def _veth_pair(other: str, *, both: bool) -> str:
    if both:
        text = "each receives what the other sends, so every packet is seen at both ends"
    else:
        text = (
            "packets that the host forwards through the pair are seen at one end, and again where "
            "they come in or leave"
        )
    return f"is the other end of {other}: {text}"


def _of_tunnels(chosen: _Chosen, places: Mapping[tuple[int, int], int]) -> Iterator[Overlap]:
    """Find tunnels with the links that may carry them."""
    tunnels = [each for each in chosen.values() if _is_tunnel(each.link)]
    carriers = [each for each in chosen.values() if each.link.physical]
    for each in tunnels:
        if each.link.lower:
            lower = _lower(each, chosen, places)
            others = [lower] if lower else []
        else:
            others = carriers
        if others:
            text = (
                f"its packets are seen on {_listed(others)} too, in the tunnel's packets: "
                "other headers, the same payload"
            )
            yield Overlap(each, tuple(others), text)


def _is_tunnel(link: LinkFacts) -> bool:
    # A tun device belongs to the VPN of a process; a tap, of the same kind, may be a guest's.
    is_tun = link.kind == "tun" and link.reading.framing is Framing.RAW_IP
    return link.kind in _TUNNELS or is_tun


def _lower(each: Seen, chosen: _Chosen, places: Mapping[tuple[int, int], int]) -> Seen | None:
    place: int | None = each.place
    if each.link.lower_netnsid is not None:
        place = places.get((each.place, each.link.lower_netnsid))
    return None if place is None else chosen.get((place, each.link.lower))


def _listed(others: list[Seen]) -> str:
    return listed([each.name for each in others], _SHOWN)
