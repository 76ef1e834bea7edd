"""A whole run of an agent as it lies in the topics, made by hand, to be tampered with."""

from __future__ import annotations

import itertools
import random
from typing import TYPE_CHECKING, Any

import msgspec
import numpy as np

from flowstream.accounting.identity import Identity
from flowstream.accounting.tally import Tally
from flowstream.encode.stamp import stamp
from flowstream.layouts.flow import FLOW_RECORD
from flowstream.messages import Message, MessageBatch
from flowstream.records import Amount, CountersRecord, Loss, SpoolCounts, StageCounts
from flowstream.sink import open_sink
from flowstream.streams import Stream
from support.outcomes import Account
from support.records import COUNTERS, EPOCH, SAMPLER, encoder_of, random_flows

if TYPE_CHECKING:
    from numpy.typing import NDArray

HOST = bytes(range(16))
NAMES = {3: "veth3", 5: "veth5"}
PARTITIONS = 5
FLOWS, ANNOUNCEMENTS = 31, 13
INGRESS, EGRESS = 0, 1
# What the program saw besides the packets that became published flow records.
NON_IP, MALFORMED, LOST = (17, 1_003), (3, 61), (19, 1_997)
NO_FLOW = {
    "non_ip": Amount(*NON_IP),
    "malformed": Amount(*MALFORMED),
    "sampled_out": Amount(0, 0),
    "counted": Amount(0, 0),
}
LOSSES = {"overflow_lost": Loss(11, *LOST), "delivery_timeout": Loss(0, 0, 0)}
IN_DOUBT = {"delivery_timeout": Loss(0, 0, 0), "shutdown": Loss(0, 0, 0)}

NO_STAGE = StageCounts(0, 0, 0, 0, 0, 0, 0)
NO_SPOOL = SpoolCounts(0, 0, 0, 0, 0)


def stages(flows: StageCounts, announcements: int = ANNOUNCEMENTS) -> dict[str, StageCounts]:
    """``flows``, and announcements that were all published."""
    n = announcements
    return {"flows": flows, "new_flows": StageCounts(n, n, n, n, 0, 0, 0)}


class Published:
    """One run as it lies in the topics: 31 flows of each attachment, 13 announcements.

    ``attachments`` are (if_index, flow_direction); the announcements are of the
    first. ``values`` are (topic, value) in the order of publication, ``counters``
    two records of each attachment: one before any record had got a seq, and the final one.
    """

    def __init__(
        self,
        record_format: str = "json",
        attachments: tuple[tuple[int, int], ...] = ((3, INGRESS),),
        *,
        epoch: int = EPOCH,
        host_id: bytes = HOST,
    ) -> None:
        self.identity = Identity(epoch, host_id, "host-a", SAMPLER, NAMES)
        self._encoder = encoder_of(record_format, self.identity)
        # Without the dtype numpy would make the fields native-endian.
        self.flows = np.concatenate(
            [random_flows(FLOWS, seed=sum(each)) for each in attachments], dtype=FLOW_RECORD
        )
        indexes, directions = zip(*attachments, strict=True)
        self.flows["if_index"] = np.repeat(indexes, FLOWS)
        self.flows["flow_direction"] = np.repeat(directions, FLOWS)
        stamp(self.flows, self.identity, 0)
        announced = random_flows(ANNOUNCEMENTS, seed=2)
        announced["record_type"] = 2
        announced["if_index"], announced["flow_direction"] = attachments[0]
        for name in ("packets", "bytes", "l2_bytes"):
            announced[name] = 0
        stamp(announced, self.identity, 0)
        self.values = [("flowstream.flows", value) for value in self.encode(self.flows)]
        self.values += [("flowstream.new_flows", value) for value in self.encode(announced)]
        seqs = itertools.count()
        self.counters = [
            self._counters(attachment, next(seqs), final, first=attachment == attachments[0])
            for final in (False, True)
            for attachment in attachments
        ]

    def encode(self, flows: NDArray[np.void]) -> list[bytes]:
        """Values of flow records in the format of this run."""
        return self._encoder.encode(flows)

    def _counters(
        self, attachment: tuple[int, int], seq: int, final: bool, *, first: bool
    ) -> CountersRecord:
        index, direction = attachment
        mine = self.flows[self.flows["if_index"] == index]
        mine = mine[mine["flow_direction"] == direction]
        packets, octets = int(mine["packets"].sum()), int(mine["l2_bytes"].sum())
        return msgspec.structs.replace(
            COUNTERS,
            agent_epoch=self.identity.agent_epoch,
            host_id=self.identity.host_id,
            seq=seq,
            if_index=index,
            if_name=NAMES[index],
            flow_direction=direction,
            seen_packets=(packets + NON_IP[0] + MALFORMED[0] + LOST[0]) // (1 if final else 2),
            seen_l2_bytes=(octets + NON_IP[1] + MALFORMED[1] + LOST[1]) // (1 if final else 2),
            no_flow=NO_FLOW if final else dict.fromkeys(NO_FLOW, Amount(0, 0)),
            losses=LOSSES if final else dict.fromkeys(LOSSES, Loss(0, 0, 0)),
            in_doubt=IN_DOUBT,
            stages=stages(
                StageCounts(42, FLOWS, FLOWS, FLOWS, 0, 0, 0) if final else NO_STAGE,
                ANNOUNCEMENTS if first and final else 0,
            ),
            final=final,
            spool=NO_SPOOL,
            netns="",
            previous_epoch=0,
        )

    def change_counters(self, number: int, **changes: Any) -> None:
        self.counters[number] = msgspec.structs.replace(self.counters[number], **changes)

    def messages(self) -> list[Message]:
        """All messages over the partitions, without order between them."""
        values = list(self.values)
        values += [
            ("flowstream.counters", self._encoder.encode_counters(c)) for c in self.counters
        ]
        found = []
        begun: set[tuple[str, int]] = set()
        for number, (topic, value) in enumerate(values):
            place = topic, number % PARTITIONS
            # A partition begins at offset 0: nothing was deleted.
            offset = number if place in begun else 0
            begun.add(place)
            found.append(Message(*place, offset, 0, b"", value))
        random.Random(11).shuffle(found)
        return found


async def publish(url: str, record_format: str, *runs: Published) -> None:
    """Publish these runs to a sink, in the order of their values."""
    account = Account()
    sink = open_sink(url, account, partitions=PARTITIONS, record_format=record_format)
    await sink.start([f"flowstream.{stream}" for stream in Stream])
    messages = [message for run in runs for message in run.messages()]
    for topic, partition, _, _, key, value, *_ in messages:
        stream = Stream(topic.removeprefix("flowstream."))
        batch = MessageBatch(
            topic, partition, [0], [key], [value], stream=stream, tally=Tally.empty(1)
        )
        await sink.send(batch)
    await sink.flush(60)
    await sink.close(60)
    assert len(account.acknowledged_values) == len(messages)
