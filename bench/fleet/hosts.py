"""The simulated hosts and the records that their kernels would have made, by seed."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

import numpy as np
from support.records import flow_records

from flowstream.accounting import terms
from flowstream.accounting.amounts import Amount, KernelCounts, RecordAmount
from flowstream.accounting.attachment_key import AttachmentKey
from flowstream.accounting.books import Facts
from flowstream.accounting.identity import Identity, epoch_at
from flowstream.accounting.snapshot import Snapshot, TableState
from flowstream.records import RecordType
from flowstream.records.text import V4_MAPPED

if TYPE_CHECKING:
    from collections.abc import Iterator

    from numpy.typing import NDArray

    from flowstream.accounting.account import Account
    from flowstream.accounting.snapshot import Moment

ADDRESS: Final = V4_MAPPED + bytes([192, 0, 2, 1])
INTERFACES: Final = {2: "eth0", 3: "eth1"}
# Not packets of flows, on each interface; numbers and frame octets.
NON_IP: Final = Amount(17, 1_003)
MALFORMED: Final = Amount(3, 61)
# What the host with overflow loses, in records (a packet each) and frame octets.
OVERFLOW: Final = RecordAmount(19, 19, 1_997)

_START: Final = 1_763_800_000_000_000_017
_SECOND: Final = 1_000_000_000
_RESTARTED: Final = 7
"""Every so many hosts restart their agent half-way: two runs of the same host."""


@dataclass(frozen=True, slots=True)
class Run:
    """One run of one agent. ``overflowed``: losses of the kernel; ``refused``: of the sink."""

    host: int
    identity: Identity
    intervals: range
    overflowed: bool
    refused: bool


@dataclass(frozen=True, slots=True)
class Fleet:
    """``hosts`` machines that each see ``flows`` flows in each of ``intervals`` intervals.

    Two of them have losses: one whose kernel ran out of room and one whose
    broker did not answer. The same ``seed`` gives the same fleet.
    """

    hosts: int
    flows: int
    intervals: int
    seed: int

    def __post_init__(self) -> None:
        if self.hosts < 2 or self.flows < 2 or self.intervals < 1:
            raise ValueError("a fleet has 2 hosts, 2 flows and 1 interval or more")

    def runs(self) -> Iterator[Run]:
        """Every run, host after host."""
        overflowed, refused = self.hosts // 3, self.hosts * 2 // 3
        for host in range(self.hosts):
            half = self.intervals // 2 if host % _RESTARTED == 0 else 0
            for first, last in ((0, half), (half, self.intervals)):
                if first < last:
                    ended = last == self.intervals
                    yield Run(
                        host,
                        self._identity(host, first),
                        range(first, last),
                        overflowed=ended and host == overflowed,
                        refused=ended and host == refused,
                    )

    def _identity(self, host: int, interval: int) -> Identity:
        epoch = epoch_at(_START + host * 1_009 + interval * 10 * _SECOND)
        host_id = np.random.default_rng([self.seed, host]).bytes(16)
        return Identity(epoch, host_id, f"host-{host:06d}", ADDRESS, INTERFACES)

    def records(self, run: Run, interval: int) -> NDArray[np.void]:
        """The interval's flow records, a fifth of them IPv6, not stamped yet."""
        rng = np.random.default_rng([self.seed, run.host, interval])
        n = self.flows
        v6 = rng.random(n) < 0.2
        packets = rng.integers(1, 1_009, n)
        octets = packets * rng.integers(60, 1_461, n)
        end = run.identity.agent_epoch + (interval - run.intervals.start + 1) * 10 * _SECOND
        records: NDArray[np.void] = flow_records(
            n,
            time_received_ns=end,
            time_flow_start_ns=end - rng.integers(1, 10 * _SECOND, n),
            time_flow_end_ns=end - 1,
            etype=np.where(v6, 0x86DD, 0x0800),
            proto=np.where(rng.random(n) < 0.8, 6, 17),
            src_addr=_addresses(rng, v6),
            dst_addr=_addresses(rng, v6),
            src_net=np.where(v6, 128, 32),
            dst_net=np.where(v6, 128, 32),
            src_port=rng.integers(1_024, 1 << 16, n),
            dst_port=rng.choice([53, 80, 443], n),
            ip_ttl=64,
            if_index=rng.choice(list(INTERFACES), n),
            src_mac=np.frombuffer(b"\x02\0\0\0\0\1", np.uint8),
            dst_mac=np.frombuffer(b"\x02\0\0\0\0\2", np.uint8),
            packets=packets,
            bytes=octets,
            l2_bytes=octets + packets * 14,
            flow_count=1,
            sampling_rate=1,
            end_reason=2,
        )
        return records


def announcements(records: NDArray[np.void]) -> NDArray[np.void]:
    """Announcements of the same flows, without packets."""
    announced = records.copy()
    announced["record_type"] = RecordType.NEW_FLOW
    for name in ("packets", "bytes", "l2_bytes", "end_reason"):
        announced[name] = 0
    return announced


def _addresses(rng: np.random.Generator, v6: NDArray[np.bool_]) -> NDArray[np.uint8]:
    """Addresses of 16 networks of IPv4 (/16) and 5 of IPv6 (/48), shape (n, 16)."""
    n = len(v6)
    addresses = np.zeros((n, 16), np.uint8)
    addresses[:, :12] = np.frombuffer(V4_MAPPED, np.uint8)
    addresses[:, 12] = 10
    addresses[:, 13] = rng.integers(0, 16, n)
    addresses[:, 14:] = rng.integers(0, 256, (n, 2))
    addresses[v6] = 0
    addresses[v6, :4] = np.frombuffer(b"\x20\x01\x0d\xb8", np.uint8)
    addresses[v6, 5] = rng.integers(0, 5, np.count_nonzero(v6))
    addresses[v6, 15] = rng.integers(1, 256, np.count_nonzero(v6))
    return addresses


class Interface:
    """One attachment of a run; counts the packets of the records that it is shown."""

    def __init__(self, index: int) -> None:
        self.index = index
        self._swaps = 0
        self._seen = RecordAmount()
        self._losses = {terms.OVERFLOW_LOST: RecordAmount()}

    def saw(self, records: NDArray[np.void]) -> None:
        """Count an interval's records of this interface."""
        mine = records[records["if_index"] == self.index]
        self._seen = self._seen.plus(
            RecordAmount(len(mine), int(mine["packets"].sum()), int(mine["l2_bytes"].sum()))
        )
        self._swaps += 1

    def overflow(self) -> None:
        """Lose ``OVERFLOW`` in the kernel."""
        self._losses = {terms.OVERFLOW_LOST: OVERFLOW}

    def snapshot(self, account: Account, time: Moment) -> Snapshot:
        """All counts of the attachment at ``time``."""
        return Snapshot(
            key=AttachmentKey(self.index),
            facts=Facts(
                INTERFACES[self.index], mode="native", program_id=41, program_name="xdp_flow"
            ),
            time=time,
            kernel=self._counters(),
            account=account,
            table=TableState(0, 131_072, self._swaps),
        )

    def _counters(self) -> KernelCounts:
        """What the kernel would have counted."""
        lost = self._losses[terms.OVERFLOW_LOST]
        return KernelCounts(
            seen=Amount(
                self._seen.packets + NON_IP.packets + MALFORMED.packets + lost.packets,
                self._seen.l2_bytes + NON_IP.l2_bytes + MALFORMED.l2_bytes + lost.l2_bytes,
            ),
            no_flow=dict.fromkeys(terms.NO_FLOW, Amount())
            | {"non_ip": NON_IP, "malformed": MALFORMED},
            losses=dict(self._losses),
        )
