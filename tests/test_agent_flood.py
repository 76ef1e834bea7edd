"""An open flood: every packet a flow of its own, as fast as one CPU can send."""

from __future__ import annotations

import itertools
import os
import time

from support.agent import Agent, audit, audited, flood_for, last_counters, on, records_of
from support.net import namespace, veth_pair

DURATION_S = float(os.environ.get("FLOWSTREAM_FLOOD_SECONDS", "5"))
SWAPS = 7
TABLE = 131_072
MEMORY = 400 << 20
SILENCE_S = 20
MIB = 1 << 20
MAX_RECORDS = 2_003
PACKET = 64
RECORDING_MIB = 3
JSON_OCTETS = 1_000
"""More than a record has in JSON, with its part of a batch's header."""


def test_a_flood_shortens_the_interval_and_nothing_vanishes(tmp_path, record_property, capsys):
    recording = f"file:{tmp_path}/recording"
    with (
        namespace() as here,
        namespace() as there,
        veth_pair(here, there) as (sender, receiver),
        Agent(
            *(*on(receiver), "--sink", recording, "--format", "msgpack"),
            *("--interval", 3_600, "--max-flows", TABLE),
        ) as agent,
    ):
        agent.publishing()

        def swapped() -> bool:
            counters = records_of(recording, "flowstream.counters")
            return any(each.table_swaps >= SWAPS for each in counters)

        arrived = flood_for(DURATION_S, sender, receiver, swapped)
        agent.stop()
        peak = agent.peak
    (interface,) = audited(recording)
    counters = records_of(recording, "flowstream.counters")
    final = counters[-1]
    times = [record.time_unix_ns for record in counters]
    silence = max(later - earlier for earlier, later in itertools.pairwise(times)) / 1e9
    figures = {
        "packets": arrived,
        "swaps": final.table_swaps,
        "peak_mib": round(peak / MIB),
        "silence_s": round(silence, 2),
        "losses": {cause: loss.records for cause, loss in final.losses.items()},
    }
    with capsys.disabled():
        print(f"\nflood of {DURATION_S:g} s: {figures}")  # noqa: T201
    assert interface["seen"]["packets"] == arrived > 2 * TABLE
    lost = interface["losses"]["overflow_lost"]["packets"]
    assert interface["flows"]["packets"] == arrived - lost
    assert peak < MEMORY
    assert silence < SILENCE_S
    assert times == sorted(times)


def test_a_flood_writes_no_more_than_max_records(tmp_path, capsys):
    recording = tmp_path / "recording"
    with (
        namespace() as here,
        namespace() as there,
        veth_pair(here, there) as (sender, receiver),
        Agent(
            *(*on(receiver), "--sink", f"file:{recording}", "--max-records", MAX_RECORDS),
            *("--interval", 1, "--max-flows", TABLE),
        ) as agent,
    ):
        agent.publishing()
        began = time.monotonic()

        def limited() -> bool:
            counters = records_of(f"file:{recording}", "flowstream.counters")
            enough = 3 * MAX_RECORDS
            return any(each.stages["flows"].acknowledged >= enough for each in counters)

        arrived = flood_for(DURATION_S, sender, receiver, limited)
        agent.stop()
        budget = MAX_RECORDS * (time.monotonic() - began + 1)
        peak = agent.peak
    (interface,) = audited(f"file:{recording}")
    final = last_counters(f"file:{recording}")
    flows, announcements = final.stages["flows"], final.stages["new_flows"]
    written = {
        stream: sum(path.stat().st_size for path in recording.glob(f"flowstream.{stream}-*/*.log"))
        for stream in ("flows", "new_flows")
    }
    records = f"{flows.acknowledged} flow records, {announcements.acknowledged} announcements"
    with capsys.disabled():
        print(f"\n{arrived} packets: {records}, {written} octets, peak {peak // MIB} MiB")  # noqa: T201
    # Intervals end although the table asks to be swapped all the time.
    assert 3 * MAX_RECORDS <= flows.acknowledged <= budget
    assert 0 < announcements.acknowledged <= budget
    assert max(written.values()) < budget * JSON_OCTETS
    assert peak < MEMORY
    # Every packet is there, though few records are.
    lost = final.losses["overflow_lost"].packets
    assert interface["seen"]["packets"] == arrived > 2 * TABLE
    records = records_of(f"file:{recording}", "flowstream.flows")
    assert sum(record.packets for record in records) == arrived - lost
    assert sum(record.l2_bytes for record in records) == (arrived - lost) * PACKET
    # So is every flow, and every record has its place in the books.
    assert sum(record.flow_count for record in records) == flows.drained
    assert flows.drained == flows.encoded + flows.aggregated
    # Each packet is a new flow: it was announced or is counted.
    limited, announced = final.losses["announcement_limited"].records, announcements.encoded
    assert announcements.drained == announced + limited
    assert arrived == announcements.drained + final.losses["announcement_lost"].records


def test_a_recording_stays_within_its_size(tmp_path):
    recording = tmp_path / "recording"
    with (
        namespace() as here,
        namespace() as there,
        veth_pair(here, there) as (sender, receiver),
        Agent(
            *(*on(receiver), "--sink", f"file:{recording}", "--format", "msgpack"),
            *("--interval", 1, "--max-flows", TABLE, "--partitions", 1),
            *("--recording-size", f"{RECORDING_MIB}MiB"),
        ) as agent,
    ):
        agent.publishing()
        flood_for(DURATION_S, sender, receiver, lambda: agent.logs("recording_segment_deleted"))
        agent.stop()
    assert sum(path.stat().st_size for path in recording.glob("*/*.log")) <= RECORDING_MIB * MIB
    status, result = audit(f"file:{recording}")
    assert (status, result["holds"], result["warnings"]) == (1, False, [])
    (run,) = result["runs"]
    assert any("flowstream.flows: cannot be checked before" in text for text in run["problems"])
