"""Every packet that reaches an interface ends in one place, whatever the agent was told to do."""

from __future__ import annotations

import itertools
import os
from collections import Counter

import pytest
from support.agent import Agent, audited, carried, delivered, last_counters, on, records_of
from support.net import namespace, veth_pair
from support.traffic import load, wait_until

from flowstream.records import CountersRecord, FlowRecord, decode

FULL = 2_000_003
FULL_FLOWS = 100_000
# FLOWSTREAM_FULL_SIZE=1 runs every case with as many as the largest.
WHOLE = bool(os.environ.get("FLOWSTREAM_FULL_SIZE"))
PACKETS = FULL if WHOLE else 200_003
FLOWS = FULL_FLOWS if WHOLE else 10_007
SOURCES = min(FLOWS, 1 << 16)  # of so many addresses are the generator's flows
VLAN = 1_009
FRAME = 83  # octets
UDP = 17

_prefixes = (f"agent{number}" for number in itertools.count())


@pytest.fixture(params=["file", "kafka"])
def place(request, tmp_path) -> tuple[str, str]:
    """Where to publish to, and a prefix that no other test uses there."""
    prefix = next(_prefixes)
    if request.param == "file":
        return f"file:{tmp_path}/recording", prefix
    return request.getfixturevalue("broker").url, prefix


@pytest.mark.parametrize(
    ("record_format", "packets", "flows"),
    [("json", PACKETS, FLOWS), ("msgpack", PACKETS, FLOWS), ("msgpack", FULL, FULL_FLOWS)],
)
def test_every_packet_is_in_a_flow_record(wire, place, record_format, packets, flows):
    sender, receiver = wire
    url, prefix = place
    with Agent(
        *(*on(receiver), "--sink", url, "--topic-prefix", prefix),
        *("--format", record_format, "--interval", 1),
    ) as agent:
        agent.publishing()
        arrived = delivered(sender, receiver, packets, "-f", flows, "-l", FRAME)
        agent.stop()
    (interface,) = audited(url, prefix)
    amount = {"packets": arrived, "l2_bytes": arrived * FRAME}
    assert interface["seen"] == interface["flows"] == amount
    assert not any(loss["packets"] for loss in interface["losses"].values())
    if packets != FULL:
        assert carried(url, prefix) == {receiver.index: arrived}


def test_a_table_too_small_sends_packets_one_by_one(wire, recording_url):
    sender, receiver = wire
    with Agent(
        *on(receiver), "--sink", recording_url, "--max-flows", 1000, "--interval", 1
    ) as agent:
        agent.publishing()
        arrived = delivered(sender, receiver, PACKETS, "-f", FLOWS)
        agent.stop()
    (interface,) = audited(recording_url)
    lost = interface["losses"]["overflow_lost"]["packets"]
    assert interface["seen"]["packets"] == arrived
    assert interface["flows"]["packets"] + lost == arrived
    reasons = Counter(
        record.end_reason for record in records_of(recording_url, "flowstream.flows")
    )
    assert reasons[5] > 0, "no record says that the table was full"


def test_two_interfaces_at_once(recording_url):
    with (
        namespace() as here,
        namespace() as there,
        veth_pair(here, there, names=("near1", "far1")) as first,
        veth_pair(here, there, names=("near2", "far2")) as second,
    ):
        receivers = (first[1], second[1])
        with Agent(*on(*receivers), "--sink", recording_url, "--interval", 1) as agent:
            agent.publishing()
            arrived = {
                second[1].index: delivered(*second, PACKETS // 2, "-f", FLOWS),
                first[1].index: delivered(*first, PACKETS, "-f", FLOWS),
            }
            agent.stop()
    found = {each["if_index"]: each["flows"]["packets"] for each in audited(recording_url)}
    assert found == arrived == carried(recording_url)


def test_ipv6_behind_a_vlan_tag(wire, recording_url):
    sender, receiver = wire
    with Agent(*on(receiver), "--sink", recording_url, "--format", "msgpack") as agent:
        agent.publishing()
        six = delivered(sender, receiver, PACKETS, "-6", "-V", VLAN, "-f", FLOWS, "-l", FRAME)
        four = delivered(sender, receiver, FLOWS, "-f", FLOWS)
        agent.stop()
    (interface,) = audited(recording_url)
    assert interface["flows"]["packets"] == six + four
    packets: Counter[tuple[int, int, int]] = Counter()
    for record in records_of(recording_url, "flowstream.flows"):
        assert record.proto == UDP
        packets[record.etype, record.vlan_id, record.bytes // record.packets] += record.packets
    # The tag and the Ethernet header are no IP octets.
    assert packets == {(0x86DD, VLAN, FRAME - 18): six, (0x0800, 0, 64 - 14): four}


def test_generic_mode(wire, recording_url):
    sender, receiver = wire
    with Agent(*on(receiver), "--sink", recording_url, "--mode", "generic") as agent:
        agent.publishing()
        arrived = delivered(sender, receiver, PACKETS, "-f", FLOWS)
        agent.stop()
    (interface,) = audited(recording_url)
    assert interface["seen"]["packets"] == interface["flows"]["packets"] == arrived
    assert last_counters(recording_url).attach_mode == "generic"


def test_sampling(wire, recording_url):
    sender, receiver = wire
    with Agent(*on(receiver), "--sink", recording_url, "--sampling", 7) as agent:
        agent.publishing()
        arrived = delivered(sender, receiver, PACKETS, "-f", 101)
        agent.stop()
    (interface,) = audited(recording_url)
    seen = interface["flows"]["packets"]
    assert (
        interface["no_flow"]["sampled_out"]["packets"] + seen
        == interface["seen"]["packets"]
        == arrived
    )
    # One in seven by chance: 200,003 packets stray from it by less than 4 % (7 sigma).
    assert seen == pytest.approx(arrived / 7, rel=0.04)
    assert {each.sampling_rate for each in records_of(recording_url, "flowstream.flows")} == {7}


def test_the_counting_program(wire, recording_url):
    sender, receiver = wire
    with Agent(*on(receiver), "--sink", recording_url, "--program", "counter") as agent:
        agent.publishing()
        arrived = delivered(sender, receiver, PACKETS, "-f", FLOWS)
        six = delivered(sender, receiver, FLOWS, "-6", "-l", FRAME)
        agent.stop()
    (interface,) = audited(recording_url)
    assert interface["seen"]["packets"] == arrived + six
    assert interface["no_flow"]["counted"]["packets"] == arrived
    assert interface["no_flow"]["non_ip"]["packets"] == six
    assert not records_of(recording_url, "flowstream.flows")
    announced = [record.src_addr for record in records_of(recording_url, "flowstream.new_flows")]
    assert len(set(announced)) == len(announced)
    lost = last_counters(recording_url).losses["announcement_lost"].records
    assert SOURCES - lost <= len(announced) <= SOURCES


def test_the_counting_program_forgets_spoofed_sources(wire, recording_url):
    """A full table of sources is emptied at the end of the interval; the next ones are seen."""
    sender, receiver = wire
    options = ("--program", "counter", "--max-flows", SOURCES // 3, "--interval", 0.5)
    with Agent(*on(receiver), "--sink", recording_url, *options) as agent:
        agent.publishing()
        spoofed = delivered(sender, receiver, PACKETS, "-f", FLOWS)

        def room() -> bool:
            last = records_of(recording_url, "flowstream.counters")[-1]
            return last.seen_packets == spoofed and last.table_entries < SOURCES // 3

        assert wait_until(room)
        others = delivered(sender, receiver, 101, "-s", "203.0.113.7")
        agent.stop()
    (interface,) = audited(recording_url)
    assert interface["seen"]["packets"] == spoofed + others
    assert interface["no_flow"]["counted"]["packets"] == spoofed + others
    final = last_counters(recording_url)
    assert final.losses["source_table_full"].records > 0
    announced = [
        record.src_addr[12:] for record in records_of(recording_url, "flowstream.new_flows")
    ]
    assert announced.count(bytes((203, 0, 113, 7))) == 1


def test_a_duration_ends_the_run(wire, recording_url):
    sender, receiver = wire
    options = ("--sink", recording_url, "--duration", 1)
    with load(sender, FLOWS, pps=10_000), Agent(*on(receiver), *options) as agent:
        agent.publishing()
        assert agent.wait() == 0
    (interface,) = audited(recording_url)
    assert interface["seen"]["packets"] > 0


def test_standard_output_gets_a_json_line_per_record(wire, tmp_path):
    sender, receiver = wire
    written = tmp_path / "output"
    with Agent(*on(receiver), "--sink", "stdout:", stdout=written) as agent:
        agent.publishing()
        arrived = delivered(sender, receiver, PACKETS, "-f", 101)
        agent.stop()
    records = [decode(line) for line in written.read_bytes().splitlines()]
    final = records[-1]
    assert isinstance(final, CountersRecord)
    assert final.final
    flows = [each for each in records if isinstance(each, FlowRecord) and each.record_type == 1]
    assert sum(record.packets for record in flows) == final.seen_packets == arrived
