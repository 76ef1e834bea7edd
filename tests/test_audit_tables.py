from __future__ import annotations

import io
import os
import re
import sys
from pathlib import Path

import msgspec
import pytest
from support.audited import result_of, spooled, sums, with_doubt
from support.published import EGRESS, EPOCH, INGRESS, Published

from flowstream.audit import Result, tables

STEP = 1_024  # of agent_epoch
FORMATS = ["json", "msgpack", "protobuf", "avro"]


@pytest.fixture(params=FORMATS)
def record_format(request) -> str:
    return request.param


def work(function, *arguments) -> int:
    """How many functions, Python's and built-in, a call calls: work without a clock."""
    calls = 0

    def count(_frame, event, _argument) -> None:
        nonlocal calls
        calls += event in ("call", "c_call")

    sys.setprofile(count)
    try:
        function(*arguments)
    finally:
        sys.setprofile(None)
    return calls


def runs_of(count: int, *, whole: bool) -> Result:
    """Result of ``count`` runs, of which none or all end without final counters."""
    published = Published("msgpack")
    if not whole:
        published.counters.pop()
    (run,) = result_of(published).runs
    runs = [msgspec.structs.replace(run, agent_epoch=EPOCH + n * STEP) for n in range(count)]
    return Result(whole, runs)


@pytest.mark.parametrize(("whole", "most"), [(True, 150), (False, 1_500)])
def test_the_work_of_printing_grows_with_the_runs_and_no_more(whole, most):
    def show(count: int) -> int:
        result = runs_of(count, whole=whole)
        with Path(os.devnull).open("w") as nowhere:
            return work(tables.show, result, nowhere)

    show(50)  # fills the caches of rich
    few, more, many = (show(count) for count in (50, 150, 350))
    assert (more - few) / 100 < most
    assert many - more < 2.1 * (more - few)


def printed(result: Result) -> str:
    stream = io.StringIO()
    tables.show(result, stream)
    return stream.getvalue()


def test_few_runs_are_printed_in_full():
    text = printed(runs_of(tables.RUNS_IN_FULL, whole=True))
    assert text.count("Run of ") == text.count("| veth3 ingress ") == tables.RUNS_IN_FULL
    assert "--json" not in text


def test_many_runs_are_summed_in_one_table():
    count = tables.RUNS_IN_FULL + 1
    result = runs_of(count, whole=True)
    text = printed(result)
    seen = count * result.runs[0].interfaces[0].seen.packets
    assert re.search(rf"\| all +\| seen +\| +{seen:,} \|", text)
    assert re.search(rf"\| +\| no flow: malformed +\| +{count * 3} \|", text)
    assert "Run of " not in text
    assert f"{count} runs: {count} hold, 0 do not; --json has every run\n" in text
    assert text.endswith("Every packet is accounted for.\n")


def test_runs_that_do_not_hold_are_all_named():
    text = printed(runs_of(50, whole=False))
    assert text.count("Run of ") == text.count("does not hold: ") == 50
    assert text.count("| veth3 ingress ") == tables.RUNS_IN_FULL
    assert "50 runs: 0 hold, 50 do not" in text


def test_the_table_shows_what_is_not_zero(record_format):
    published = with_doubt(record_format, 2)
    text = printed(result_of(published))
    terms = re.findall(r"^\| (?:veth3 ingress)? +\| ([a-z: _]+[a-z]) +\|", text, re.MULTILINE)
    assert terms == [
        "seen",
        "in published flows",
        "no flow: non_ip",
        "no flow: malformed",
        "lost: overflow_lost",
        "in doubt: shutdown",
        "difference",
    ]
    packets, _ = sums(published.flows[-5:])
    assert text.endswith(
        f"octets seen, {packets:,} packets in doubt\n\nEvery packet is accounted for.\n"
    )


def test_the_table_shows_what_waits_in_the_spool(record_format):
    published = spooled(record_format, drained=4)
    text = printed(result_of(published))
    spool, waits = sums(published.flows[-11:]), sums(published.flows[-7:])
    row = rf"^\| +\| in the spool +\| +{spool[0]:,} +\| +{spool[1]:,} +\|$"
    assert re.search(row, text, re.MULTILINE)
    flows = r"^\| flowstream.flows +\| +24 \| 0-23 \| +7 \| +0 \| +0 \| +11 \|"
    assert re.search(flows, text, re.MULTILINE)
    assert f"{waits[0]:,} packets and {waits[1]:,} octets wait in the spool of host-a\n" in text
    assert text.endswith(
        f"octets seen, {waits[0]:,} packets in the spool\n\nEvery packet is accounted for.\n"
    )
    drained = printed(result_of(spooled(record_format, drained=11)))
    assert drained.endswith("octets seen, difference 0\n\nEvery packet is accounted for.\n")


def test_packets_of_several_places_are_said_to_be_a_sum():
    """One that the host forwards is seen coming in and going out."""
    published = Published("msgpack", ((3, INGRESS), (3, EGRESS)))
    seen = sum(each.seen_packets for each in published.counters if each.final)
    text = (
        rf"holds: {seen:,} packets and [0-9,]+ octets seen over 2 interfaces and directions, diff"
    )
    assert re.search(f"^{text}erence 0$", printed(result_of(published)), re.MULTILINE)
