"""A whole run of an agent as it lies in the topics, made by hand, to be tampered with."""

from __future__ import annotations

import itertools
import random
from typing import TYPE_CHECKING, Any

import msgspec
import numpy as np

from flowstream.accounting.tally import Tally
from flowstream.encode.encoder import make_encoder
from flowstream.encode.identity import Identity, stamp
from flowstream.layouts.xdp_flow import FLOW_RECORD
from flowstream.messages import Message, MessageBatch
from flowstream.records import Loss, StageCounts
from flowstream.sink import open_sink
from flowstream.streams import Stream
from support.outcomes import Account
from support.records import COUNTERS, random_flows

if TYPE_CHECKING:
    from flowstream.records import CountersRecord

EPOCH = 1_763_800_000_000_000_017
HOST = bytes(range(16))
NAMES = {3: "veth3", 5: "veth5"}
PARTITIONS = 5
# What the interface received besides the packets that became flows.
NON_IP, MALFORMED, LOST = (17, 1_003), (3, 61), (19, 1_997)


class Published:
    """One run as it lies in the topics: 31 flows of each interface, 13 announcements.

    ``values`` are (topic, value) in the order of publication, to be tampered with.
    """

    def __init__(
        self, record_format: str = "json", interfaces: tuple[int, ...] = (3,), **run: Any
    ) -> None:
        identity = Identity(run.get("epoch", EPOCH), run.get("host_id", HOST), "host-a", NAMES)
        encoder = make_encoder(record_format, identity)
        # Without the dtype numpy would make the fields native-endian.
        self.flows = np.concatenate(
            [random_flows(31, seed=index) for index in interfaces], dtype=FLOW_RECORD
        )
        self.flows["in_if"] = np.repeat(interfaces, 31)
        stamp(self.flows, identity, 0)
        announced = random_flows(13, seed=2)
        announced["record_type"] = 2
        stamp(announced, identity, 0)
        self.values = [("flowstream.flows", value) for value in encoder.encode(self.flows)]
        self.values += [("flowstream.new_flows", value) for value in encoder.encode(announced)]
        seqs = itertools.count()
        self.counters = [
            self._counters(index, next(seqs), final, identity, first=index == interfaces[0])
            for final in (False, True)
            for index in interfaces
        ]
        self._encode_counters = encoder.encode_counters

    def _counters(
        self, index: int, seq: int, final: bool, identity: Identity, *, first: bool
    ) -> CountersRecord:
        mine = self.flows[self.flows["in_if"] == index]
        packets, octets = int(mine["packets"].sum()), int(mine["l2_bytes"].sum())
        return msgspec.structs.replace(
            COUNTERS,
            agent_epoch=identity.agent_epoch,
            host_id=identity.host_id,
            seq=seq,
            in_if=index,
            in_if_name=NAMES[index],
            rx_packets=packets + NON_IP[0] + MALFORMED[0] + LOST[0],
            rx_bytes=octets + NON_IP[1] + MALFORMED[1] + LOST[1],
            non_ip_packets=NON_IP[0],
            non_ip_bytes=NON_IP[1],
            malformed_packets=MALFORMED[0],
            malformed_bytes=MALFORMED[1],
            losses={"overflow_lost": Loss(11, *LOST)},
            flows=StageCounts(42, 31, 31, 31, 0, 0),
            new_flows=StageCounts(13, 13, 13, 13, 0, 0) if first else StageCounts(*[0] * 6),
            final=final,
        )

    def change_counters(self, number: int, **changes: Any) -> None:
        self.counters[number] = msgspec.structs.replace(self.counters[number], **changes)

    def messages(self) -> list[Message]:
        """All messages over the partitions, without order between them."""
        values = list(self.values)
        values += [("flowstream.counters", self._encode_counters(c)) for c in self.counters]
        offsets = itertools.count()
        found = [
            Message(topic, number % PARTITIONS, next(offsets), 0, b"", value)
            for number, (topic, value) in enumerate(values)
        ]
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
    await sink.flush(30)
    await sink.close(10)
    assert len(account.acknowledged_values) == len(messages)
