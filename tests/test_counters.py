from __future__ import annotations

import numpy as np
import pytest

from flowstream.accounting.ledger import Ledger, LossCount
from flowstream.accounting.tally import Tally
from flowstream.messages import MessageBatch
from flowstream.streams import Stream


def tally(*rows: tuple[int, int, int]) -> Tally:
    """Of rows (in_if, packets, frame octets)."""
    in_if, packets, octets = zip(*rows, strict=True)
    return Tally(
        np.array(in_if, np.uint32), np.array(packets, np.uint64), np.array(octets, np.uint64)
    )


ROWS = tally((3, 7, 701), (5, 11, 1_103), (3, 13, 1_301))


def batch(stream: Stream, rows: Tally = ROWS) -> MessageBatch:
    n = len(rows)
    return MessageBatch(f"t.{stream}", 0, [0] * n, [b""] * n, [b""] * n, stream=stream, tally=rows)


def test_losses_add_up():
    assert LossCount(1, 2, 3).plus(LossCount(5, 7, 11)) == LossCount(6, 9, 14)


@pytest.mark.parametrize("stream", [Stream.FLOWS, Stream.NEW_FLOWS])
def test_every_stage_counts_per_interface(stream):
    ledger = Ledger()
    ledger.drained(stream, ROWS)
    ledger.encoded(stream, ROWS)
    ledger.queued(batch(stream))
    ledger.acknowledged(batch(stream), slice(0, 2))
    ledger.failed(batch(stream), slice(2, 3), "delivery_timeout")
    three, five = ledger.account(3).stage(stream), ledger.account(5).stage(stream)
    assert (three.drained, three.encoded, three.queued) == (2, 2, 2)
    assert (three.acknowledged, three.failed) == (1, 1)
    assert (five.drained, five.encoded, five.queued) == (1, 1, 1)
    assert (five.acknowledged, five.failed) == (1, 0)
    other = Stream.NEW_FLOWS if stream is Stream.FLOWS else Stream.FLOWS
    assert ledger.account(3).stage(other).drained == 0


def test_what_the_sink_gave_up_is_a_loss_under_its_cause():
    ledger = Ledger()
    ledger.failed(batch(Stream.FLOWS), slice(0, 2), "delivery_timeout")
    ledger.failed(batch(Stream.FLOWS), slice(2, 3), "shutdown")
    ledger.failed(batch(Stream.FLOWS), slice(2, 3), "shutdown")
    assert ledger.account(3).losses == {
        "delivery_timeout": LossCount(1, 7, 701),
        "shutdown": LossCount(2, 26, 2_602),
    }
    assert ledger.account(5).losses == {"delivery_timeout": LossCount(1, 11, 1_103)}


def test_what_never_got_a_seq_is_a_loss_and_no_failure():
    ledger = Ledger()
    ledger.lost(ROWS, "shutdown")
    assert ledger.account(3).losses == {"shutdown": LossCount(2, 20, 2_002)}
    assert ledger.account(3).flows.failed == 0


def test_counters_records_are_in_no_books():
    ledger = Ledger()
    counters = batch(Stream.COUNTERS, Tally.empty(1))
    ledger.acknowledged(counters, slice(0, 1))
    ledger.failed(counters, slice(0, 1), "shutdown")
    assert ledger.account(0).losses == {}
    assert ledger.account(0).flows.acknowledged == 0


def test_sums_do_not_overflow():
    large = tally((3, 2**63, 2**63), (3, 2**62, 2**62))
    ledger = Ledger()
    ledger.lost(large, "shutdown")
    ledger.lost(large, "shutdown")
    assert ledger.account(3).losses["shutdown"] == LossCount(4, 3 * 2**63, 3 * 2**63)
