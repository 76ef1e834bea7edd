"""Records that contradict each other: the audit never says yes, in whatever order they come."""

from __future__ import annotations

import random
from typing import TYPE_CHECKING, Any

import msgspec
import numpy as np
import pytest
from support.audited import problems_of, sums
from support.published import (
    ANNOUNCEMENTS,
    FLOWS,
    IN_DOUBT,
    LOSSES,
    NO_FLOW,
    Published,
    publish,
    stages,
)
from support.records import random_flows

from flowstream.audit import Audit, audit
from flowstream.audit.repeats import Repeats
from flowstream.audit.sums import COUNTS, RunAccounts
from flowstream.encode import stamp
from flowstream.encode.hashes import hashes_of
from flowstream.layouts.flow import FLOW_RECORD
from flowstream.records import Amount, Loss, SpoolCounts, StageCounts

if TYPE_CHECKING:
    from flowstream.audit import Result
    from flowstream.messages import Message

CONFLICT = (
    "seq occur with different contents: another agent of the same identity, or records that "
    "none made"
)


@pytest.fixture(params=["json", "msgpack", "protobuf", "avro"])
def record_format(request) -> str:
    return request.param


def results(published: Published) -> list[Result]:
    """Results of several orders of the messages."""
    messages = published.messages()
    orders = [messages, messages[::-1]]
    orders += [random.Random(seed).sample(messages, len(messages)) for seed in range(5)]
    return [result_of(order) for order in orders]


def result_of(messages: list[Message]) -> Result:
    accounts = Audit()
    for start in range(0, len(messages), 7):
        accounts.add(messages[start : start + 7])
    assert accounts.repeats
    accounts.compare(messages)
    return accounts.result()


def changed(published: Published, number: int, **changes: Any) -> tuple[str, bytes]:
    flow = published.flows[number : number + 1].copy()
    for name, value in changes.items():
        flow[name] += value
    return "flowstream.flows", published.encode(flow)[0]


@pytest.mark.parametrize("field", ["packets", "l2_bytes", "time_flow_end_ns"])
def test_one_seq_of_different_flow_records_is_found_in_any_order(record_format, field):
    published = Published(record_format)
    published.values.append(changed(published, 5, **{field: 1}))
    for result in results(published):
        assert not result.holds
        assert f"flowstream.flows: 1 {CONFLICT}" in result.runs[0].problems
        assert [topic.conflicts for topic in result.runs[0].topics] == [1, 0, 0]


def test_two_agents_of_one_identity_are_found(record_format):
    published = Published(record_format)
    others = random_flows(FLOWS, seed=99).astype(FLOW_RECORD)
    others["if_index"], others["flow_direction"] = 3, 0
    stamp(others, published.identity, 0)
    published.values += [("flowstream.flows", value) for value in published.encode(others)]
    for result in results(published):
        assert f"flowstream.flows: {FLOWS} {CONFLICT}" in result.runs[0].problems


def test_one_seq_of_different_counters_is_found_in_any_order(record_format):
    published = Published(record_format)
    published.counters.append(published.counters[1])
    published.change_counters(2, table_swaps=published.counters[1].table_swaps + 1)
    for result in results(published):
        assert result.runs[0].problems == [f"flowstream.counters: 1 {CONFLICT}"]


def test_repeated_records_of_several_formats_are_no_conflict():
    published, other = Published("json"), Published("msgpack")
    published.values += other.values
    for result in results(published):
        assert result.holds
        assert [topic.duplicates for topic in result.runs[0].topics] == [FLOWS, ANNOUNCEMENTS, 0]


@pytest.mark.anyio
@pytest.mark.parametrize(("added", "readings"), [(0, 1), (1, 2)])
async def test_topics_are_read_again_only_where_records_are_repeated(tmp_path, added, readings):
    published = Published()
    published.values += [changed(published, 5, time_flow_end_ns=1)] * added
    await publish(f"file:{tmp_path}", "json", published)
    progress: list[tuple[int, int]] = []
    result = await audit(str(tmp_path), progressed=lambda *call: progress.append(call))
    # Each reading begins anew, with a batch of one message.
    assert [done for done, _ in progress].count(1) == readings
    assert result.runs[0].problems == [f"flowstream.flows: 1 {CONFLICT}"] * added


def test_counts_that_go_backwards_are_found(record_format):
    published = Published(record_format)
    last = published.counters[1]
    published.change_counters(0, seen_packets=last.seen_packets + 1)
    assert problems_of(published) == [
        (
            f"veth3 ingress: counts went backwards: seen_packets {last.seen_packets + 1:,}, "
            f"then {last.seen_packets:,}"
        )
    ]


BACKWARDS = {
    "seen_l2_bytes": {"seen_l2_bytes": 2**63 - 1},
    "no_flow.packets": {"no_flow": NO_FLOW | {"a new reason": Amount(1, 0)}},
    "no_flow.l2_bytes": {"no_flow": NO_FLOW | {"a new reason": Amount(0, 1)}},
    "losses.records": {"losses": LOSSES | {"a new cause": Loss(1, 0, 0)}},
    "losses.packets": {"losses": LOSSES | {"a new cause": Loss(0, 1, 0)}},
    "losses.l2_bytes": {"losses": LOSSES | {"a new cause": Loss(0, 0, 1)}},
    "in_doubt.records": {"in_doubt": IN_DOUBT | {"a new cause": Loss(1, 0, 0)}},
    **{
        f"stages.flows.{name}": {
            "stages": stages(
                msgspec.structs.replace(
                    StageCounts(42, FLOWS, FLOWS, FLOWS, 0, 0, 0), **{name: 2**63 - 1}
                )
            )
        }
        for name in StageCounts.__struct_fields__
    },
    "stages.new_flows.encoded": {
        "stages": {"new_flows": StageCounts(0, ANNOUNCEMENTS + 1, 0, 0, 0, 0, 0)}
    },
}


@pytest.mark.parametrize("name", BACKWARDS)
def test_every_count_that_goes_backwards_is_named(name):
    """Also where a later run amended the counters, and wherever the records lie."""
    published = Published()
    published.change_counters(0, **BACKWARDS[name])
    for counters in (published.counters, published.counters[::-1]):
        published.counters = counters
        (problem,) = problems_of(published)
        assert problem.startswith(f"veth3 ingress: counts went backwards: {name} ")
        assert ";" not in problem


def test_counts_of_made_up_causes_are_exact_and_only_their_sums_are_kept():
    most = 2**63 - 1
    published = Published()
    made_up = [{f"cause {n} of {number}": Loss(most, 0, 0) for n in range(100)} for number in "ab"]
    published.change_counters(0, losses=made_up[0])
    published.counters.insert(1, msgspec.structs.replace(published.counters[0], losses=made_up[1]))
    published.change_counters(1, seq=1)
    published.change_counters(2, seq=2)
    assert problems_of(published) == [
        f"veth3 ingress: counts went backwards: losses.records {100 * most:,}, then 11"
    ]
    run = RunAccounts()
    for record in published.counters:
        run.note_counters(record)
    (highest,) = run.highest.values()
    assert len(highest) == len(COUNTS)


def test_what_waits_in_the_spool_may_fall():
    published = Published()
    published.change_counters(
        0,
        spool=SpoolCounts(5, 7, 11, 13, 17),
        stages=stages(StageCounts(5, 5, 5, 0, 5, 0, 0), 0),
    )
    done = StageCounts(42, FLOWS, FLOWS, FLOWS, 5, 0, 0)
    published.change_counters(1, stages=stages(done))
    assert problems_of(published) == []


def test_records_of_a_stage_that_counters_do_not_have_were_not_made(record_format):
    published = Published(record_format)
    published.change_counters(1, stages={"flows": published.counters[1].stages["flows"]})
    assert problems_of(published) == [
        "flowstream.new_flows: seq 12 lies beyond the 0 records that the run made"
    ]


def test_one_record_in_doubt_explains_no_difference_of_two_interfaces(record_format):
    published = Published(record_format, ((3, 0), (5, 0)))
    for number, place in ((2, FLOWS - 1), (3, 2 * FLOWS - 1)):
        published.change_counters(
            number,
            in_doubt=IN_DOUBT | {"shutdown": Loss(1, *sums(published.flows[[place]]))},
            stages=stages(
                StageCounts(42, FLOWS, FLOWS, FLOWS - 1, 0, 0, 0), ANNOUNCEMENTS * (number == 2)
            ),
        )
    assert problems_of(published) == []
    published.change_counters(3, seen_packets=published.counters[3].seen_packets + 1)
    del published.values[FLOWS - 1]
    assert problems_of(published) == [
        ("2 interfaces have a difference, and only 1 of the records in doubt are not published")
    ]


def test_repeats_find_every_number_that_differs_whenever_it_was_noted():
    rng = np.random.default_rng(3)
    seqs = rng.integers(0, 500, 5_000).astype(np.uint64)
    contents = hashes_of([seqs, (rng.random(5_000) < 0.01).astype(np.uint64)])
    first = np.unique(seqs, return_index=True)[1]
    again = np.ones(len(seqs), np.bool_)
    again[first] = False
    expected = sum(len(set(contents[seqs == seq].tolist())) > 1 for seq in set(seqs.tolist()))
    repeats = Repeats()
    for part in np.array_split(np.flatnonzero(again), 7):
        repeats.note(seqs[part], contents[part])
    for part in np.array_split(np.arange(len(seqs)), 11):
        repeats.compare(seqs[part], contents[part])
    assert repeats.conflicts == expected > 0
