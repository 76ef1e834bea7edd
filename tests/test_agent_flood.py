"""An open flood: every packet a flow of its own, as fast as one CPU can send."""

from __future__ import annotations

import itertools
import os

from support.agent import Agent, audited, flood_for, on, records_of
from support.net import namespace, veth_pair

DURATION_S = float(os.environ.get("FLOWSTREAM_FLOOD_SECONDS", "5"))
INTERVAL_S = 2
TABLE = 131_072
MEMORY = 400 << 20
SILENCE_S = 5
MIB = 1 << 20


def test_a_flood_shortens_the_interval_and_nothing_vanishes(tmp_path, record_property, capsys):
    recording = f"file:{tmp_path}/recording"
    with (
        namespace() as here,
        namespace() as there,
        veth_pair(here, there) as (sender, receiver),
        Agent(
            *(*on(receiver), "--sink", recording, "--format", "msgpack"),
            *("--interval", INTERVAL_S, "--max-flows", TABLE),
        ) as agent,
    ):
        agent.publishing()
        arrived = flood_for(DURATION_S, sender, receiver)
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
    assert final.table_swaps > DURATION_S / INTERVAL_S + 1
    assert final.table_swaps > arrived / TABLE / 2
    assert peak < MEMORY
    assert silence < SILENCE_S
    assert times == sorted(times)
