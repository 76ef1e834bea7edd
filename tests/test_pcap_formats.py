"""Captures in every format of records, with the options that belong to formats."""

from __future__ import annotations

import ipaddress
import json
import re
import shutil
from typing import TYPE_CHECKING, Any, NamedTuple

import msgspec
import pytest
from packets import captures
from packets.pcap_files import pcap
from support.pcap_runs import Published, Runner, packets
from test_binary_formats import from_avro, message_class, unsized
from test_community_id import expected as reference_id

from flowstream import schemas
from flowstream.cli.main import main
from flowstream.records import CountersRecord, FlowRecord
from flowstream.streams import Stream

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from support.registry import Registry


@pytest.fixture
def run(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Runner:
    return Runner(tmp_path, capsys)


class Form(NamedTuple):
    """How values are written: format, names and the prefix of a registry."""

    format: str
    names: str = "goflow2"
    prefix: bytes = b""

    def options(self, registry: Registry) -> list[str]:
        """The options that select it."""
        url = ["--registry", registry.url] if self.prefix else []
        return ["--format", self.format, "--names", self.names, *url]


# A registry's first schema is that of the flows: a zero, its number in 4 octets.
FORMS = [
    *(Form("json", names) for names in ("goflow2", "ecs", "netobserv")),
    Form("msgpack"),
    Form("protobuf"),
    Form("protobuf", prefix=b"\0\0\0\0\1\0"),
    Form("avro", prefix=b"\0\0\0\0\1"),
]


class Row(NamedTuple):
    """Fields of a flow record under any name; the addresses are text."""

    seq: int
    src_addr: str
    dst_addr: str
    proto: int
    src_port: int
    dst_port: int
    packets: int
    bytes: int
    l2_bytes: int
    community_id: str


def row_of(fields: Mapping[str, Any]) -> Row:
    """Of fields with this project's names."""
    found = {"community_id": "", **fields}
    return Row(*(found[name] for name in Row._fields))


def ecs(value: dict[str, Any]) -> Row:
    network, source, destination = value["network"], value["source"], value["destination"]
    return Row(
        *(value["event"]["sequence"], source["ip"], destination["ip"]),
        *(int(network["iana_number"]), source["port"], destination["port"]),
        *(network["packets"], network["bytes"], value["flowstream"]["l2_bytes"]),
        network.get("community_id", ""),
    )


def netobserv(value: dict[str, Any]) -> Row:
    names = ("Seq", "SrcAddr", "DstAddr", "Proto", "SrcPort", "DstPort")
    sums = ("Packets", "IpBytes", "Bytes")
    return Row(*(value[name] for name in (*names, *sums)), value.get("CommunityId", ""))


BY_NAMES = {"goflow2": row_of, "ecs": ecs, "netobserv": netobserv}


def fields_of(form: Form, value: bytes, stream: Stream) -> dict[str, Any]:
    """Fields of a binary value, as the format's own library reads it."""
    match form.format:
        case "avro":
            return from_avro(value, stream)
        case "protobuf":
            name = "FlowMessage" if stream is Stream.FLOWS else "CountersMessage"
            message = message_class(schemas.text("protobuf", stream), f"flowstream.{name}")
            read = message.FromString(value if form.prefix else unsized(value))
            return {field.name: getattr(read, field.name) for field in message.DESCRIPTOR.fields}
        case _:
            record = CountersRecord if stream is Stream.COUNTERS else FlowRecord
            names = record.__struct_fields__
            return dict(zip(names, msgspec.msgpack.decode(value), strict=True))


def rows(form: Form, done: Published) -> list[Row]:
    """The published flows in their order, read without this project's decoder."""
    values = [message.value for message in done.recording.messages("flowstream.flows")]
    assert {value[: len(form.prefix)] for value in values} == {form.prefix}
    if form.format == "json":
        return [BY_NAMES[form.names](json.loads(value)) for value in values]
    found = []
    for value in values:
        fields = fields_of(form, value[len(form.prefix) :], Stream.FLOWS)
        for name in ("src_addr", "dst_addr"):
            # Text in Avro, 4 or 16 octets in Protobuf, 16 in MessagePack.
            address = ipaddress.ip_address(fields[name])
            fields[name] = str(getattr(address, "ipv4_mapped", None) or address)
        found.append(row_of(fields))
    return found


def received(form: Form, done: Published) -> list[tuple[int, int, bool]]:
    """Packets and octets of each interface by its counters, and whether these are the last."""
    found = []
    for message in done.recording.messages("flowstream.counters"):
        if form.format == "json":
            fields = json.loads(message.value)
        else:
            fields = fields_of(form, message.value[len(form.prefix) :], Stream.COUNTERS)
        found.append((fields["seen_packets"], fields["seen_l2_bytes"], fields["final"]))
    return found


@pytest.mark.parametrize(
    ("form", "community_id"),
    [
        pytest.param(form, with_id, id="-".join(map(str, (*form, with_id))))
        for form in FORMS
        for with_id in (False, True)
        if not (form.format == "msgpack" and with_id)
    ],
)
def test_every_form_has_the_same_records_every_time(
    run: Runner, registry: Registry, form: Form, community_id: bool, tmp_path: Path
) -> None:
    path = captures.TRACES / "cisco-fabric-path.pcap"
    again = tmp_path / "again.pcap"
    shutil.copy(path, again)
    options = ["--interval", "1", *(["--community-id"] if community_id else [])]
    plain = run(path, again, options=options)
    first, second = (
        run(
            path,
            again,
            options=[*options, *form.options(registry)],
            audited=form.names == "goflow2",
        )
        for _ in range(2)
    )
    assert (first.status, first.error) == (0, "")
    assert first.recording.messages() == second.recording.messages()
    expected = rows(FORMS[0], plain)
    assert rows(form, first) == expected
    assert received(form, first) == received(FORMS[0], plain)
    assert len(expected) > 100
    assert [row.community_id for row in expected] == [
        reference_id(
            *(flow.etype, flow.proto, flow.src_addr, flow.dst_addr, flow.src_port, flow.dst_port),
            *(flow.icmp_type, flow.icmp_code),
        )
        if community_id
        else ""
        for flow in plain.flows
    ]


@pytest.mark.parametrize(
    "options",
    [
        "--format avro",
        "--format avro --sink stdout:",
        "--format avro --sink stdout: --registry http://here:8081",
        "--format avro --registry http://here:8081 --names ecs",
        "--format msgpack --names ecs",
        "--format msgpack --registry http://here:8081",
        "--format protobuf --names netobserv",
        "--format protobuf --sink stdout:",
        "--format xml",
        "--names flowstream",
        "--registry http://here:8081",
        "--registry here:8081",
    ],
)
def test_mistakes_are_those_of_run(capsys: pytest.CaptureFixture[str], options: str) -> None:
    said = []
    for command in (["run", "-i", "none0"], ["pcap", "none.pcap"]):
        assert main([*command, *options.split()]) == 2
        said.append(capsys.readouterr().err)
    assert said[0] == said[1]
    assert re.fullmatch(r"flowstream: error: (--)?(format|names|registry): [^\n]+\n", said[0])


def test_no_registry_no_recording(run: Runner) -> None:
    options = ["--format", "avro", "--registry", "http://user:secret@127.0.0.1:1"]
    done = run(pcap(packets(1)), options=options)
    assert done.status == 1
    expected = "flowstream: error: registry http://127.0.0.1:1: cannot be used: "
    assert done.error.startswith(expected)
    assert not done.recording.path.exists()
