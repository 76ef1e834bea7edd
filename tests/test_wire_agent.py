"""``flowstream run --direction both`` against ``flowstream pcap`` of the wire, and statistics."""

from __future__ import annotations

import json
from contextlib import ExitStack
from typing import TYPE_CHECKING

import pytest
from packets.compare import differing
from support.agent import BEFORE_6_6, Agent, audited, on, records_of
from support.exchange import BIG, CUT, TAGS, WHOLE, Exchange
from support.hosts import hosts
from support.pcap_runs import Runner, summed
from support.tagging import tagged
from support.traffic import write_capture

from flowstream.accounting.amounts import Amount
from flowstream.accounting.attachment_key import EGRESS, INGRESS

if TYPE_CHECKING:
    from collections.abc import Iterator

    from support.hosts import Host, Hosts

    from flowstream.records import FlowRecord

BOTH = ("--direction", "both")


@pytest.fixture
def between() -> Iterator[Hosts]:
    with hosts() as made:
        # Of what the device sends, a queue counts segments; its driver counts pieces.
        made.observed.run("tc", "qdisc", "add", "dev", "near", "root", "pfifo", "limit", "1000")
        yield made


def queued(host: Host) -> Amount:
    """What the queue of a host's device has sent."""
    (queue,) = json.loads(host.run("tc", "-s", "-j", "qdisc", "show", "dev", host.device.name))
    assert (queue["kind"], queue["drops"]) == ("pfifo", 0)
    return Amount(queue["packets"], queue["bytes"])


def observed(
    between: Hosts, *options: str, before: tuple[str, ...] = (), big: bool = False
) -> dict[int, list[bytes]]:
    """Run the agent while the hosts talk; packets on the wire by direction."""
    device = between.observed.device
    with ExitStack() as stack:
        agent = stack.enter_context(Agent(*on(device), *BOTH, *options, before=before))
        agent.publishing()
        exchange = stack.enter_context(Exchange(between))
        exchange.add_all("", CUT, WHOLE)
        if big:
            between.take_big_segments()
            exchange.add_all("", BIG)
            with tagged(between, *TAGS["vlan"]):
                exchange.add_all("vlan ", BIG)
        agent.stop()
        frames = [frame for part in exchange.parts.values() for frame in part.wire]
        mac = between.observed.mac_octets
        return {
            direction: [frame for frame in frames if (frame[6:12] == mac) == direction]
            for direction in (INGRESS, EGRESS)
        }


def amount(frames: list[bytes]) -> Amount:
    return Amount(len(frames), sum(map(len, frames)))


@pytest.mark.parametrize(
    ("before", "options"),
    [
        ((), ("--hook", "tcx")),
        (BEFORE_6_6, ("--hook", "tcx")),
        ((), ("--hook", "xdp", "--mode", "native")),
    ],
    ids=["tcx", "clsact", "native"],
)
def test_records_are_those_of_a_capture_of_the_wire(between, tmp_path, capsys, before, options):
    url = f"file:{tmp_path}/recording"
    wire = observed(between, "--interval", "0.5", "--sink", url, *options, before=before)
    flows: list[FlowRecord] = records_of(url, "flowstream.flows")
    run = Runner(tmp_path, capsys)
    for direction, frames in wire.items():
        found = summed(record for record in flows if record.flow_direction == direction)
        capture = write_capture(tmp_path / "wire.pcap", frames)
        expected = run(capture).sums()
        assert "\n".join(differing(found, expected)) == ""
    assert {each["flow_direction"]: Amount(**each["seen"]) for each in audited(url)} == {
        direction: amount(frames) for direction, frames in wire.items()
    }
    assert queued(between.observed) == amount(wire[EGRESS])
    sent, received = (between.observed.device.statistic(f"{way}_packets") for way in ("tx", "rx"))
    assert sent < len(wire[EGRESS])
    assert received == len(wire[INGRESS])


def test_a_filter_leaves_out_the_packets_on_the_wire_that_it_rejects(between, tmp_path, capsys):
    url = f"file:{tmp_path}/recording"
    # Libpcap looks for TCP behind the IPv6 header alone: BIG TCP has another one, in memory.
    expression = "(ip6 and tcp) or (udp dst portrange 7001-7031) or (vlan 100 and ip6 and tcp)"
    options = ("--filter", expression, "--hook", "tcx")
    wire = observed(between, "--sink", url, *options, big=True)
    found = summed(records_of(url, "flowstream.flows"))
    capture = write_capture(tmp_path / "wire.pcap", [*wire[INGRESS], *wire[EGRESS]])
    published = Runner(tmp_path, capsys)(capture, options=options[:2])
    assert "\n".join(differing(found, published.sums())) == ""
    assert {(key.vlan_id, key.proto) for key in found} == {(0, 6), (0, 17), (100, 6)}
    (final,) = (counters for counters in published.counters if counters.final)
    rejected = [Amount(**each["no_flow"]["filtered_out"]) for each in audited(url)]
    expected = final.no_flow["filtered_out"]
    assert rejected[0].plus(rejected[1]) == Amount(expected.packets, expected.l2_bytes)
    assert min(each.packets for each in rejected) > 0


@pytest.mark.parametrize("options", [("--program", "counter"), ("--sampling", "5")])
def test_every_packet_on_the_wire_is_seen(between, recording_url, options):
    wire = observed(between, "--sink", recording_url, "--hook", "tcx", *options)
    assert {each["flow_direction"]: Amount(**each["seen"]) for each in audited(recording_url)} == {
        direction: amount(frames) for direction, frames in wire.items()
    }
