"""What differs in a skb from the wire: VLAN tags in metadata, TCP segments still to be cut.

    python3 skbs.py        (as root, where nothing else uses the network)

It prints a line per check and exits with 1 when one failed.
"""

from __future__ import annotations

import socket
import sys
import threading
import time
from collections import Counter
from contextlib import ExitStack, closing
from pathlib import Path
from typing import TYPE_CHECKING, Final, NamedTuple

from check import AT_TC, NOBODY, equal, flows_of, octets, ping, wait_for_packets
from wires import (
    FAR,
    FAR_ADDRESS,
    NEAR_ADDRESS,
    accepted,
    add_vlan,
    far_side,
    ip,
    run_all,
    veth,
)

from flowstream.accounting.attachment_key import EGRESS, INGRESS
from flowstream.attacher.client import Attacher
from flowstream.attacher.process import Process
from flowstream.host.namespaces import entered
from flowstream.kernel.flow import FlowProbe
from flowstream.kernel.link import Mode
from flowstream.kernel.target import Target
from flowstream.layouts.constants import EndReason

if TYPE_CHECKING:
    from flowstream.kernel.flow import FlowAttachment

BYTES: Final = 4_000_037
"""Sent over TCP in each direction."""
PORT: Final = 5001
VLAN: Final = 7
# struct tcp_info (linux/tcp.h), up to tcpi_bytes_sent.
_TCP_INFO_SIZE: Final = 208
_SEGS_OUT, _BYTES_SENT = slice(136, 140), slice(200, 208)
_ETHERNET, _IP, _TCP, _TIMESTAMPS, _MORE_OF_SYN = 14, 20, 20, 12, 8
_TIMEOUT_S: Final = 30


def check_tag() -> str:
    """A tag that is no part of the packet, as a NIC takes it off or is to put it in."""
    with ExitStack() as stack:
        enter = stack.enter_context
        process, kernel = enter(Process()), enter(FlowProbe(max_flows=1009))
        enter(veth("trunk", "peer"))
        for far, below in ((False, "trunk"), (True, "peer")):
            add_vlan(below, "tagged", VLAN, far=far)
        attacher = Attacher(process, kernel, NOBODY)
        made = [
            attacher.attach(Target.named("trunk", Mode.TCX, direction=each))
            for each in (INGRESS, EGRESS)
        ]
        untagged, tagged = ping(0, 31), ping(VLAN, 31)
        for place in (FAR, None):
            with entered(place), closing(socket.socket(socket.AF_PACKET, socket.SOCK_RAW)) as raw:
                raw.bind(("tagged", 0))
                send = accepted(raw.send)
                for _ in range(untagged.copies):
                    send(untagged.frame)
        for each in made:
            wait_for_packets(each.counters, tagged.copies)
        assert tagged.flow
        flows = flows_of(kernel.drain(EndReason.FORCED))
        equal("flows of both directions", flows, Counter({tagged.flow: 2}))
        for each in made:
            equal("octets", each.counters().seen.l2_bytes, octets([tagged]))
            each.close()
    return f"{2 * tagged.copies} packets of VLAN {VLAN}, {AT_TC}"


def check_segments() -> str:
    """TCP in pieces that are cut behind the hook, or were joined before it: as on the wire."""
    with ExitStack() as stack:
        enter = stack.enter_context
        process, kernel = enter(Process()), enter(FlowProbe(max_flows=1009))
        enter(veth("under", "over"))
        ip("address", "add", f"{NEAR_ADDRESS}/24", "dev", "under")
        ip("address", "add", f"{FAR_ADDRESS}/24", "dev", "over", far=True)
        for place in (FAR, None):
            # Then all headers but the first have one length.
            with entered(place):
                Path("/proc/sys/net/ipv4/tcp_sack").write_text("0", encoding="ascii")
        attacher = Attacher(process, kernel, NOBODY)
        made = [
            attacher.attach(Target.named("under", Mode.TCX, direction=each))
            for each in (INGRESS, EGRESS)
        ]
        received, sent = exchange()
        for its, sums in zip(made, (received, sent), strict=True):
            wait_for_tcp(its, sums.packets)
        found = [
            (int(each["flow_direction"]), *(int(each[name]) for name in Sums._fields))
            for batch in kernel.drain(EndReason.FORCED)
            for each in batch
            if each["proto"] == socket.IPPROTO_TCP
        ]
        equal("flows", sorted(found), [(INGRESS, *received), (EGRESS, *sent)])
        handed = sum(statistic("under", name) for name in ("rx_packets", "tx_packets"))
        assert handed < sent.packets, f"{handed} packets: nothing was cut"
        for its in made:
            its.close()
    return f"{received.packets} and {sent.packets} segments in {handed} packets, {AT_TC}"


class Sums(NamedTuple):
    """Segments of one direction of a connection, their IP octets and their frame octets."""

    packets: int
    bytes: int
    l2_bytes: int


def sums_of(sock: socket.socket, *, accepts: bool) -> Sums:
    """What a connection's end has sent, as TCP counts it; all of it has timestamps."""
    info = sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, _TCP_INFO_SIZE)
    # That which accepts does not count its first segment.
    packets = int.from_bytes(info[_SEGS_OUT], sys.byteorder) + accepts
    sent = int.from_bytes(info[_BYTES_SENT], sys.byteorder)
    octets = packets * (_IP + _TCP + _TIMESTAMPS) + _MORE_OF_SYN + sent
    return Sums(packets, octets, octets + packets * _ETHERNET)


def exchange() -> tuple[Sums, Sums]:
    """Send BYTES over TCP from the far side and to it; what was received here, and sent."""
    with ExitStack() as stack:
        with entered(FAR):
            listener = stack.enter_context(socket.create_server((FAR_ADDRESS, PORT)))
        near = stack.enter_context(socket.create_connection((FAR_ADDRESS, PORT), _TIMEOUT_S))
        far = stack.enter_context(listener.accept()[0])
        far.settimeout(_TIMEOUT_S)
        for one, other in ((near, far), (far, near)):
            sending = threading.Thread(target=send_all, args=(one,))
            sending.start()
            while other.recv(1 << 16):
                pass
            sending.join()
        return sums_of(far, accepts=True), sums_of(near, accepts=False)


def send_all(sock: socket.socket) -> None:
    sock.sendall(bytes(BYTES))
    sock.shutdown(socket.SHUT_WR)


def wait_for_tcp(attachment: FlowAttachment, packets: int) -> None:
    """Wait until so many packets were seen, beside those of ARP."""
    deadline = time.monotonic() + _TIMEOUT_S
    while True:
        counts = attachment.counters()
        seen = counts.seen.packets - counts.no_flow["non_ip"].packets
        if seen >= packets or time.monotonic() > deadline:
            return
        time.sleep(0.01)


def statistic(name: str, which: str) -> int:
    path = Path(f"/sys/class/net/{name}/statistics/{which}")
    return int(path.read_text(encoding="ascii"))


def main() -> int:
    """Run both checks; exit status 1 when one failed."""
    with far_side():
        return run_all((("VLAN tag in metadata", check_tag), ("segments", check_segments)))


if __name__ == "__main__":
    sys.exit(main())
