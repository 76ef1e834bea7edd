"""What programs see on a bond and on its members, while one of them leaves and joins."""

from __future__ import annotations

import threading
import time
from collections import Counter
from contextlib import ExitStack, contextmanager
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Final

from check import TRAFFIC_TIMEOUT_S, equal, udp
from wires import Wire, attach, facts, ip, veth, wait_for

from flowstream.kernel.flow import FlowAttachment, FlowProbe
from flowstream.kernel.link import Mode
from flowstream.layouts.constants import EndReason

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator


MEMBERS: Final = ("member1", "member2")


@contextmanager
def bond(mode: str) -> Iterator[list[Wire]]:
    """Two veths, and a bond without members."""
    with ExitStack() as stack:
        wires = [
            stack.enter_context(veth(name, f"sender{number}"))
            for number, name in enumerate(MEMBERS, 1)
        ]
        ip("link", "add", "bond", "type", "bond", "mode", mode, "miimon", 100)
        stack.callback(ip, "link", "delete", "bond")
        ip("link", "set", "bond", "up")
        yield wires


def join(name: str) -> None:
    """Make a link a member; a bond takes only links that are down."""
    ip("link", "set", name, "down")
    ip("link", "set", name, "master", "bond")
    ip("link", "set", name, "up")


class Stream(threading.Thread):
    """Sends a frame again and again until ``finish``, no more at once than ``seen`` follows."""

    def __init__(self, wire: Wire, frame: bytes, seen: Callable[[], int]) -> None:
        super().__init__(daemon=True)
        self._wire, self._frame, self._seen = wire, frame, seen
        self._finished = threading.Event()
        self.sent = 0

    def run(self) -> None:
        begin = self._seen()
        while not self._finished.is_set():
            for _ in range(16):
                self._wire.send(self._frame)
            self.sent += 16
            deadline = time.monotonic() + TRAFFIC_TIMEOUT_S
            while self._seen() - begin < self.sent and time.monotonic() < deadline:
                time.sleep(0.0005)

    def finish(self) -> int:
        """Return how many were sent."""
        self._finished.set()
        self.join()
        return self.sent


def seen(attachment: FlowAttachment) -> int:
    return attachment.counters().seen.packets


def check_bond_members(mode: str) -> str:
    """Programs on members count on, whatever bond they are in."""
    with bond(mode) as wires, FlowProbe(max_flows=1009) as probe:
        attachments = [attach(probe, name) for name in MEMBERS]
        streams = [
            Stream(wire, udp(number, 1).frame, partial(seen, its))
            for number, (wire, its) in enumerate(zip(wires, attachments, strict=True), 1)
        ]
        join(MEMBERS[0])
        join(MEMBERS[1])
        links = facts()
        equal("kind", links["bond"].kind, "bond")
        equal("masters", {links[name].master for name in MEMBERS}, {links["bond"].index})
        wait_until_up("bond")
        streams[0].start()
        sent = 0
        for _ in range(5):
            ip("link", "set", MEMBERS[1], "nomaster")
            equal("master", facts()[MEMBERS[1]].master, 0)
            join(MEMBERS[1])
            for _ in range(31):
                wires[1].send(udp(2, 1).frame)
            sent += 31
            wait_for(attachments[1], sent)
        counts = (streams[0].finish(), sent)
        for its, count in zip(attachments, counts, strict=True):
            wait_for(its, count)
        found = Counter[int]()
        for batch in probe.drain(EndReason.FORCED):
            for record in batch:
                found[int(record["if_index"])] += int(record["packets"])
        links = facts()
        expected_by_link = {links[name].index: c for name, c in zip(MEMBERS, counts, strict=True)}
        equal("packets by member", found, Counter(expected_by_link))
        modes = {str(its.mode) for its in attachments}
        for its in attachments:
            its.close()
    return f"{counts[0]} and {counts[1]} packets, {', '.join(modes)}"


def wait_until_up(name: str) -> None:
    """Wait for a link's carrier."""
    deadline = time.monotonic() + TRAFFIC_TIMEOUT_S
    while True:
        if Path(f"/sys/class/net/{name}/operstate").read_text(encoding="ascii").strip() == "up":
            return
        assert time.monotonic() < deadline, f"{name} is not up"
        time.sleep(0.01)


def check_bond(mode: str, attach_mode: Mode) -> str:
    """A program on the bond itself: what it sees of its members, while one goes and comes."""
    with bond(mode) as wires, FlowProbe(max_flows=1009) as probe:
        join(MEMBERS[0])
        join(MEMBERS[1])
        wait_until_up("bond")
        attachment = attach(probe, "bond", attach_mode)
        equal("mode", attachment.mode, attach_mode)
        stream = Stream(wires[0], udp(1, 1).frame, lambda: seen(attachment))
        stream.start()
        for _ in range(5):
            ip("link", "set", MEMBERS[1], "nomaster")
            join(MEMBERS[1])
        counts = [stream.finish()]
        wait_for(attachment, counts[0])
        # The second member is not the active one of an active-backup bond.
        for _ in range(101):
            wires[1].send(udp(2, 1).frame)
        time.sleep(0.5)
        counts.append(seen(attachment) - counts[0])
        is_seen = mode == "balance-rr" or attach_mode is Mode.NATIVE
        equal("packets of the second member", counts[1], 101 if is_seen else 0)
        found = Counter[tuple[int, int]]()
        for batch in probe.drain(EndReason.FORCED):
            for record in batch:
                found[int(record["if_index"]), record["src_addr"][15]] += int(record["packets"])
        index = facts()["bond"].index
        pairs = {(index, number): count for number, count in enumerate(counts, 1) if count}
        equal("packets by link and source", found, Counter(pairs))
        attachment.close()
    return f"{counts[0]} packets of the first member, {counts[1]} of 101 of the second"
