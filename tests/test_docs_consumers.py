"""The instructions of docs/consumers.md, followed on a capture with known sums."""

from __future__ import annotations

import asyncio
import json
import os
import re
import shlex
import subprocess
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import msgspec
import pytest
from support import capture
from support.agent import FLOWSTREAM, Agent, audited
from support.net import namespace, veth_pair
from support.records import (
    COUNTERS,
    EPOCH,
    PREFIXES,
    SAMPLER,
    encoder_of,
    random_flows,
)

from flowstream.accounting.identity import Identity
from flowstream.encode import make_encoder
from flowstream.encode.stamp import stamp
from flowstream.encode.value_builder import varint
from flowstream.records import Amount, Loss, RecordType, SpoolCounts, decode, encode
from flowstream.records.decoding import format_of
from flowstream.source import open_source
from flowstream.streams import Stream
from flowstream.testing.factory import FlowFactory

if TYPE_CHECKING:
    from flowstream.messages import Message

DOCUMENT = Path(__file__).parent.parent / "docs" / "consumers.md"
TEXT = DOCUMENT.read_text(encoding="utf-8")
EXACT = 2**53
"""Above it a double is not every integer."""


class Read(NamedTuple):
    """Everything that was published, by topic."""

    recording: Path
    sums: capture.Sums
    flows: list[Message]
    new_flows: list[Message]
    counters: list[Message]

    def all(self) -> list[Message]:
        return [*self.flows, *self.new_flows, *self.counters]


@pytest.fixture(scope="module", params=["json", "msgpack"])
def read(request, tmp_path_factory) -> Read:
    return published(tmp_path_factory.mktemp("consumers"), request.param)


@pytest.fixture(scope="module")
def json_read(tmp_path_factory) -> Read:
    return published(tmp_path_factory.mktemp("consumers"), "json")


def published(directory: Path, record_format: str) -> Read:
    file, recording = directory / "captured.pcap", f"file:{directory}/recording"
    sums = capture.write(file)
    command = [*FLOWSTREAM, "pcap", file, "--sink", recording, "--format", record_format]
    subprocess.run(command, check=True, capture_output=True, timeout=60)

    async def messages(stream: Stream) -> list[Message]:
        source = open_source(recording, [f"flowstream.{stream}"])
        return [each async for batch in source.batches() for each in batch]

    return Read(
        directory / "recording", sums, *(asyncio.run(messages(stream)) for stream in Stream)
    )


def blocks(language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", TEXT, re.MULTILINE | re.DOTALL)


def documented(function: str):
    """A function of the document's Python, from the block that defines it."""
    (code,) = (code for code in blocks("python") if f"\ndef {function}(" in f"\n{code}")
    names: dict[str, object] = {"__name__": "consumers"}
    exec(compile(code, str(DOCUMENT), "exec"), names)
    return names[function]


def test_every_python_block_is_run_here():
    defined = set(re.findall(r"^def (\w+)", "".join(blocks("python")), re.MULTILINE))
    assert defined == {
        *("octets_by_source", "octets_by_network", "once", "accounts", "lost"),
        *("connections", "ended", "interface_name"),
        "show",  # by test_docs.py
    }


def test_summing(read):
    octets = documented("octets_by_source")([each.value for each in read.all()])
    assert octets.pop(capture.CLOSING_SOURCE) == 28
    assert octets == read.sums.octets


def test_aggregated_records_belong_to_networks():
    make = FlowFactory()
    records = [
        make(src_addr="10.1.2.3", bytes=7),
        make(src_addr="10.1.2.3", bytes=11),
        make(src_addr="10.1.2.0", src_net=24, flow_count=5, bytes=13),
        make(src_addr="2001:db8::", src_net=48, flow_count=2, bytes=17),
        make(src_addr="0.0.0.0", src_net=0, flow_count=19, bytes=23),
    ]
    found = documented("octets_by_network")(records)
    assert {str(network): octets for network, octets in found.items()} == {
        "10.1.2.3/32": 18,
        "10.1.2.0/24": 13,
        "2001:db8::/48": 17,
        "0.0.0.0/0": 23,
    }


def test_a_bridge_receives_the_packets_of_its_port_again(tmp_path):
    url = f"file:{tmp_path}/run"
    with (
        namespace() as near,
        namespace() as far,
        veth_pair(near, far, names=("out", "port")),
    ):
        far.run("ip", "link", "add", "br0", "type", "bridge")
        far.run("ip", "link", "set", "port", "master", "br0")
        far.run("ip", "link", "set", "br0", "up")
        near.run("ip", "link", "set", "out", "arp", "on")
        for here, there, device, other, ends in (
            (near, far, "out", "br0", ("192.0.2.1", "192.0.2.2")),
            (far, near, "br0", "out", ("192.0.2.2", "192.0.2.1")),
        ):
            mac = there.run("cat", f"/sys/class/net/{other}/address").strip()
            here.run("ip", "address", "add", f"{ends[0]}/24", "dev", device)
            here.run("ip", "neigh", "add", ends[1], "lladdr", mac, "dev", device)
        bridge = ("-i", "port", "-i", "br0", "--netns", far.name)
        with Agent(*bridge, "--sink", url) as agent:
            agent.publishing()
            # Until the port forwards, only it receives them.
            near.run("ping", "-q", "-c", "1", "-w", "30", "-i", "0.2", "192.0.2.2")
            near.run("ping", "-q", "-c", "7", "-w", "30", "-i", "0.05", "192.0.2.2")
            agent.stop()
    assert min(each["flows"]["packets"] for each in audited(url)) == 8


def test_dropping_what_came_twice(read):
    once = list(documented("once")([*read.all(), *read.flows[::-1], *read.counters]))
    assert once == [decode(each.value) for each in read.all()]


def test_finding_losses(read):
    accounts = documented("accounts")
    flows = [decode(each.value) for each in read.flows]
    counters = [decode(each.value) for each in read.counters]
    ((run, *attachment),) = accounts(flows + counters)
    assert run == (flows[0].host_id, flows[0].agent_epoch)
    assert attachment == [flows[0].if_index, 0]
    key = (run, *attachment)
    assert accounts(flows + counters) == {key: (0, 0, 0, 0)}
    missing = flows.pop(17)
    assert missing.packets > 0
    assert accounts(flows + counters) == {key: (missing.packets, 0, 1, 0)}
    assert accounts(flows + [each for each in counters if not each.final]) == {}
    assert documented("lost")(counters[-1]) == {}
    # The same record in doubt: both differences are within the doubts.
    last = counters[-1]
    doubt = {"delivery_timeout": Loss(1, missing.packets, missing.l2_bytes)}
    doubtful = msgspec.structs.replace(last, in_doubt=last.in_doubt | doubt)
    assert accounts([*flows, *counters[:-1], doubtful]) == {
        key: (missing.packets, missing.packets, 1, 1)
    }
    # The same record in the spool.
    waiting = msgspec.structs.replace(
        last, spool=SpoolCounts(1, missing.packets, missing.l2_bytes, 303, 1)
    )
    assert accounts([*flows, *counters[:-1], waiting]) == {
        key: (missing.packets, missing.packets, 1, 1)
    }
    # A cause of a newer version, and nothing missing: sums over the maps stay right.
    newer = msgspec.structs.replace(
        last,
        seen_packets=last.seen_packets + 5,
        losses=last.losses | {"made_up": Loss(1, 3, 5)},
        no_flow=last.no_flow | {"made_up": Amount(2, 3)},
    )
    assert accounts([*flows, missing, *counters[:-1], newer]) == {key: (0, 0, 0, 0)}
    assert documented("lost")(newer) == {"made_up": 3}


def test_both_directions_of_a_connection(read):
    found = list(documented("connections")(f"{read.recording}"))
    lines = [
        re.fullmatch(r"(.+):(\d+) -> (.+), (\d+) packets, (\d+) back \((.+)\)", line)
        for line in found
    ]
    assert len(lines) == capture.CONNECTIONS + 1
    assert Counter(line[6] for line in lines) == {"first_packet": capture.CONNECTIONS, "none": 1}
    answers = sum(int(line[4] if line[1] == capture.SERVER else line[5]) for line in lines)
    assert answers == read.sums.packets[capture.SERVER]
    packets = sum(int(line[4]) + int(line[5]) for line in lines)
    assert packets == capture.PACKETS + 1


def test_connections_that_are_over(read):
    """In the order of the records; the last packet of the capture comes long after the others."""
    messages = sorted([*read.flows, *read.new_flows], key=lambda each: each.timestamp_ms)
    found = documented("ended")(messages)
    before = [next(found) for _ in range(capture.CONNECTIONS)]
    assert {each.time_flow_end_ns < capture.CLOSING_S * 10**9 for each in before} == {True}
    (closing,) = found
    assert (str(closing.source), closing.reverse) == (capture.CLOSING_SOURCE, None)
    sums = Counter()
    for each in before:
        sums[str(each.source)] += each.forward.packets
        sums[str(each.destination)] += each.reverse.packets
    assert sums == read.sums.packets


def test_both_directions_have_one_key_and_partition(read):
    places = {}
    for message in [*read.flows, *read.new_flows]:
        record = decode(message.value)
        ends = frozenset({(record.src_addr, record.src_port), (record.dst_addr, record.dst_port)})
        places.setdefault(ends, set()).add((message.key, message.partition))
    assert len(places) == capture.CONNECTIONS + 1
    assert {len(each) for each in places.values()} == {1}


NAMED = {"json": "JSON", "msgpack": "MessagePack", "protobuf": "Protobuf"}


def beginning(value: bytes) -> str:
    """Format by the document's table, in its order."""
    section = TEXT.partition("## Telling the formats apart")[2].partition("\n## ")[0]
    rows = re.findall(r"^\| (.*?) \| (.*?) \|", section, re.MULTILINE)[1:]
    octets = [re.findall(r"`0x(\w\w)(?: 0x(\w\w))?`", first) for first, _ in rows]
    assert octets[:2] == [[("00", "")], [("dc", "00")]]
    assert rows[2][0] == "a varint of the rest's length"
    assert rows[3][0] == "`{`"
    told = [
        value.startswith(b"\0"),
        value.startswith(b"\xdc\0"),
        any(value.startswith(varint(len(value) - n)) for n in (1, 2, 3) if len(value) >= n),
        value.startswith(b"{"),
    ]
    return rows[told.index(True)][1]


def test_the_beginning_tells_the_format(read):
    for message in read.all():
        assert beginning(message.value) == NAMED[format_of(message.value)]


@pytest.mark.parametrize("name", ["protobuf", "avro"])
def test_the_beginning_tells_binary_formats(name):
    identity = Identity(EPOCH, bytes(16), "host-a", SAMPLER)
    for encoder in (
        encoder_of(name, identity),
        make_encoder(name, identity, prefixes=PREFIXES[name]),
    ):
        for value in [*encoder.encode(random_flows(101)), encoder.encode_counters(COUNTERS)]:
            assert format_of(value) == name
            assert ("Protobuf" if name == "protobuf" else "Avro") in beginning(value)


def test_names_are_padded_in_messagepack():
    made = encoder_of("msgpack", Identity(EPOCH, bytes(16), "host-a", SAMPLER, {7: "veth7"}))
    flows = random_flows(11)
    flows["if_index"] = 7
    stamp(flows, Identity(EPOCH, bytes(16), "host-a", SAMPLER, {7: "veth7"}), 0)
    for value in made.encode(flows):
        assert msgspec.msgpack.decode(value)[24] == "veth7".ljust(15, "\0")
        assert documented("interface_name")(value) == decode(value).if_name == "veth7"


def test_jq_has_exact_texts_and_sums(tmp_path):
    sums = published(tmp_path, "json").sums
    (command,) = (code for code in blocks("sh") if "jq -s" in code)
    cat = shlex.join([*FLOWSTREAM, "cat", f"{tmp_path}/recording"])
    command = command.replace("flowstream cat recorded", cat)
    done = subprocess.run(
        ["bash", "-c", f"set -eo pipefail\n{command}"],
        check=True,
        capture_output=True,
        timeout=60,
        cwd=tmp_path,
        env=os.environ | {"PYTHONPATH": str(DOCUMENT.parents[1])},
    )
    (run,) = map(json.loads, done.stdout.splitlines())
    assert run["packets"] == sums.packets.total() + 1
    assert run["agent_epoch"] == str(capture.START_S * 10**9 // 1_024 * 1_024)


def test_the_big_integers_are_named(json_read):
    """All that a double rounds, and what is larger in other runs."""
    elsewhere = {"time_boot_ns", "previous_epoch"}
    first = "|".join((*elsewhere, "agent_epoch"))
    rows = re.findall(rf"^\| (`(?:{first})`.*?) \| ([\w, ]+) \|", TEXT, re.MULTILINE)
    named = {
        stream: {
            field
            for fields, streams in rows
            if stream in streams.split(", ")
            for field in re.findall(r"`(\w+)`", fields)
        }
        for stream in ("flows", "counters")
    }
    for stream, messages in (("flows", json_read.flows), ("counters", json_read.counters)):
        big = {
            name
            for message in messages
            for name, value in json.loads(message.value).items()
            if isinstance(value, int) and value > EXACT
        }
        assert big - elsewhere == named[stream] - elsewhere
    assert elsewhere <= named["counters"]


def test_javascript_reads_integers_exactly(json_read):
    # The others need libraries: examples/test_javascript.py runs them.
    (code,) = (code for code in blocks("javascript") if "\nfunction parse(" in code)
    harness = """
    for (const line of require("fs").readFileSync(0, "utf8").trimEnd().split("\\n")) {
      const exact = (_, value) => (typeof value === "bigint" ? `big ${value}` : value);
      console.log(JSON.stringify(parse(line), exact));
    }
    """
    values = [each.value for each in json_read.all()]
    values.append(encode(COUNTERS))
    done = subprocess.run(
        ["node", "-e", code + harness],
        input=b"\n".join(values) + b"\n",
        capture_output=True,
        check=True,
        timeout=60,
    )
    lines = done.stdout.decode().replace('"big ', "").splitlines()
    parsed = [json.loads(re.sub(r'(_epoch|_ns)":(\d+)"', r'\1":\2', line)) for line in lines]
    assert parsed == [json.loads(value) for value in values]
    # Doubles would not have done.
    rounded = [int(float(record["time_flow_end_ns"])) for record in parsed if "packets" in record]
    assert rounded != [r["time_flow_end_ns"] for r in parsed if "packets" in r]
    assert {record["record_type"] for record in parsed} == set(RecordType)
    assert parsed[-1]["previous_epoch"] == COUNTERS.previous_epoch
