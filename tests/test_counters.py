from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING

import msgspec
import numpy as np
import pytest
from msgspec.structs import replace
from support.records import EPOCH, SAMPLER, flow_records

from flowstream import __version__
from flowstream.accounting import terms
from flowstream.accounting.account import Account, StageCount
from flowstream.accounting.amounts import Amount, KernelCounts, RecordAmount
from flowstream.accounting.attachment_key import AttachmentKey
from flowstream.accounting.books import Facts
from flowstream.accounting.counters import Rhythm, counters_record
from flowstream.accounting.identity import Identity
from flowstream.accounting.ledger import Ledger
from flowstream.accounting.snapshot import Moment, Snapshot, TableState
from flowstream.accounting.tally import Tally
from flowstream.messages import MessageBatch
from flowstream.records import Amount as Packets
from flowstream.records import CountersRecord, Loss, StageCounts, decode
from flowstream.streams import Stream

if TYPE_CHECKING:
    from collections.abc import Callable

THREE_IN, THREE_OUT, FIVE_IN = AttachmentKey(3), AttachmentKey(3, 1), AttachmentKey(5)
FACTS = Facts("eth0", mode="native", program_id=41, program_name="xdp_flow")
PUBLISHING = [Stream.FLOWS, Stream.NEW_FLOWS]


def tally(*records: tuple[int, int, int, int]) -> Tally:
    """Of records (if_index, flow_direction, packets, frame octets)."""
    columns = np.array(records, np.uint64).T
    index, direction, packets, octets = columns
    return Tally.of_flows(
        flow_records(
            len(records),
            if_index=index,
            flow_direction=direction,
            packets=packets,
            l2_bytes=octets,
        )
    )


RECORDS = tally((3, 0, 7, 701), (5, 0, 11, 1_103), (3, 1, 13, 1_301), (3, 0, 17, 1_709))


def batch(stream: Stream | None, records: Tally | None = RECORDS) -> MessageBatch:
    n = 4 if records is None else len(records)
    return MessageBatch(
        f"t.{stream}", 0, [0] * n, [b""] * n, [b""] * n, stream=stream, tally=records
    )


def test_a_tally_sums_per_interface_and_direction():
    assert dict(RECORDS.sums()) == {
        THREE_IN: RecordAmount(2, 24, 2_410),
        THREE_OUT: RecordAmount(1, 13, 1_301),
        FIVE_IN: RecordAmount(1, 11, 1_103),
    }
    assert dict(RECORDS[1:3].sums()) == {
        THREE_OUT: RecordAmount(1, 13, 1_301),
        FIVE_IN: RecordAmount(1, 11, 1_103),
    }
    assert dict(RECORDS[:1].sums()) == {THREE_IN: RecordAmount(1, 7, 701)}
    assert dict(Tally.empty().sums()) == {}
    assert dict(tally((2**32 - 1, 1, 1, 60)).sums()) == {
        AttachmentKey(2**32 - 1, 1): RecordAmount(1, 1, 60)
    }


def test_a_tally_sums_hundreds_of_attachments_in_any_order():
    codes = np.array([2 * (7 * n % 307) for n in range(3_001)], np.uint64)
    packets = np.arange(3_001, dtype=np.uint64)
    expected: dict[AttachmentKey, RecordAmount] = {}
    for code, amount in zip(codes.tolist(), packets.tolist(), strict=True):
        key = AttachmentKey.of_code(code)
        expected[key] = expected.get(key, RecordAmount()).plus(RecordAmount(1, amount, 3 * amount))
    assert dict(Tally(codes, packets, np.uint64(3) * packets).sums()) == expected
    assert len(expected) == 307


@pytest.mark.parametrize("stream", PUBLISHING)
def test_every_stage_counts_per_attachment(stream):
    ledger = Ledger()
    ledger.drained(stream, RECORDS)
    ledger.encoded(stream, RECORDS)
    ledger.queued(batch(stream))
    ledger.acknowledged(batch(stream), slice(0, 2))
    ledger.failed(batch(stream), slice(2, 3), "delivery_timeout")
    ledger.in_doubt(batch(stream), slice(3, 4), "shutdown")
    other = Stream.NEW_FLOWS if stream is Stream.FLOWS else Stream.FLOWS
    for key, expected in (
        (THREE_IN, StageCount(drained=2, encoded=2, queued=2, acknowledged=1)),
        (THREE_OUT, StageCount(drained=1, encoded=1, queued=1, failed=1)),
        (FIVE_IN, StageCount(drained=1, encoded=1, queued=1, acknowledged=1)),
    ):
        assert ledger.account(key).stage(stream) == expected
        assert ledger.account(key).stage(other) == StageCount()


def test_records_given_up_are_losses_under_their_cause():
    ledger = Ledger()
    ledger.failed(batch(Stream.FLOWS), slice(0, 3), "delivery_timeout")
    ledger.failed(batch(Stream.FLOWS), slice(3, 4), "shutdown")
    ledger.failed(batch(Stream.FLOWS), slice(3, 4), "shutdown")
    assert ledger.account(THREE_IN).losses == {
        "delivery_timeout": RecordAmount(1, 7, 701),
        "shutdown": RecordAmount(2, 34, 3_418),
    }
    assert ledger.account(THREE_OUT).losses == {"delivery_timeout": RecordAmount(1, 13, 1_301)}
    assert ledger.account(FIVE_IN).losses == {"delivery_timeout": RecordAmount(1, 11, 1_103)}


def test_records_in_doubt_are_neither_published_nor_lost():
    ledger = Ledger()
    ledger.in_doubt(batch(Stream.FLOWS), slice(0, 1), "delivery_timeout")
    ledger.in_doubt(batch(Stream.FLOWS), slice(2, 4), "delivery_timeout")
    ledger.in_doubt(batch(Stream.FLOWS), slice(3, 4), "shutdown")
    account = ledger.account(THREE_IN)
    assert account.in_doubt == {
        "delivery_timeout": RecordAmount(2, 24, 2_410),
        "shutdown": RecordAmount(1, 17, 1_709),
    }
    assert (account.losses, account.flows) == ({}, StageCount())
    assert ledger.account(THREE_OUT).in_doubt == {"delivery_timeout": RecordAmount(1, 13, 1_301)}


def test_records_lost_before_they_got_a_seq_have_not_failed():
    ledger = Ledger()
    ledger.lost(RECORDS, "shutdown")
    assert ledger.account(THREE_IN).losses == {"shutdown": RecordAmount(2, 24, 2_410)}
    assert ledger.account(THREE_IN).flows == StageCount()


OUTCOMES: list[Callable[[Ledger, MessageBatch], None]] = [
    lambda ledger, batch: ledger.acknowledged(batch, slice(0, 1)),
    lambda ledger, batch: ledger.failed(batch, slice(0, 1), "shutdown"),
    lambda ledger, batch: ledger.in_doubt(batch, slice(0, 1), "shutdown"),
]


@pytest.mark.parametrize(("outcome", "failed"), list(zip(OUTCOMES, (0, 1, 1), strict=True)))
def test_counters_records_have_no_account(outcome, failed):
    ledger = Ledger()
    outcome(ledger, batch(Stream.COUNTERS, Tally.empty(1)))
    assert ledger.account(AttachmentKey(0)) == Account()
    assert ledger.counters_failed == failed


@pytest.mark.parametrize("outcome", OUTCOMES)
def test_copied_messages_belong_to_no_ledger(outcome):
    ledger = Ledger()
    outcome(ledger, batch(None, None))
    assert (ledger.account(THREE_IN), ledger.counters_failed) == (Account(), 0)


def test_counts_have_no_limit():
    large = tally((3, 0, 2**63, 2**63), (3, 0, 2**62, 2**62))
    ledger = Ledger()
    ledger.lost(large, "shutdown")
    ledger.lost(large, "shutdown")
    assert ledger.account(THREE_IN).losses["shutdown"] == RecordAmount(4, 3 * 2**63, 3 * 2**63)


def snapshot(**changes: object) -> Snapshot:
    ledger = Ledger()
    ledger.drained(Stream.FLOWS, RECORDS)
    ledger.encoded(Stream.FLOWS, RECORDS)
    ledger.failed(batch(Stream.FLOWS), slice(0, 1), "message_too_large")
    ledger.in_doubt(batch(Stream.FLOWS), slice(3, 4), "shutdown")
    counts = KernelCounts(
        seen=Amount(1_009, 100_003),
        no_flow={reason: Amount(n, n * 61) for n, reason in enumerate(terms.NO_FLOW, 2)},
        losses={"overflow_lost": RecordAmount(5, 5, 302)},
    )
    taken = Snapshot(
        key=THREE_IN,
        facts=FACTS,
        time=Moment(EPOCH + 7, 19),
        kernel=counts,
        account=ledger.account(THREE_IN),
        table=TableState(17, 131_072, 5),
    )
    return dataclasses.replace(taken, **changes)


def record(taken: Snapshot, *, final: bool = False) -> CountersRecord:
    identity = Identity(EPOCH, bytes(range(16)), "host-a", SAMPLER)
    return counters_record(23, identity, Rhythm(5_000, 1_000), taken, final=final)


def test_the_counters_record_has_every_count():
    found = record(snapshot(), final=True)
    assert (found.agent_epoch, found.host_id, found.seq) == (EPOCH, bytes(range(16)), 23)
    assert (found.host, found.agent_version, found.sampler_address) == (
        "host-a",
        __version__,
        SAMPLER,
    )
    assert (found.if_index, found.if_name, found.flow_direction) == (3, "eth0", 0)
    assert (found.program_id, found.program_name, found.attach_mode) == (41, "xdp_flow", "native")
    assert (found.time_unix_ns, found.time_boot_ns) == (EPOCH + 7, 19)
    assert (found.interval_ns, found.counters_period_ns) == (5_000, 1_000)
    assert (found.seen_packets, found.seen_l2_bytes) == (1_009, 100_003)
    assert found.no_flow == {
        reason: Packets(n, n * 61) for n, reason in enumerate(terms.NO_FLOW, 2)
    }
    nothing = Loss(0, 0, 0)
    assert found.losses == dict.fromkeys(terms.LOSSES, nothing) | {
        "overflow_lost": Loss(5, 5, 302),
        "message_too_large": Loss(1, 7, 701),
    }
    assert found.in_doubt == dict.fromkeys(terms.IN_DOUBT, nothing) | {
        "shutdown": Loss(1, 17, 1_709)
    }
    assert found.stages == {
        "flows": StageCounts(2, 2, 0, 0, 0, 1, 0),
        "new_flows": StageCounts(0, 0, 0, 0, 0, 0, 0),
    }
    assert (found.table_entries, found.table_capacity, found.table_swaps) == (17, 131_072, 5)
    assert found.final
    assert (found.netns, found.previous_epoch) == ("", 0)
    assert decode(msgspec.msgpack.encode(found)) == found


def test_the_counters_record_tells_where_the_attachment_is_and_whose_link_it_took_over():
    taken = snapshot(
        facts=replace(FACTS, netns="/run/netns/\udcffblue", previous_epoch=EPOCH - 1_024)
    )
    found = record(taken)
    assert (found.netns, found.previous_epoch) == ("/run/netns/?blue", EPOCH - 1_024)


def test_every_term_is_there_when_nothing_happened():
    found = record(snapshot(account=Account()))
    assert list(found.no_flow) == list(terms.NO_FLOW)
    assert list(found.losses) == list(terms.LOSSES)
    assert list(found.in_doubt) == list(terms.IN_DOUBT)
    assert list(found.stages) == PUBLISHING
    assert not found.final


def test_a_name_that_is_no_utf8_is_published_as_far_as_it_goes():
    assert record(snapshot(facts=replace(FACTS, interface="eth\udcff"))).if_name == "eth?"


def test_every_term_has_a_meaning():
    for term, meaning in (terms.NO_FLOW | terms.LOSSES | terms.IN_DOUBT).items():
        assert term.isidentifier()
        assert meaning
    assert not terms.NO_FLOW.keys() & terms.LOSSES.keys()
    # What may be in doubt for some records is certain for others, except after a kill.
    assert terms.IN_DOUBT.keys() - terms.LOSSES.keys() == {terms.AGENT_KILLED}
