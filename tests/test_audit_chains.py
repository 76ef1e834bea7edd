"""Chains of runs in the audit: whole, broken and made up."""

from __future__ import annotations

import asyncio
import itertools
import os
import re
from pathlib import Path

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st
from support.audited import problems_of, result_of, sums
from support.published import EGRESS, EPOCH, HOST, INGRESS, NO_FLOW, Published, publish
from test_audit_tables import printed, work

from flowstream.audit import Amount, Audit, Chain, Result, tables
from flowstream.cli.main import main
from flowstream.records import Amount as RecordAmount

STEP = 7 * 1_024 * 10**9  # of agent_epoch: 7168 s
FORMATS = ["json", "msgpack", "protobuf", "avro"]
OTHER_HOST = bytes(range(1, 17))
FIRST, SECOND, THIRD = (EPOCH + n * STEP for n in range(3))
# "run of ..." of these epochs, as `date -u -d @1700000000` has them.
FIRST_TEXT = f"run of 2023-11-14 22:13:20 UTC (agent_epoch {FIRST})"
SECOND_TEXT = f"run of 2023-11-15 00:12:48 UTC (agent_epoch {SECOND})"


@pytest.fixture(params=FORMATS)
def record_format(request) -> str:
    return request.param


def run(previous: int, epoch: int, record_format: str = "msgpack", **options) -> Published:
    """A run that says on all of its interfaces that it took over from ``previous``."""
    published = Published(record_format, epoch=epoch, **options)
    for number in range(len(published.counters)):
        published.change_counters(number, previous_epoch=previous)
    return published


def chain(length: int, record_format: str = "msgpack", **options) -> list[Published]:
    """Runs of which each took over from the one before, a moment later."""
    epochs = [EPOCH + n * STEP for n in range(length)]
    return [
        run(previous, epoch, record_format, **options)
        for previous, epoch in itertools.pairwise([0, *epochs])
    ]


def without_end(published: Published) -> Published:
    """The same run with no final counters: all that it has published was before."""
    packets, octets = sums(published.flows)
    published.change_counters(1, final=False)
    assert published.counters[1].seen_packets > packets
    assert published.counters[1].seen_l2_bytes > octets
    return published


def chain_of(*runs: Published) -> Chain:
    (found,) = result_of(*runs).chains
    return found


@pytest.mark.parametrize("batch", [1, 7, 10_000])
def test_a_chain_has_its_runs_in_order_and_their_sums(record_format, batch):
    runs = chain(3, record_format)
    # The second run saw 101 packets more, which were not IP.
    more = {"non_ip": RecordAmount(17 + 101, 1_003 + 6_007)}
    last = runs[1].counters[1]
    runs[1].change_counters(
        1,
        no_flow=NO_FLOW | more,
        seen_packets=last.seen_packets + 101,
        seen_l2_bytes=last.seen_l2_bytes + 6_007,
    )
    result = result_of(*reversed(runs), batch=batch)
    assert result.holds
    (found,) = result.chains
    assert (found.host_id, found.host, found.if_index) == (HOST.hex(), "host-a", 3)
    assert (found.label, found.flow_direction) == ("veth3 ingress", INGRESS)
    assert (found.problems, found.notes) == ([], [])
    assert [each.agent_epoch for each in found.runs] == [FIRST, SECOND, THIRD]
    assert [each.previous_epochs for each in found.runs] == [[], [FIRST], [SECOND]]
    assert [each.gapless for each in found.runs] == [None, True, True]
    assert all(each.counters and each.final and each.holds for each in found.runs)
    packets, octets = sums(runs[0].flows)
    assert found.terms.flows == Amount(3 * packets, 3 * octets)
    assert found.terms.no_flow == Amount(3 * 20 + 101, 3 * 1_064 + 6_007)
    assert found.terms.losses == Amount(3 * 19, 3 * 1_997)
    assert found.terms.seen == Amount(3 * (packets + 39) + 101, 3 * (octets + 3_061) + 6_007)
    assert found.terms.in_doubt == found.terms.spool == found.terms.difference == Amount(0, 0)
    assert found.runs[1].terms.no_flow == Amount(121, 7_071)


def test_runs_that_took_over_nothing_are_no_chain(record_format):
    result = result_of(run(0, FIRST, record_format), run(0, SECOND, record_format))
    assert result.holds
    assert result.chains == []
    assert "Chains" not in printed(result)


def test_every_interface_direction_and_host_has_its_own_chain():
    attachments = ((3, INGRESS), (3, EGRESS), (5, INGRESS))
    runs = chain(2, attachments=attachments)
    # Of the second run only the first interface took over a link.
    for number in (1, 2, 4, 5):
        runs[1].change_counters(number, previous_epoch=0)
    result = result_of(*runs, *chain(2, host_id=OTHER_HOST))
    assert result.holds
    assert [(each.host_id, each.if_index, each.flow_direction) for each in result.chains] == [
        (HOST.hex(), 3, INGRESS),
        (OTHER_HOST.hex(), 3, INGRESS),
    ]
    assert all(len(each.runs) == 2 for each in result.chains)


def test_a_chain_holds_only_if_each_of_its_runs_does(record_format):
    runs = chain(3, record_format)
    lost = Amount(*sums(runs[1].flows[[7]]))
    del runs[1].values[7]
    result = result_of(*runs)
    assert not result.holds
    (found,) = result.chains
    assert found.problems == [f"1 run does not hold, out of 3: {SECOND}"]
    assert [each.holds for each in found.runs] == [True, False, True]
    assert [each.gapless for each in found.runs] == [None, True, True]
    assert found.terms.difference == lost


def test_a_run_before_that_is_not_in_the_topics_is_named(record_format):
    result = result_of(run(FIRST, SECOND, record_format))
    assert not result.holds
    (found,) = result.chains
    (problem,) = found.problems
    assert problem == (
        f"the {FIRST_TEXT} is missing, whose link the next one took over: the topics have no "
        "counters of it on this interface"
    )
    missing, taken_over = found.runs
    assert (missing.agent_epoch, missing.counters, missing.gapless) == (FIRST, False, None)
    assert (taken_over.gapless, taken_over.holds) == (False, True)
    assert found.terms == taken_over.terms


def test_a_run_before_without_this_interface_is_missing_there():
    first = Published("msgpack", ((5, INGRESS),), epoch=FIRST)
    found = chain_of(first, run(FIRST, SECOND))
    assert [each.counters for each in found.runs] == [False, True]
    assert found.problems[0].startswith(f"the {FIRST_TEXT} is missing")


def test_a_run_before_with_flow_records_and_no_counters_is_missing(record_format):
    runs = chain(2, record_format)
    runs[0].counters.clear()
    found = chain_of(*runs)
    assert [each.counters for each in found.runs] == [False, True]
    assert [text.partition(" is missing")[0] for text in found.problems] == [
        f"the {FIRST_TEXT}",
        f"1 run does not hold, out of 2: {FIRST}",
    ]


def test_a_run_before_that_retention_deleted_is_a_note():
    messages = run(FIRST, SECOND).messages()
    accounts = Audit()
    accounts.add(
        [
            message._replace(offset=message.offset + 1_009)
            if message.topic == "flowstream.counters"
            else message
            for message in messages
        ]
    )
    result = accounts.result()
    assert result.holds
    (found,) = result.chains
    assert found.problems == []
    assert found.notes == [
        f"the chain began before what the topics still have: retention deleted the {FIRST_TEXT}"
    ]
    text = printed(result)
    assert re.search(r"\| +deleted \|", text)
    assert "veth3 ingress of host-a: 1 run without a gap" in text


def test_a_run_that_was_handed_over_and_not_closed_is_named(record_format):
    runs = chain(2, record_format)
    without_end(runs[0])
    result = result_of(*runs)
    (problem,) = result.runs[0].problems
    assert problem == (
        f"veth3 ingress: the {SECOND_TEXT} took over and has not closed this one: no final "
        "counters, so the equation cannot be exact (difference +0 packets and +0 octets); audit "
        "again, and if it stays so, look into the log of that agent"
    )
    assert result.runs[1].problems == []
    (found,) = result.chains
    assert [each.final for each in found.runs] == [False, True]
    assert [each.gapless for each in found.runs] == [None, False]
    assert found.problems == [f"1 run does not hold, out of 2: {FIRST}"]


def test_the_last_run_of_a_chain_that_goes_on_says_what_to_do(record_format):
    runs = chain(2, record_format)
    without_end(runs[1])
    (problem,) = problems_of(*runs)[:1]
    assert problem == (
        "veth3 ingress: the chain goes on: no final counters, so the equation cannot be exact "
        "(difference +0 packets and +0 octets); its agent runs, or the kernel goes on counting: "
        "then the next agent with the same --pin publishes the rest and closes the run, or "
        "flowstream detach ends the chain"
    )
    found = chain_of(*runs)
    assert [each.gapless for each in found.runs] == [None, True]
    assert found.problems == [f"1 run does not hold, out of 2: {SECOND}"]


def test_two_runs_that_took_over_one_link_are_found(record_format):
    runs = [*chain(2, record_format), run(FIRST, THIRD, record_format)]
    result = result_of(*runs)
    assert not result.holds
    (found,) = result.chains
    (problem,) = found.problems
    assert problem == (
        f"2 runs say that they took over from the {FIRST_TEXT}: {SECOND}, {THIRD}; a link has "
        "one successor: another agent of the same identity, or records that none made"
    )
    assert [each.gapless for each in found.runs] == [None, False, False]
    assert all(each.holds for each in found.runs)


def test_a_fork_at_a_run_that_is_missing_is_found():
    found = chain_of(run(FIRST, SECOND), run(FIRST, THIRD))
    assert [each.agent_epoch for each in found.runs] == [FIRST, SECOND, THIRD]
    fork, missing = found.problems
    assert fork.startswith(f"2 runs say that they took over from the {FIRST_TEXT}")
    assert missing.startswith(f"the {FIRST_TEXT} is missing")


def test_of_many_successors_a_sentence_names_few():
    runs = [run(0, FIRST), *(run(FIRST, FIRST + n * 1_024) for n in range(1, 102))]
    (problem,) = chain_of(*runs).problems
    assert problem.startswith(f"101 runs say that they took over from the {FIRST_TEXT}: ")
    assert f"{FIRST + 5 * 1_024}, ...; " in problem
    assert len(problem) < 400


@pytest.mark.parametrize("length", [1, 2, 3])
def test_runs_that_name_each_other_in_a_circle_are_found(record_format, length):
    runs = chain(length, record_format)
    for number in (0, 1):
        runs[0].change_counters(number, previous_epoch=EPOCH + (length - 1) * STEP)
    # One more follows on the circle, and holds itself.
    tail = run(EPOCH + (length - 1) * STEP, EPOCH + length * STEP, record_format)
    result = result_of(*runs, tail)
    assert not result.holds
    (found,) = result.chains
    names = "1 run names itself" if length == 1 else f"{length} runs name each other"
    epochs = ", ".join(str(EPOCH + n * STEP) for n in range(length))
    assert found.problems[0] == (
        f"{names} in a circle as the one before, which no agent does: {epochs}"
    )
    assert sorted(each.agent_epoch for each in found.runs) == [
        EPOCH + n * STEP for n in range(length + 1)
    ]
    assert [each.gapless for each in found.runs] == [False] * (length + 1)


def test_a_run_that_names_two_before_it_contradicts_itself(record_format):
    runs = [*chain(2, record_format), run(SECOND, THIRD, record_format)]
    runs[2].change_counters(0, previous_epoch=FIRST)
    result = result_of(*runs)
    assert result.runs[2].problems == [
        f"veth3 ingress: its counters name several runs as the one before: {FIRST}, {SECOND}"
    ]
    (found,) = result.chains
    assert [each.agent_epoch for each in found.runs] == [FIRST, SECOND, THIRD]
    assert found.runs[2].gapless is False
    assert found.problems == [f"1 run does not hold, out of 3: {THIRD}"]


@pytest.mark.parametrize("number", [0, 1])
def test_an_index_that_is_used_again_in_a_run_breaks_no_chain(number):
    """An interface that went, and a new one with its index, whose link was no one's."""
    runs = chain(2)
    runs[1].change_counters(number, previous_epoch=0)
    found = chain_of(*runs)
    assert (found.problems, [each.gapless for each in found.runs]) == ([], [None, True])


def test_the_namespace_of_an_interface_is_shown_whatever_it_contains():
    runs = chain(2)
    for each in runs:
        each.change_counters(1, netns="/run/netns/\x1b[31m[red]blue", previous_epoch=FIRST)
    runs[0].change_counters(1, previous_epoch=0)
    result = result_of(*runs)
    (interface,) = result.runs[0].interfaces
    assert interface.netns == "/run/netns/\x1b[31m[red]blue"
    assert interface.label == "veth3 ingress (netns /run/netns/\x1b[31m[red]blue)"
    text = printed(result)
    assert "| veth3 ingress (netns /run/netns/\\x1b[31m[red]blue) of host-a |" in text
    assert "\x1b" not in text


def test_the_table_of_a_chain():
    runs = chain(2)
    text = printed(result_of(*runs))
    packets, octets = sums(runs[0].flows)
    _, _, table = text.partition("Chains of runs, each of which took over the link of the")
    rows = [
        [cell.strip() for cell in line.strip("|").split("|")]
        for line in table.splitlines()
        if line.startswith("|")
    ]
    columns = ["packets seen", "published", "no flow", "lost", "in doubt", "in the spool"]
    one = [f"{packets + 39:,}", f"{packets:,}", "20", "19", "0", "0", "0"]
    both = [f"{2 * packets + 78:,}", f"{2 * packets:,}", "40", "38", "0", "0", "0"]
    assert rows == [
        ["interface", "run", "link", *columns, "difference"],
        ["veth3 ingress of host-a", "2023-11-14 22:13:20 UTC", "first", *one],
        ["", "2023-11-15 00:12:48 UTC", "gapless", *one],
        ["", "all 2", "", *both],
    ]
    assert text.endswith(
        f"holds: veth3 ingress of host-a: 2 runs without a gap, {2 * packets + 78:,} packets and "
        f"{2 * octets + 6_122:,} octets seen, difference 0\n\nEvery packet is accounted for.\n"
    )


def test_a_long_chain_shows_the_runs_at_its_ends_and_those_that_fail():
    runs = chain(tables.RUNS_IN_FULL + 3)
    del runs[11].values[0]
    text = printed(result_of(*runs))
    _, _, table = text.partition("Chains of runs")
    assert table.count(" UTC |") == 3
    assert f"|                         | {len(runs) - 3} more " in table
    assert f"| all {len(runs)} " in table


def linked(length: int, copies: int = 1) -> Result:
    """Result of ``copies`` chains of ``length`` runs, of made-up interfaces."""
    (whole,) = result_of(*chain(2)).chains
    runs = [*whole.runs[:1], *whole.runs[1:] * (length - 1)]
    one = msgspec.structs.replace(whole, runs=runs)
    return Result(True, [], [], [one] * copies)


def test_many_chains_are_counted_and_only_those_that_fail_are_shown():
    text = printed(linked(2, copies=tables.CHAINS_IN_FULL + 1))
    assert "21 chains: 21 hold, 0 do not; --json has every chain\n" in text
    assert "veth3" not in text
    result = linked(2, copies=tables.CHAINS_IN_FULL + 1)
    broken = msgspec.structs.replace(result.chains[0], problems=["broken"])
    text = printed(msgspec.structs.replace(result, chains=[*result.chains, broken]))
    assert text.count("does not hold: veth3 ingress of host-a: broken\n") == 1
    assert "22 chains: 21 hold, 1 do not; --json has every chain\n" in text


def test_the_work_of_printing_is_bounded():
    def show(length: int, copies: int) -> int:
        with Path(os.devnull).open("w") as nowhere:
            return work(tables.show, linked(length, copies), nowhere)

    show(tables.RUNS_IN_FULL, tables.CHAINS_IN_FULL)
    most = show(tables.RUNS_IN_FULL, tables.CHAINS_IN_FULL)
    assert show(10 * tables.RUNS_IN_FULL, tables.CHAINS_IN_FULL) < most
    assert show(tables.RUNS_IN_FULL, 10 * tables.CHAINS_IN_FULL) < most


SHAPES = {
    "chain": lambda n: n - 1,
    "star": lambda n: 0,
    "circle": lambda n: n - 1 if n else 2_000,
    "pairs": lambda n: n ^ 1,
    "sweep": lambda n: n // 2,
}


@pytest.mark.parametrize("shape", SHAPES)
def test_the_work_of_chains_grows_with_the_runs_and_no_more(shape):
    """Also: no shape of chains takes recursion."""
    published = Published("msgpack")
    (counters,) = published.counters[1:]

    def accounts(count: int) -> Audit:
        found = Audit()
        published.values.clear()
        published.counters = [
            msgspec.structs.replace(
                counters,
                agent_epoch=EPOCH + n * 1_024,
                previous_epoch=EPOCH + SHAPES[shape](n) % count * 1_024,
            )
            for n in range(count)
        ]
        found.add(published.messages())
        return found

    few, many = (work(accounts(count).result) for count in (500, 2_000))
    assert many < 4.5 * few


def test_the_result_with_chains_is_one_json_document():
    result = result_of(*chain(3), run(FIRST, EPOCH + 9 * STEP))
    assert msgspec.json.decode(msgspec.json.encode(result), type=Result) == result


@given(st.lists(st.integers(0, 8), min_size=1, max_size=8))
def test_every_run_that_names_or_is_named_stands_in_one_chain(names):
    """Run n + 1 names run ``names[n]`` as the one before, 0 none: any graph at all."""
    runs = [
        run(EPOCH + name * STEP if name else 0, EPOCH + (n + 1) * STEP)
        for n, name in enumerate(names)
    ]
    for each in runs:
        each.values.clear()
    result = result_of(*runs)
    numbers = [
        [(each.agent_epoch - EPOCH) // STEP for each in found.runs] for found in result.chains
    ]
    linked_runs = {name for name in names if name} | {n for n, name in enumerate(names, 1) if name}
    assert sorted(itertools.chain(*numbers)) == sorted(linked_runs)
    for chain_numbers, found in zip(numbers, result.chains, strict=True):
        before = [names[n - 1] if n <= len(names) else 0 for n in chain_numbers]
        whole = before[1:] == chain_numbers[:-1] and before[0] == 0
        whole = whole and max(chain_numbers) <= len(names)
        structural = [text for text in found.problems if " not hold" not in text]
        assert whole == (not structural)


def test_the_command_shows_chains_of_a_recording(tmp_path, record_format, capsys):
    url = f"file:{tmp_path}/runs"
    asyncio.run(publish(url, record_format, *chain(3, record_format)))
    assert main(["audit", url]) == 0
    said = capsys.readouterr().out
    assert "holds: veth3 ingress of host-a: 3 runs without a gap, " in said
    assert main(["audit", url, "--json"]) == 0
    (found,) = msgspec.json.decode(capsys.readouterr().out)["chains"]
    assert [each["gapless"] for each in found["runs"]] == [None, True, True]
    assert found["terms"]["difference"] == {"packets": 0, "l2_bytes": 0}
