"""Audits of runs whose records waited in the spool: drained, dropped, killed."""

from __future__ import annotations

import asyncio
import subprocess
import sys

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st
from support.audited import problems_of, result_of, spooled, sums
from support.published import (
    ANNOUNCEMENTS,
    EPOCH,
    FLOWS,
    NO_SPOOL,
    Published,
    publish,
    stages,
)

from flowstream.accounting.amended import amended
from flowstream.accounting.amounts import RecordAmount
from flowstream.accounting.attachment_key import AttachmentKey
from flowstream.accounting.outcomes import Gone
from flowstream.accounting.snapshot import Moment, SpoolState
from flowstream.audit import Amount
from flowstream.records import CountersRecord, Loss, SpoolCounts, StageCounts
from flowstream.streams import Stream

STEP = 1_024  # of agent_epoch
WAITING = 11
BEGIN = FLOWS - WAITING


@pytest.fixture(params=["json", "msgpack", "protobuf", "avro"])
def record_format(request) -> str:
    return request.param


def amount_text(packets: int, octets: int) -> str:
    return f"{packets:,} packets and {octets:,} octets"


def gone(published: Published, first: int, end: int, *, in_doubt: bool = False) -> Gone:
    """Flow records that the spool dropped for room."""
    flows = published.flows[first:end]
    return Gone(
        EPOCH,
        Stream.FLOWS,
        {AttachmentKey(3): RecordAmount(len(flows), *sums(flows))},
        "spool_full",
        in_doubt,
    )


def amend(published: Published, *parts: Gone) -> CountersRecord:
    """Publish the amended counters of the run, as a later one does."""
    last = published.counters[-1]
    record = amended(
        last, parts, seq=last.seq + 1, time=Moment(EPOCH + 10**12, 7), spool=SpoolState()
    )
    published.counters.append(record)
    return record


@pytest.mark.parametrize("failed", [0, 2])
def test_a_run_whose_records_wait_holds(record_format, failed):
    published = spooled(record_format, failed=failed)
    result = result_of(published)
    assert result.holds
    (run,) = result.runs
    waits = sums(published.flows[BEGIN:])
    (interface,) = run.interfaces
    assert interface.spool == SpoolCounts(WAITING, *waits, 8_209, EPOCH)
    assert interface.difference == interface.waiting == Amount(*waits)
    flows, new_flows, _ = run.topics
    assert (flows.waiting, flows.unpublished, flows.missing) == (11, 11, 11 + failed)
    assert (new_flows.waiting, new_flows.missing) == (0, 0)
    assert run.notes == [
        f"veth3 ingress: {amount_text(*waits)} wait in the spool of host-a",
        "flowstream.flows: 11 records wait in the spool of host-a",
    ]


@pytest.mark.anyio
async def test_the_command_says_where_records_wait_with_status_0(tmp_path, record_format):
    url = f"file:{tmp_path}/recording"
    published = spooled(record_format)
    await publish(url, record_format, published)
    done = await asyncio.to_thread(
        subprocess.run,
        [sys.executable, "-m", "flowstream", "audit", url],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert (done.returncode, done.stderr) == (0, "")
    waits = amount_text(*sums(published.flows[BEGIN:]))
    assert f"note: veth3 ingress: {waits} wait in the spool of host-a\n" in done.stdout
    assert done.stdout.endswith("\nEvery packet is accounted for.\n")


@pytest.mark.parametrize("drained", [1, 10, 11])
def test_records_that_a_later_run_drained_are_found(record_format, drained):
    result = result_of(spooled(record_format, drained=drained, failed=2))
    assert result.holds
    (run,) = result.runs
    assert run.topics[0].unpublished == WAITING - drained
    waits = sums(Published().flows[BEGIN + drained :])
    assert run.interfaces[0].difference == Amount(*waits)
    some, were = ("records", "were") if drained > 1 else ("record", "was")
    published = (
        f"flowstream.flows: {drained} {some} from the spool of host-a {were} published since"
    )
    if drained == WAITING:
        assert run.notes == [
            "flowstream.flows: 2 records are missing, counted as lost",
            published,
        ]
    else:
        rest = WAITING - drained
        waits_still = f"{rest} record{'s wait' if rest > 1 else ' waits'}"
        assert run.notes == [
            f"veth3 ingress: {amount_text(*waits)} wait in the spool of host-a",
            f"flowstream.flows: {waits_still} in the spool of host-a",
            published,
        ]


def test_a_record_may_be_in_doubt_then_spooled_then_published_twice(record_format):
    published = spooled(record_format, drained=WAITING)
    published.values += published.values[BEGIN : BEGIN + 3]
    result = result_of(published)
    assert result.holds
    assert result.runs[0].notes == [
        "flowstream.flows: 3 duplicates, recognised by seq and not summed",
        "flowstream.flows: 11 records from the spool of host-a were published since",
    ]


def test_what_a_later_run_dropped_for_room_is_a_loss_of_the_earlier_one(record_format):
    published = spooled(record_format, drained=WAITING)
    dropped = gone(published, BEGIN, BEGIN + 4)
    del published.values[BEGIN : BEGIN + 4]
    # Before the amended counters come, these records count as waiting.
    assert result_of(published).runs[0].topics[0].unpublished == 4
    amend(published, dropped)
    result = result_of(published)
    assert result.holds
    (run,) = result.runs
    assert run.interfaces[0].losses["spool_full"] == Loss(4, *sums(published.flows[BEGIN:][:4]))
    assert run.interfaces[0].difference == Amount(0, 0)
    assert (run.topics[0].failed, run.topics[0].waiting, run.topics[0].missing) == (4, 7, 4)
    assert run.notes == [
        "flowstream.flows: 4 records are missing, counted as lost",
        "flowstream.flows: 7 records from the spool of host-a were published since",
    ]


def test_a_dropped_record_that_was_in_doubt_is_settled_by_its_seq(record_format):
    """Of records 20 to 25 that were sent before they were spooled, 20 and 21 had arrived."""
    published = spooled(record_format, drained=WAITING)
    dropped = gone(published, BEGIN, BEGIN + 6, in_doubt=True)
    del published.values[BEGIN + 2 : BEGIN + 6]
    amend(published, dropped)
    result = result_of(published)
    assert result.holds
    (run,) = result.runs
    doubtful = amount_text(*sums(published.flows[BEGIN : BEGIN + 6]))
    waits = amount_text(*sums(published.flows[BEGIN + 6 :]))
    assert run.notes == [
        f"veth3 ingress: {doubtful} in doubt: sent and never answered",
        f"veth3 ingress: up to {waits} wait in the spool of host-a",
        "flowstream.flows: 6 records in doubt and 5 in the spool of host-a, 7 of them published",
    ]


def test_losses_amended_in_two_steps_count_once(record_format):
    published = spooled(record_format)
    amend(published, gone(published, BEGIN, BEGIN + 4))
    amend(published, gone(published, BEGIN + 4, FLOWS))
    result = result_of(published)
    assert result.holds
    assert result.runs[0].interfaces[0].spool == NO_SPOOL
    assert result.runs[0].notes == ["flowstream.flows: 11 records are missing, counted as lost"]


def test_amended_counters_that_take_a_loss_back_are_found(record_format):
    published = spooled(record_format)
    amend(published, gone(published, BEGIN, BEGIN + 4))
    before = published.counters[1]
    published.counters.append(msgspec.structs.replace(before, seq=3))
    packets, octets = sums(published.flows[BEGIN : BEGIN + 4])
    assert problems_of(published) == [
        (
            f"veth3 ingress: counts went backwards: losses.records 15, then 11; losses.packets "
            f"{packets + 19:,}, then 19; losses.l2_bytes {octets + 1_997:,}, then 1,997; "
            "stages.flows.failed 4, then 0"
        )
    ]


def test_a_record_that_was_dropped_and_not_counted_is_missing(record_format):
    published = spooled(record_format)
    amend(published, gone(published, BEGIN, FLOWS))
    packets, octets = sums(published.flows[[3]])
    del published.values[3]
    assert problems_of(published) == [
        (
            f"veth3 ingress: difference of +{packets:,} packets and +{octets:,} octets: "
            "seen, but neither published nor counted as lost"
        ),
        (
            "flowstream.flows: 1 record is missing without a cause "
            "(12 not there, 11 counted as lost; seq 3, 20-30)"
        ),
    ]


def test_more_records_are_missing_than_wait(record_format):
    published = spooled(record_format)
    packets, octets = sums(published.flows[BEGIN:])
    more = sums(published.flows[[3]])
    del published.values[3]
    assert problems_of(published) == [
        (
            f"veth3 ingress: difference of +{packets + more[0]:,} packets and "
            f"+{octets + more[1]:,} octets: seen, but neither published nor counted as lost, and "
            f"only {amount_text(packets, octets)} are in the spool"
        ),
        (
            "flowstream.flows: 1 record is missing without a cause "
            "(12 not there, 11 in the spool; seq 3, 20-30)"
        ),
    ]


def test_where_all_that_waited_was_published_nothing_may_differ(record_format):
    published = spooled(record_format, drained=WAITING)
    published.change_counters(1, seen_packets=published.counters[1].seen_packets + 2)
    assert problems_of(published) == [
        (
            "veth3 ingress: difference of +2 packets and +0 octets: seen, but neither published "
            "nor counted as lost, and every record in the spool was published"
        )
    ]


@pytest.mark.parametrize(("packets", "octets"), [(1, 0), (0, 1)])
def test_a_spool_that_holds_more_than_is_missing_is_found(record_format, packets, octets):
    published = spooled(record_format)
    spool = published.counters[1].spool
    published.change_counters(
        1,
        spool=msgspec.structs.replace(
            spool, packets=spool.packets + packets, l2_bytes=spool.l2_bytes + octets
        ),
    )
    assert problems_of(published) == [
        (
            f"veth3 ingress: difference of +{spool.packets:,} packets and +{spool.l2_bytes:,} "
            "octets, too small: none of the records in the spool is published, and they stand for "
            f"{amount_text(spool.packets + packets, spool.l2_bytes + octets)}"
        )
    ]


@pytest.mark.parametrize("wrong", [-1, 1, 2**62])
def test_final_counters_whose_records_have_no_place_contradict_themselves(record_format, wrong):
    published = spooled(record_format)
    spool = published.counters[1].spool
    records = spool.records + wrong
    written = StageCounts(42, FLOWS, FLOWS, BEGIN, 2**62 + 11, 0, 0)
    published.change_counters(
        1, spool=msgspec.structs.replace(spool, records=records), stages=stages(written)
    )
    (first, *_) = problems_of(published)
    assert first == (
        "veth3 ingress: the final counters contradict themselves: 44 records got a seq, "
        f"{44 + wrong:,} have an outcome (33 acknowledged, 0 failed, 0 in doubt, "
        f"{records:,} in the spool)"
    )


@pytest.mark.parametrize("stage", ["acknowledged", "failed", "encoded"])
def test_a_record_without_an_outcome_or_with_two_contradicts_the_counters(record_format, stage):
    published = Published(record_format)
    flows = published.counters[1].stages["flows"]
    changed = msgspec.structs.replace(flows, **{stage: getattr(flows, stage) + 1})
    published.change_counters(1, stages=stages(changed))
    (first, *_) = problems_of(published)
    assert first.startswith("veth3 ingress: the final counters contradict themselves: ")
    published.change_counters(1, final=False)
    assert not any("contradict" in problem for problem in problems_of(published))


def test_no_more_can_wait_than_was_written(record_format):
    published = spooled(record_format)
    flows = published.counters[1].stages["flows"]
    published.change_counters(
        1, stages=stages(msgspec.structs.replace(flows, spooled=WAITING - 1))
    )
    assert problems_of(published) == [
        (
            "veth3 ingress: the counters contradict themselves: 11 records in the spool, 10 ever "
            "written to it"
        )
    ]


def test_announcements_that_wait_settle_no_flow_record(record_format):
    published = Published(record_format)
    flows = StageCounts(42, FLOWS, FLOWS, FLOWS, 0, 0, 0)
    announced = StageCounts(*[ANNOUNCEMENTS] * 3, ANNOUNCEMENTS - 3, 3, 0, 0)
    published.change_counters(
        1,
        spool=SpoolCounts(3, 0, 0, 999, EPOCH),
        stages={"flows": flows, "new_flows": announced},
    )
    del published.values[FLOWS + 4 : FLOWS + 6]
    result = result_of(published)
    assert result.holds
    assert result.runs[0].notes == [
        "flowstream.new_flows: 2 records wait in the spool of host-a",
        "flowstream.new_flows: 1 record from the spool of host-a was published since",
    ]
    del published.values[4]
    assert [text.partition(" (")[0] for text in problems_of(published)] == [
        "veth3 ingress: difference of +{:,} packets and +{:,} octets: seen, but neither "
        "published nor counted as lost".format(*sums(published.flows[[4]])),
        "flowstream.flows: 1 record is missing without a cause",
    ]


def test_a_killed_run_says_what_was_in_its_spool(record_format):
    published = spooled(record_format, drained=4)
    published.change_counters(1, final=False)
    waits = sums(published.flows[BEGIN + 4 :])
    whole = sums(published.flows[BEGIN:])[0]
    assert problems_of(published) == [
        (
            "veth3 ingress: run did not end cleanly: no final counters, so the equation cannot be "
            f"exact (difference +{waits[0]:,} packets and +{waits[1]:,} octets; 11 records were "
            f"in its spool, of {whole:,} packets)"
        )
    ]
    # Of what it lost there a later run tells as of any other run.
    amend(published, gone(published, BEGIN + 4, FLOWS))
    (problem,) = problems_of(published)
    assert "(difference +0 packets and +0 octets; 4 records were in its spool, " in problem


def test_the_spool_of_one_host_says_nothing_of_another(record_format):
    """A run of another host, and one of this host that came before, had an empty spool."""
    waiting = spooled(record_format)
    earlier = Published(record_format, epoch=EPOCH - STEP)
    elsewhere = Published(record_format, epoch=EPOCH + STEP, host_id=bytes(16))
    runs = {run.agent_epoch: run for run in result_of(waiting, earlier, elsewhere).runs}
    assert len(runs[EPOCH].notes) == 2
    later = Published(record_format, epoch=EPOCH + STEP)
    result = result_of(waiting, later)
    assert result.holds
    assert result.runs[0].notes[2:] == [
        (
            "a later run of host-a says that its spool is empty: the records that wait are in "
            "another directory, or were deleted there"
        )
    ]
    later.change_counters(1, spool=SpoolCounts(0, 0, 0, 8_209, EPOCH))
    assert len(result_of(waiting, later).runs[0].notes) == 2
    drained = spooled(record_format, drained=WAITING)
    later.change_counters(1, spool=NO_SPOOL)
    assert len(result_of(drained, later).runs[0].notes) == 1


def test_sums_of_the_spool_have_no_limit(record_format):
    published = Published(record_format, ((3, 0), (5, 0)))
    most = 2**63 - 1
    for number in (2, 3):
        published.change_counters(
            number,
            stages={"flows": StageCounts(most, most, most, 0, most, 0, 0)},
            spool=SpoolCounts(most, most, most, most, most),
        )
    result = result_of(published)
    flows, *_ = result.runs[0].topics
    assert (flows.expected, flows.waiting) == (2 * most, 2 * most)
    assert flows.missing == flows.unpublished == 2 * most - 2 * FLOWS
    assert not any("contradict" in text for text in result.runs[0].problems)


FATES = ("published", "lost", "arrived", "vanished", "waits", "drained", "twice", "dropped")


@given(st.lists(st.sampled_from(FATES), min_size=1, unique=True), st.data())
def test_whatever_becomes_of_every_record_the_books_hold(possible, data):
    """A record is published, lost, in doubt (arrived or vanished), or spooled.

    A spooled one waits, was drained once or twice, or was dropped by a later run.
    """
    flow_fates, announced_fates = (
        data.draw(st.lists(st.sampled_from(possible), min_size=count, max_size=count))
        for count in (FLOWS, ANNOUNCEMENTS)
    )
    published = Published("msgpack")
    fates = [*flow_fates, *announced_fates]
    values, last = published.values, published.counters[1]
    amounts = [RecordAmount(1, *sums(published.flows[[place]])) for place in range(FLOWS)]
    amounts += [RecordAmount(1)] * ANNOUNCEMENTS

    def total(*these: str) -> RecordAmount:
        whole = RecordAmount()
        for fate, amount in zip(fates, amounts, strict=True):
            whole = whole.plus(amount) if fate in these else whole
        return whole

    def stage(its: list[str]) -> StageCounts:
        spools = sum(fate in FATES[4:] for fate in its)
        acknowledged, lost = its.count("published"), its.count("lost")
        return StageCounts(len(its), len(its), len(its), acknowledged, spools, lost, 0)

    published.change_counters(
        1,
        losses=last.losses | {"message_too_large": Loss(*total("lost"))},
        in_doubt={"shutdown": Loss(*total("arrived", "vanished"))},
        stages={"flows": stage(flow_fates), "new_flows": stage(announced_fates)},
        spool=SpoolCounts(*total(*FATES[4:]), 8_209, EPOCH),
    )
    times = {"published": 1, "arrived": 1, "drained": 1, "twice": 2}
    published.values = [
        value for fate, value in zip(fates, values, strict=True) for _ in range(times.get(fate, 0))
    ]
    streams = [Stream.FLOWS] * FLOWS + [Stream.NEW_FLOWS] * ANNOUNCEMENTS
    dropped = [
        Gone(EPOCH, stream, {AttachmentKey(3): amount}, "spool_full")
        for stream, fate, amount in zip(streams, fates, amounts, strict=True)
        if fate == "dropped"
    ]
    assert problems_of(published) == []
    amend(published, *dropped)
    assert problems_of(published) == []
    (run,) = result_of(published).runs
    assert sum(topic.waiting + topic.in_doubt for topic in run.topics) == sum(
        fate in ("arrived", "vanished", "waits", "drained", "twice") for fate in fates
    )
    off = total("vanished", "waits")
    assert run.interfaces[0].difference == Amount(off.packets, off.l2_bytes)
    # One record more that is nowhere, where nothing is in doubt or waits.
    certain = [place for place, fate in enumerate(flow_fates) if fate == "published"]
    if certain and not run.topics[0].unanswered:
        taken = data.draw(st.sampled_from(certain))
        del published.values[sum(times.get(fate, 0) for fate in fates[:taken])]
        assert len(problems_of(published)) == 2
