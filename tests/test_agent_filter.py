"""``flowstream run --filter``: what is filtered out is counted, and every packet accounted for."""

from __future__ import annotations

import signal
from typing import TYPE_CHECKING

import pytest
from packets import captures, reference
from packets.build import ip4, tcp, udp
from support import traffic
from support.agent import (
    Agent,
    audit,
    audited,
    finals_of,
    flowstream,
    on,
    quiet,
    records_of,
)
from support.net import namespace
from support.traffic import wait_until
from support.tun import tun_device

from flowstream.records import FlowRecord

if TYPE_CHECKING:
    from pathlib import Path

    from support.net import Wire

CAPTURE = captures.TRACES / "mapi.pcap"
HOSTS = " or ".join(f"src host 10.{n}.0.7" for n in range(256))


def frames() -> list[bytes]:
    return captures.frames(CAPTURE)


def is_of_port_80(frame: bytes) -> bool:
    reading = reference.read(frame)
    return not isinstance(reading, str) and 80 in (reading.src_port, reading.dst_port)


@pytest.mark.parametrize("options", [(), ("--mode", "generic"), ("--hook", "tcx")])
@pytest.mark.parametrize("program", ["flow", "counter"])
def test_the_rest_is_filtered_out(
    wire: Wire, recording_url: str, options: tuple[str, ...], program: str
) -> None:
    where = (*on(wire.receiver), "--sink", recording_url, "--program", program, *options)
    with Agent(*where, "--filter", "tcp port 80") as agent:
        agent.publishing()
        traffic.replay(wire.sender, CAPTURE)
        quiet(wire.receiver)
        agent.stop()
        (logged,) = agent.logs("filtering")
    assert (logged["filter"], logged["instructions"]) == ("tcp port 80", 20)
    expected = [frame for frame in frames() if is_of_port_80(frame)]
    assert 0 < len(expected) < len(frames())
    (interface,) = audited(recording_url)
    (final,) = finals_of(recording_url)
    assert final.seen_packets == len(frames())
    left = final.no_flow["filtered_out"]
    assert left.packets == len(frames()) - len(expected)
    assert left.l2_bytes == sum(map(len, frames())) - sum(map(len, expected))
    if program == "flow":
        records = records_of(recording_url, "flowstream.flows")
        assert all(isinstance(record, FlowRecord) for record in records)
        assert sum(record.packets for record in records) == len(expected)
        assert {80} == {min(record.src_port, record.dst_port) for record in records}
    _, result = audit(recording_url)
    assert interface["no_flow"]["filtered_out"]["packets"] == left.packets
    assert result["holds"]


def test_both_directions_of_a_pair(wire: Wire, recording_url: str) -> None:
    for device, address in ((wire.sender, "10.7.0.1/24"), (wire.receiver, "10.7.0.2/24")):
        device.namespace.run("ip", "address", "add", address, "dev", device.name)
        device.namespace.run("ip", "link", "set", device.name, "arp", "on")
    where = (*on(wire.receiver), "--sink", recording_url, "--direction", "both")
    with Agent(*where, "--filter", "icmp[icmptype] = icmp-echo") as agent:
        agent.publishing()
        wire.sender.namespace.run("ping", "-q", "-c", "7", "-i", "0.01", "-w", "30", "10.7.0.2")
        agent.stop()
    finals = {final.flow_direction: final for final in finals_of(recording_url)}
    records = records_of(recording_url, "flowstream.flows")
    assert {record.flow_direction for record in records} == {0}
    assert sum(record.packets for record in records) == 7
    assert finals[1].no_flow["filtered_out"].packets == finals[1].seen_packets >= 7
    audited(recording_url)


def test_a_long_filter_goes_to_every_attachment(wire: Wire, recording_url: str) -> None:
    where = (*on(wire.receiver), "--sink", recording_url, "--hook", "tcx")
    with Agent(*where, "--filter", f"{HOSTS} or (udp and src port 53)") as agent:
        agent.publishing()
        traffic.replay(wire.sender, captures.TRACES / "dns-edns-ecs.pcap")
        quiet(wire.receiver)
        agent.stop()
        assert agent.logs("filtering")[0]["instructions"] > 256
    (final,) = finals_of(recording_url)
    assert 0 < final.no_flow["filtered_out"].packets < final.seen_packets


def test_packets_without_a_link_layer_header(recording_url: str) -> None:
    with namespace() as place, tun_device(place) as device:
        where = ("-i", "tun0", "--netns", place.name, "--sink", recording_url)
        with Agent(*where, "--filter", "udp and len < 40") as agent:
            agent.publishing()
            for packet in (ip4(17, udp(b"ab")), ip4(17, udp(bytes(20))), ip4(6, tcp())):
                device.receive(packet)
            agent.stop()
        with Agent(*where, "--filter", "vlan") as agent:
            assert agent.wait() == 1
            *_, complaint = agent.output().splitlines()
    assert complaint.endswith(
        "attaching to tun0: --filter has no meaning without a link-layer header: no VLAN support "
        "for Raw IP: use one of IP alone, or leave the interface out"
    ), complaint
    (final,) = finals_of(recording_url)
    assert (final.seen_packets, final.no_flow["filtered_out"].packets) == (3, 2)


def test_a_wrong_filter_ends_the_start_with_the_place(
    wire: Wire, recording_url: str, tmp_path: Path
) -> None:
    file = tmp_path / "flowstream.toml"
    file.write_text('filter = "tcp prot 443"\n', encoding="utf-8")
    expected = "flowstream: error: filter: syntax error\n  tcp prot 443\n      ^\n"
    for given in (("--filter", "tcp prot 443"), ("--config", str(file))):
        with Agent(*on(wire.receiver), "--sink", recording_url, *given) as agent:
            assert agent.wait() == 2
            assert agent.output().endswith(f"}}\n{expected}")
    done = flowstream("pcap", str(CAPTURE), "--filter", "tcp prot 443", "--sink", recording_url)
    assert (done.returncode, done.stderr) == (2, expected)
    assert not (tmp_path / recording_url.removeprefix("file:")).exists()


def test_another_filter_needs_a_restart(wire: Wire, recording_url: str, place: Path) -> None:
    file = place / "flowstream.toml"
    file.write_text('filter = "tcp"\n', encoding="utf-8")
    with Agent(*on(wire.receiver), "--sink", recording_url, "--config", str(file)) as agent:
        agent.publishing()
        file.write_text('filter = "udp"\n', encoding="utf-8")
        agent.signal(signal.SIGHUP)
        assert wait_until(lambda: bool(agent.logs("reload_needs_restart"))), agent.output()
        assert agent.logs("reload_needs_restart")[0]["options"] == ["filter"]
        agent.stop()
