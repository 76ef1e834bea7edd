"""Links between this network namespace and another one, "far", and programs on them."""

from __future__ import annotations

import base64
import errno
import fcntl
import os
import socket
import struct
import subprocess
import time
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Final, NamedTuple

from check import TRAFFIC_TIMEOUT_S, equal, say
from pyroute2 import WireGuard

from flowstream.host.link_types import Framing
from flowstream.host.links import LinkFacts, LinkMonitor
from flowstream.host.namespaces import Namespace, entered
from flowstream.kernel.attaching import attach_here
from flowstream.kernel.link import Mode
from flowstream.kernel.target import Target

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Sequence

    from flowstream.kernel.flow import FlowAttachment, FlowProbe


FAR: Final = "far"
NEAR_ADDRESS, FAR_ADDRESS = "192.0.2.1", "192.0.2.2"
ENDS = (
    {"local": NEAR_ADDRESS, "remote": FAR_ADDRESS},
    {
        "local": FAR_ADDRESS,
        "remote": NEAR_ADDRESS,
    },
)
ETHERTYPES: Final = {4: 0x0800, 6: 0x86DD}
_TUNSETIFF, _IFF_TUN, _IFF_NO_PI = 0x400454CA, 0x0001, 0x1000
PORT: Final = 51820
# X25519, private and public; for this test alone.
KEYS: Final = (
    (
        "d8e8d816b2c6d99aa5bfd3abf77f7b45521758235407e074633e875111fdcb50",
        "fb1d12d3af0317439348eb7517e3745c5e7d7ef9414dca66ec8771d10c9de83c",
    ),
    (
        "5098d7fda5dbe96cdf1c7e2a3e0c0a7973b132d612760eed4a95e3872d804d72",
        "416f963fe9f5848e53efc511de3b6642ab494e52c659a60ed8124deca08fe817",
    ),
)


def ip(*words: str | int, far: bool = False) -> None:
    """Run ip(8), on the far side if so."""
    command = ["ip", *(["-n", FAR] if far else []), *map(str, words)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, f"{' '.join(command)}: {done.stderr.strip()}"


@contextmanager
def far_side() -> Iterator[None]:
    """Make the namespace, in which nothing but the test's packets is sent."""
    ip("netns", "add", FAR)
    try:
        with entered(FAR):
            Path("/proc/sys/net/ipv6/conf/default/disable_ipv6").write_text("1", encoding="ascii")
        yield
    finally:
        ip("netns", "delete", FAR)


class LeftOutError(Exception):
    """What this machine cannot be checked for, and why."""


def run_all(cases: Iterable[tuple[str, Callable[[], str]]]) -> int:
    """Run checks, each with its name; exit status 1 when one failed."""
    failed = 0
    for name, check in cases:
        try:
            say(f"ok    {name}: {check()}")
        except LeftOutError as err:
            say(f"left out  {name}: {err}")
        except Exception as err:  # noqa: BLE001 - the others are checked all the same
            failed += 1
            say(f"FAIL  {name}: {type(err).__name__}: {err}")
    return 1 if failed else 0


class Wire(NamedTuple):
    """A link here, and how to send a packet or frame so that it arrives there."""

    name: str
    send: Callable[[bytes], object]


def accepted(send: Callable[[bytes], object]) -> Callable[[bytes], None]:
    """Return ``send`` with repetitions while the kernel refuses: a link that just came up may."""

    def send_once(octets: bytes) -> None:
        deadline = time.monotonic() + TRAFFIC_TIMEOUT_S
        while True:
            try:
                send(octets)
            except OSError as err:
                if err.errno not in (errno.ENOBUFS, errno.ENETDOWN):
                    raise
                assert time.monotonic() < deadline, "the sender's link takes no packets"
                time.sleep(0.001)
            else:
                return

    return send_once


@contextmanager
def veth(near: str, far: str) -> Iterator[Wire]:
    """A veth pair; frames are sent as they are."""
    ip("link", "add", near, "type", "veth", "peer", "name", far, "netns", FAR)
    try:
        ip("link", "set", near, "up")
        ip("link", "set", far, "up", far=True)
        with entered(FAR):
            sock = socket.socket(socket.AF_PACKET, socket.SOCK_RAW)
            sock.bind((far, 0))
        with sock:
            yield Wire(near, accepted(sock.send))
    finally:
        ip("link", "delete", near)


def add_vlan(below: str, name: str, number: int, *, far: bool = False) -> None:
    """Make the link of a VLAN; it goes with the link below it."""
    kernel = os.uname()
    if kernel.machine == "s390x" and kernel.release.startswith("6.12."):
        raise LeftOutError("Linux 6.12 panics in mrp_join_timer() once there is a VLAN")
    ip("link", "add", "link", below, "name", name, "type", "vlan", "id", number, far=far)
    ip("link", "set", name, "up", far=far)


@contextmanager
def underlay() -> Iterator[None]:
    """A veth pair with the addresses of the tunnels' ends."""
    with veth("under", "over"):
        ip("address", "add", f"{NEAR_ADDRESS}/24", "dev", "under")
        ip("address", "add", f"{FAR_ADDRESS}/24", "dev", "over", far=True)
        yield


@contextmanager
def tunnel(kind: str, *options: str, near: Sequence[str] | None = None) -> Iterator[Wire]:
    """A tunnel; its packets are sent into its far end. ``near``: the options of the near one."""
    with underlay():
        for far, ends in enumerate(ENDS):
            words = [word for option in ends.items() for word in option]
            if not far and near is not None:
                words = list(near)
            if kind == "wireguard":
                words = []
            ip("link", "add", "tunnel", "type", kind, *words, *options, far=bool(far))
        try:
            if kind == "wireguard":
                join_peers()
            for far in (False, True):
                ip("link", "set", "tunnel", "up", far=far)
            with entered(FAR):
                sock = socket.socket(socket.AF_PACKET, socket.SOCK_DGRAM)
            with sock:

                def send_packet(packet: bytes) -> int:
                    return sock.sendto(packet, ("tunnel", ETHERTYPES[packet[0] >> 4]))

                yield Wire("tunnel", accepted(send_packet))
        finally:
            for far in (False, True):
                ip("link", "delete", "tunnel", far=far)


def join_peers() -> None:
    """Give both ends of a WireGuard tunnel their keys and each other's."""
    for number, (namespace, address) in enumerate(((None, FAR_ADDRESS), (FAR, NEAR_ADDRESS))):
        private, public = KEYS[number][0], KEYS[1 - number][1]
        peer = {
            "public_key": base64.b64encode(bytes.fromhex(public)),
            "endpoint_addr": address,
            "endpoint_port": PORT,
            "allowed_ips": ["0.0.0.0/0", "::/0"],
        }
        key = base64.b64encode(bytes.fromhex(private))
        with entered(namespace), WireGuard() as wireguard:
            wireguard.set("tunnel", listen_port=PORT, private_key=key, peer=peer)


@contextmanager
def tun() -> Iterator[Wire]:
    """A tun, whose packets this process writes."""
    fd = os.open("/dev/net/tun", os.O_RDWR)
    try:
        fcntl.ioctl(fd, _TUNSETIFF, struct.pack("16sH22x", b"tunnel", _IFF_TUN | _IFF_NO_PI))
        ip("link", "set", "tunnel", "up")
        yield Wire("tunnel", lambda packet: os.write(fd, packet))
    finally:
        os.close(fd)


def facts() -> dict[str, LinkFacts]:
    """What netlink says of the links here, by name."""
    with Namespace("") as own, LinkMonitor(own) as monitor:
        return {each.name: each for each in monitor.links().values()}


def attach(probe: FlowProbe, name: str, mode: Mode = Mode.AUTO) -> FlowAttachment:
    """Attach as the agent does: by what netlink says of the link."""
    link = facts()[name]
    framing, reason = link.reading
    assert framing, f"{name} is refused: {reason}"
    raw = framing is Framing.RAW_IP
    return attach_here(probe, Target(name, link.index, link.index, mode, raw=raw))


def wait_for(attachment: FlowAttachment, packets: int) -> None:
    """Wait until an attachment has seen so many packets."""
    deadline = time.monotonic() + TRAFFIC_TIMEOUT_S
    while attachment.counters().seen.packets < packets and time.monotonic() < deadline:
        time.sleep(0.001)
    equal("seen packets", attachment.counters().seen.packets, packets)
