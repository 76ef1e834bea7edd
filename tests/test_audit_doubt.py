from __future__ import annotations

import pytest
from support.audited import problems_of, result_of, sums, with_doubt
from support.published import (
    ANNOUNCEMENTS,
    FLOWS,
    IN_DOUBT,
    INGRESS,
    LOST,
    MALFORMED,
    NON_IP,
    Published,
    stages,
)

from flowstream.audit import Amount
from flowstream.records import Loss, StageCounts

FORMATS = ["json", "msgpack", "protobuf", "avro"]


@pytest.fixture(params=FORMATS)
def record_format(request) -> str:
    return request.param


@pytest.mark.parametrize("failed", [0, 2])
@pytest.mark.parametrize("missing", [0, 1, 5])
def test_records_in_doubt_may_be_published_or_not(record_format, missing, failed):
    published = with_doubt(record_format, missing, failed=failed)
    result = result_of(published)
    assert result.holds
    (run,) = result.runs
    packets, octets = sums(published.flows[-5:])
    assert run.interfaces[0].in_doubt["shutdown"] == Loss(5, packets, octets)
    assert run.interfaces[0].difference == Amount(*sums(published.flows[FLOWS - missing :]))
    assert run.topics[0].in_doubt == 5
    assert run.notes[0] == (
        f"veth3 ingress: {packets:,} packets and {octets:,} octets in doubt: "
        "sent and never answered"
    )
    settled = f"flowstream.flows: 5 records in doubt, {5 - missing} of them published"
    assert settled in run.notes


def test_no_more_records_may_be_missing_than_are_in_doubt(record_format):
    published = with_doubt(record_format, 5)
    # A record of nothing: the equation does not show that it is missing.
    published.flows["packets"][0] = published.flows["l2_bytes"][0] = 0
    packets, octets = sums(published.flows)
    published.change_counters(
        1,
        seen_packets=packets + NON_IP[0] + MALFORMED[0] + LOST[0],
        seen_l2_bytes=octets + NON_IP[1] + MALFORMED[1] + LOST[1],
    )
    del published.values[0]
    assert problems_of(published) == [
        (
            "flowstream.flows: 1 record is missing without a cause "
            "(6 not there, 5 in doubt; seq 0, 26-30)"
        )
    ]


def test_more_packets_are_missing_than_are_in_doubt(record_format):
    published = with_doubt(record_format, 5)
    packets, octets = sums(published.flows[-5:])
    for seen, problem in (
        ({"packets": 1, "l2_bytes": 0}, f"+{packets + 1:,} packets and +{octets:,} octets"),
        ({"packets": 0, "l2_bytes": 1}, f"+{packets:,} packets and +{octets + 1:,} octets"),
    ):
        record = published.counters[1]
        published.change_counters(
            1,
            seen_packets=record.seen_packets + seen["packets"],
            seen_l2_bytes=record.seen_l2_bytes + seen["l2_bytes"],
        )
        assert problems_of(published) == [
            (
                f"veth3 ingress: difference of {problem}: seen, but neither published nor counted "
                f"as lost, and only {packets:,} packets and {octets:,} octets are in doubt"
            )
        ]
        published.counters[1] = record


@pytest.mark.parametrize("unit", ["seen_packets", "seen_l2_bytes"])
def test_a_difference_below_zero_is_never_in_doubt(record_format, unit):
    published = with_doubt(record_format, 0)
    published.change_counters(1, **{unit: getattr(published.counters[1], unit) - 1})
    (problem,) = problems_of(published)
    assert problem.endswith("published or counted as lost, but not seen")


def test_where_all_in_doubt_was_published_nothing_may_differ(record_format):
    published = with_doubt(record_format, 0)
    published.change_counters(1, seen_packets=published.counters[1].seen_packets + 1)
    assert problems_of(published) == [
        (
            "veth3 ingress: difference of +1 packet and +0 octets: seen, but neither published "
            "nor counted as lost, and every record in doubt was published"
        )
    ]


def test_announcements_in_doubt_settle_no_flow_record(record_format):
    published = Published(record_format)
    flows = StageCounts(42, FLOWS, FLOWS, FLOWS, 0, 0, 0)
    announced = StageCounts(*[ANNOUNCEMENTS] * 3, ANNOUNCEMENTS - 3, 0, 0, 0)
    published.change_counters(
        1,
        in_doubt=IN_DOUBT | {"delivery_timeout": Loss(3, 0, 0)},
        stages={"flows": flows, "new_flows": announced},
    )
    del published.values[FLOWS + 4 : FLOWS + 6]
    result = result_of(published)
    assert result.holds
    assert result.runs[0].notes == [
        "flowstream.new_flows: 3 records in doubt, 1 of them published"
    ]
    del published.values[4]
    assert [text.partition(" (")[0] for text in problems_of(published)] == [
        "veth3 ingress: difference of +{:,} packets and +{:,} octets: seen, but neither "
        "published nor counted as lost".format(*sums(published.flows[[4]])),
        "flowstream.flows: 1 record is missing without a cause",
    ]


WITHOUT_SEQ = (101, 6_007)


def killed(record_format: str, missing: int, *, doubtful: int = 5) -> Published:
    """A run whose agent was killed, with records in its memory, and packets in none yet.

    The next run has closed it. Of the records that had a seq some are published.
    """
    published = Published(record_format)
    memory = published.flows[FLOWS - doubtful :]
    packets, octets = (a + b for a, b in zip(sums(memory), WITHOUT_SEQ, strict=True))
    last = published.counters[1]
    published.change_counters(
        1,
        seen_packets=last.seen_packets + WITHOUT_SEQ[0],
        seen_l2_bytes=last.seen_l2_bytes + WITHOUT_SEQ[1],
        in_doubt=IN_DOUBT | {"agent_killed": Loss(doubtful, packets, octets)},
        stages=stages(StageCounts(42, FLOWS, FLOWS, FLOWS - doubtful, 0, 0, 0)),
    )
    del published.values[FLOWS - missing : FLOWS]
    return published


@pytest.mark.parametrize(("missing", "doubtful"), [(0, 0), (0, 5), (1, 5), (5, 5)])
def test_what_a_killed_agent_had_in_its_memory_is_in_doubt(record_format, missing, doubtful):
    published = killed(record_format, missing, doubtful=doubtful)
    result = result_of(published)
    assert result.holds
    (run,) = result.runs
    packets, octets = sums(published.flows[FLOWS - missing :])
    assert run.interfaces[0].difference == Amount(
        packets + WITHOUT_SEQ[0], octets + WITHOUT_SEQ[1]
    )
    packets, octets = sums(published.flows[FLOWS - doubtful :])
    assert run.notes[0] == (
        f"veth3 ingress: {packets + WITHOUT_SEQ[0]:,} packets and "
        f"{octets + WITHOUT_SEQ[1]:,} octets in doubt: in the memory of an agent that was killed"
    )
    assert not any("never answered" in note for note in run.notes)


def test_records_in_doubt_beside_those_of_a_killed_agent_have_a_note_of_their_own(record_format):
    published = killed(record_format, 5)
    doubts = published.counters[1].in_doubt
    sent = Loss(2, *sums(published.flows[-2:]))
    rest = (
        getattr(doubts["agent_killed"], unit) - getattr(sent, unit)
        for unit in ("records", "packets", "l2_bytes")
    )
    published.change_counters(
        1, in_doubt=doubts | {"agent_killed": Loss(*rest), "delivery_timeout": sent}
    )
    result = result_of(published)
    assert result.holds
    first, second, *_ = result.runs[0].notes
    assert first == (
        f"veth3 ingress: {sent.packets:,} packets and {sent.l2_bytes:,} octets in doubt: sent and "
        "never answered"
    )
    assert second.endswith(" in doubt: in the memory of an agent that was killed")


@pytest.mark.parametrize("missing", [0, 5])
@pytest.mark.parametrize("unit", ["seen_packets", "seen_l2_bytes"])
def test_a_killed_agent_explains_no_more_than_it_had_in_its_memory(record_format, missing, unit):
    published = killed(record_format, missing)
    last = published.counters[1]
    doubtful = sums(published.flows[-5:])
    # All records of the memory are published, so up to all of its packets may have had none.
    slack = 0 if missing else doubtful[unit == "seen_l2_bytes"]
    published.change_counters(1, **{unit: getattr(last, unit) + slack})
    assert problems_of(published) == []
    published.change_counters(1, **{unit: getattr(last, unit) + slack + 1})
    (problem,) = problems_of(published)
    assert ": seen, but neither published nor counted as lost, and only " in problem


@pytest.mark.parametrize(("missing", "doubtful"), [(0, 0), (5, 5)])
def test_what_was_in_memory_and_is_not_published_is_the_whole_difference(
    record_format, missing, doubtful
):
    published = killed(record_format, missing, doubtful=doubtful)
    published.change_counters(1, seen_packets=published.counters[1].seen_packets - 1)
    (problem,) = problems_of(published)
    assert ", too small: none of the records in doubt is published, and they stand for " in problem


def test_packets_without_a_seq_may_be_of_any_interface(record_format):
    """One record is missing, and both interfaces have a difference."""
    published = Published(record_format, ((3, INGRESS), (5, INGRESS)))
    for number, attachment in ((2, slice(FLOWS)), (3, slice(FLOWS, None))):
        memory = published.flows[attachment][-1:]
        packets, octets = (a + b for a, b in zip(sums(memory), WITHOUT_SEQ, strict=True))
        last = published.counters[number]
        stage = StageCounts(42, FLOWS, FLOWS, FLOWS - 1, 0, 0, 0)
        published.change_counters(
            number,
            seen_packets=last.seen_packets + WITHOUT_SEQ[0],
            seen_l2_bytes=last.seen_l2_bytes + WITHOUT_SEQ[1],
            in_doubt=IN_DOUBT | {"agent_killed": Loss(1, packets, octets)},
            stages=last.stages | {"flows": stage},
        )
    del published.values[2 * FLOWS - 1]
    assert problems_of(published) == []
