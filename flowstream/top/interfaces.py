"""Interfaces as the counters topic tells of them: rates, and terms of the loss equation."""

from __future__ import annotations

import itertools
from collections import deque
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final, NamedTuple

import msgspec

from flowstream.accounting.attachment_key import AttachmentKey
from flowstream.records import Amount, CountersRecord, Loss
from flowstream.wording import printable

if TYPE_CHECKING:
    from collections.abc import Iterable

MOST: Final = 4_096
"""Attachments that are kept; of more, those are left out whose counters are the oldest."""
RATES: Final = 60
"""Latest rates that are kept of each attachment: a minute, by default."""
_NS: Final = 1_000_000_000


class Interface(msgspec.Struct, frozen=True, omit_defaults=True):
    """One interface and direction of a host.

    Amounts are cumulative over the runs of the agent that were read, each from its own
    beginning to its last counters record. ``octets_per_s`` and ``packets_per_s`` are what the
    kernel program saw, None until two counters records tell; ``losing`` says that losses grew
    in the same time. ``rates`` are the latest octets per second, the oldest first.
    """

    host: str
    interface: str
    netns: str
    direction: str
    octets_per_s: float | None
    packets_per_s: float | None
    seen: Amount
    no_flow: dict[str, Amount]
    losses: dict[str, Loss]
    in_doubt: dict[str, Loss]
    spooled: Loss
    losing: bool
    final: bool
    rates: list[float] = []

    @property
    def lost(self) -> Loss:
        """Sum of the losses."""
        return _sum(self.losses.values())


class _Point(NamedTuple):
    time_ns: int
    packets: int
    octets: int
    lost: int


def _point(record: CountersRecord) -> _Point:
    lost = sum(loss.records + loss.packets for loss in record.losses.values())
    return _Point(record.time_unix_ns, record.seen_packets, record.seen_l2_bytes, lost)


@dataclass(slots=True)
class _Run:
    """One attachment in one run: its last counters, the first ones, and those of late."""

    last: CountersRecord
    first: _Point
    recent: deque[_Point] = field(default_factory=lambda: deque(maxlen=RATES + 1))


class Interfaces:
    """Adds up counters records, of any hosts and runs, in any order.

    Rates are those of the last ``seconds``, by the host's own clock, or, where ``whole``, those
    of all time that was read.
    """

    def __init__(self, seconds: float, *, whole: bool) -> None:
        self._span_ns = round(seconds * _NS)
        self._whole = whole
        # The least recently updated first.
        self._runs: dict[tuple[bytes, int, AttachmentKey], _Run] = {}
        self.left_out = 0

    def add(self, record: CountersRecord) -> None:
        """Note a counters record; one that is older than another of its run tells nothing new."""
        key = (record.host_id, record.agent_epoch, AttachmentKey.of_record(record))
        point = _point(record)
        run = self._runs.pop(key, None) or _Run(record, point)
        self._runs[key] = run
        if not run.recent or record.seq > run.last.seq:
            run.last = record
            run.recent.append(point)
        if len(self._runs) > MOST:
            del self._runs[next(iter(self._runs))]
            self.left_out += 1

    def read(self) -> list[Interface]:
        """Interfaces by traffic, the busiest first."""
        groups: dict[tuple[bytes, str, str, int], list[_Run]] = {}
        for run in self._runs.values():
            last = run.last
            where = last.host_id, last.if_name, last.netns, last.flow_direction
            groups.setdefault(where, []).append(run)
        found = [self._interface(runs) for runs in groups.values()]
        return sorted(found, key=lambda each: each.octets_per_s or 0, reverse=True)

    def _interface(self, runs: list[_Run]) -> Interface:
        latest = max(runs, key=lambda run: run.last.agent_epoch)
        last = latest.last
        begin, end = self._span(latest)
        seconds = (end.time_ns - begin.time_ns) / _NS
        return Interface(
            host=printable(last.host),
            interface=printable(last.if_name),
            netns=printable(last.netns),
            direction=AttachmentKey.of_record(last).direction,
            octets_per_s=(end.octets - begin.octets) / seconds if seconds > 0 else None,
            packets_per_s=(end.packets - begin.packets) / seconds if seconds > 0 else None,
            rates=_rates(latest.recent),
            seen=Amount(
                sum(run.last.seen_packets for run in runs),
                sum(run.last.seen_l2_bytes for run in runs),
            ),
            no_flow=_amounts(run.last.no_flow for run in runs),
            losses=_losses(run.last.losses for run in runs),
            in_doubt=_losses(run.last.in_doubt for run in runs),
            spooled=_sum(
                Loss(spool.records, spool.packets, spool.l2_bytes)
                for spool in (run.last.spool for run in runs)
            ),
            losing=end.lost > begin.lost,
            final=last.final,
        )

    def _span(self, run: _Run) -> tuple[_Point, _Point]:
        """First and last moment of the time of which rates are wanted."""
        end = run.recent[-1]
        if self._whole:
            return run.first, end
        since = end.time_ns - self._span_ns
        # One period at least, where that is longer.
        earlier = list(run.recent)[:-1] or [end]
        return next((point for point in earlier if point.time_ns >= since), earlier[-1]), end


def _rates(points: deque[_Point]) -> list[float]:
    return [
        max(two.octets - one.octets, 0) * _NS / (two.time_ns - one.time_ns)
        for one, two in itertools.pairwise(points)
        if two.time_ns > one.time_ns
    ]


def _sum(losses: Iterable[Loss]) -> Loss:
    records = packets = octets = 0
    for loss in losses:
        records += loss.records
        packets += loss.packets
        octets += loss.l2_bytes
    return Loss(records, packets, octets)


def _amounts(maps: Iterable[dict[str, Amount]]) -> dict[str, Amount]:
    found: dict[str, Amount] = {}
    for each in maps:
        for name, amount in each.items():
            before = found.get(name, Amount(0, 0))
            found[name] = Amount(
                before.packets + amount.packets, before.l2_bytes + amount.l2_bytes
            )
    return found


def _losses(maps: Iterable[dict[str, Loss]]) -> dict[str, Loss]:
    found: dict[str, Loss] = {}
    for each in maps:
        for name, loss in each.items():
            found[name] = _sum([found.get(name, Loss(0, 0, 0)), loss])
    return found
