"""The documents match the program: options, fields, causes, commands, files and links."""

from __future__ import annotations

import ast
import asyncio
import re
import shlex
import tomllib
from typing import get_type_hints

import numpy as np
import pytest
from faults.suite import FAULTS
from support.documents import DOCUMENTS, TOP, arguments_of, blocks, commands
from support.records import COUNTERS, EPOCH, SAMPLER, flow_records

from flowstream.accounting import terms
from flowstream.accounting.identity import Identity
from flowstream.cli import main as command_line
from flowstream.config.run import OPTIONS
from flowstream.config.source import ConfigSource
from flowstream.encode import make_encoder, stamp
from flowstream.errors import DecodeError
from flowstream.layouts.flow import FLOW_RECORD
from flowstream.messages import Message
from flowstream.records import CountersRecord, FlowRecord
from flowstream.records.describe import named_fields
from flowstream.records.json_form import FlowJson
from flowstream.testing.replayed import DoubleTopics
from tools import reference

CONSUMERS = TOP / "docs" / "consumers.md"
RECORDS = (TOP / "docs" / "records.md").read_text(encoding="utf-8")
OPERATIONS = (TOP / "docs" / "operations.md").read_text(encoding="utf-8")
LOGS = (TOP / "docs" / "reference" / "logs.md").read_text(encoding="utf-8")
UNIT = TOP / "packaging" / "systemd" / "flowstream.service"
RELIABILITY = TOP / "docs" / "reliability.md"

LEVELS = ("debug", "info", "warning", "error", "exception")
TREES = [
    ast.parse(path.read_text(encoding="utf-8")) for path in (TOP / "flowstream").rglob("*.py")
]
WIDTHS = {"u8": 1, "u16": 2, "u32": 4, "u64": 8}
"""Octets of the integers in docs/records.md."""


def section(text: str, heading: str) -> str:
    """The text between a heading and the next one."""
    assert f"\n{heading}\n" in text
    return re.split(r"\n#", text.split(f"\n{heading}\n", 1)[1], maxsplit=1)[0]


def table(text: str) -> list[list[str]]:
    """Cells of the first table in ``text``, without its head."""
    lines = re.search(r"(?:^\|.*\n)+", text, re.MULTILINE)
    assert lines
    return [
        [cell.strip() for cell in line.strip("|").split("|")] for line in lines[0].splitlines()[2:]
    ]


def calls() -> list[str]:
    """Arguments of every call of flowstream in the documents' shell blocks and in the unit."""
    lines = [line for block in blocks("sh") for line in commands(block.text)]
    lines += re.findall(r"^ExecStart=(.*)$", UNIT.read_text(encoding="utf-8"), re.MULTILINE)
    found = (shlex.join(call) for line in lines for call in arguments_of(line))
    return sorted({call for call in found if not call.startswith("--")})


def test_the_reference_is_the_programs():
    assert {path.name for path in reference.pages(TOP / "docs")} >= {
        "commands.md",
        "configuration.md",
        "metrics.md",
    }
    assert reference.outdated(TOP / "docs") == [], "run .venv/bin/python -m tools.reference"


def test_flow_record_fields_stand_in_their_order():
    names = [row[0].strip("`") for row in table(section(RECORDS, "## Flow record"))]
    assert names == list(FlowRecord.__struct_fields__)


def test_fields_of_named_formats_stand_in_their_places():
    _, after = section(RECORDS, "## Flow record").split("\n\nJSON, Protobuf and Avro, whose", 1)
    rows = {row[0].strip("`"): row for row in table(after)}
    assert rows.pop("sequence_num")[1:3] == ["", "Protobuf"]
    names = list(FlowJson.__struct_fields__)
    assert set(names) - set(FlowRecord.__struct_fields__) == set(rows)
    described = {field.name: field.description for field in named_fields(FlowRecord)}
    for name, (_, after_which, formats, _, ipfix) in rows.items():
        assert names[names.index(name) - 1] == after_which.strip("`")
        assert formats == "JSON, Protobuf, Avro"
        said = re.search(r"\(IPFIX ([\d, ]+)\)", described[name])
        assert ipfix == (said[1] if said else "")


@pytest.mark.parametrize("row", table(section(RECORDS, "## Flow record")), ids=lambda row: row[0])
def test_a_flow_record_field_is_the_layouts(row):
    name, wire, at = row[0].strip("`"), row[1], row[2]
    dtype, offset = FLOW_RECORD.fields[name][:2]
    octets = WIDTHS.get(wire) or int(re.search(r"(\d+) octets", wire)[1])
    assert (octets, int(at)) == (dtype.itemsize, offset)
    assert (dtype.subdtype is None) == (wire in WIDTHS)


@pytest.mark.parametrize("row", table(section(RECORDS, "## Flow record")), ids=lambda row: row[0])
def test_a_flow_record_field_names_its_ipfix_element(row):
    described = flow_record_description(row[0].strip("`"))
    said = re.search(r"\(IPFIX ([\d, ]+)\)", described)
    assert row[5] == (said[1] if said else "")


def flow_record_description(name: str) -> str:
    """The description of a field in the Struct."""
    hint = get_type_hints(FlowRecord, include_extras=True)[name]
    (text,) = [meta.description for meta in hint.__metadata__ if meta.description]
    return text


def test_counters_record_fields_stand_in_their_order():
    names = [row[0].strip("`") for row in table(section(RECORDS, "## Counters record"))]
    assert names == list(CountersRecord.__struct_fields__)


def test_the_length_of_a_value_is_right():
    assert f"always {FLOW_RECORD.itemsize} octets" in RECORDS
    count = int(flow_records(1)["array_fields"][0])
    assert f"as big-endian u16 ({count})" in RECORDS


@pytest.mark.parametrize(
    ("heading", "known"),
    [
        ("### Reasons for no flow", terms.NO_FLOW),
        ("### Causes of loss", terms.LOSSES),
        ("### Records in doubt", terms.IN_DOUBT),
    ],
)
def test_every_term_of_the_loss_equation_is_documented(heading, known):
    documented = [row[0].strip("`") for row in table(section(RECORDS, heading))]
    assert documented == list(known)


def first_column(text: str) -> list[str]:
    """Code spans in the first column of the first table in ``text``."""
    return [span for row in table(text) for span in re.findall(r"`([^`]+)`", row[0])]


def test_every_logged_event_is_documented():
    nodes = [node for tree in TREES for node in ast.walk(tree)]
    texts = {node.value for node in nodes if isinstance(node, ast.Constant)}
    logged = {
        node.args[0].value
        for node in nodes
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute)
        if getattr(node.func.value, "id", "") == "log" and node.func.attr in LEVELS
        if isinstance(node.args[0], ast.Constant)
    }
    documented = set(first_column(LOGS))
    assert logged - documented == set()
    # Some events are logged by way of a variable.
    assert documented - texts == set()


def test_every_exit_status_is_documented():
    page = (TOP / "docs" / "reference" / "exit-status.md").read_text(encoding="utf-8")
    documented = {code for row in table(page) for code in re.findall(r"\d+", row[0])}
    _, _, statuses = command_line.make_parser().epilog.partition("exit status:\n")
    assert documented == set(re.findall(r"(?:^  |; )(\d+) ", statuses, re.MULTILINE))


@pytest.mark.parametrize("record_format", ["json", "msgpack"])
def test_the_documented_consumer_reads_a_topic(record_format, capsys):
    (code,) = (
        text
        for document, _, text in blocks("python")
        if document == CONSUMERS and "AIOKafkaConsumer" in text
    )
    names: dict[str, object] = {"__name__": "consumer"}
    exec(compile(code, str(CONSUMERS), "exec"), names)
    records = flow_records(1, etype=0x0800, src_port=1031, dst_port=53, packets=13, if_index=3)
    records["record_type"] = records["schema_version"] = 1
    for end, last in (("src_addr", 1), ("dst_addr", 2)):
        records[end][0] = np.frombuffer(bytes(10) + b"\xff\xff\x0a\0\0" + bytes([last]), np.uint8)
    identity = Identity(EPOCH, bytes(16), "host-a", SAMPLER, {3: "eth0"})
    stamp(records, identity, 0)
    encoder = make_encoder(record_format, identity)
    values = (*encoder.encode(records), encoder.encode_counters(COUNTERS), b"no record")
    messages = [Message("flowstream.flows", 0, 0, 0, None, value) for value in values]
    names["AIOKafkaConsumer"] = DoubleTopics(messages, {}).consumer
    with pytest.raises(DecodeError, match=r"^flowstream\.flows, partition 0, offset 2: not a"):
        asyncio.run(names["main"]())
    assert capsys.readouterr().out == "10.0.0.1 1031 -> 10.0.0.2 53 13\n"


def test_there_are_commands():
    assert len(calls()) > 50


@pytest.mark.parametrize("call", calls())
def test_a_command_is_one(call):
    args = vars(command_line.make_parser().parse_args(shlex.split(call)))
    for field in OPTIONS if args["name"] == "run" else ():
        if args.get(field) not in (None, False):
            OPTIONS[field].parse(args[field])


@pytest.mark.parametrize("block", [block.text for block in blocks("toml")])
def test_a_configuration_is_one(block, tmp_path, monkeypatch):
    monkeypatch.setenv("KAFKA_PASSWORD", "a password")
    file = tmp_path / "flowstream.toml"
    (tmp_path / "password").write_text("a password\n", encoding="utf-8")
    file.write_text(block.replace("/etc/flowstream/password", f"{tmp_path}/password"), "utf-8")
    assert ConfigSource({}, file).config.interfaces == tuple(
        tomllib.loads(block).get("interface", ())
    )


def anchor(heading: str) -> str:
    """The anchor that a heading has where Markdown is shown."""
    return re.sub(r"[^\w\- ]", "", heading.strip().lower()).replace(" ", "-")


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: str(path.relative_to(TOP)))
def test_links_lead_somewhere(document):
    text = document.read_text(encoding="utf-8")
    for target in re.findall(r"\]\(([^)]+)\)", text):
        if "://" in target:
            continue
        path, _, name = target.partition("#")
        there = (document.parent / path).resolve() if path else document
        assert there.exists(), target
        if name:
            headings = re.findall(r"^#+ (.*)$", there.read_text(encoding="utf-8"), re.MULTILINE)
            assert name in map(anchor, headings), target


def names_in(path) -> set[str]:
    """Names of the tests in a file; of tests/faults, the faults."""
    if path.is_dir():
        return {fault.name for fault in FAULTS}
    tree = ast.parse(path.read_text(encoding="utf-8"))
    functions = (ast.FunctionDef, ast.AsyncFunctionDef)
    return {node.name for node in ast.walk(tree) if isinstance(node, functions)}


def promises() -> list[list[str]]:
    """Rows of the tables of reliability.md: a sentence, and its tests."""
    lines = RELIABILITY.read_text(encoding="utf-8").splitlines()
    rows = [line.strip("| ").split(" | ") for line in lines if line.startswith("| ")]
    return [row for row in rows if row[1] != "shown by"]


@pytest.mark.parametrize("row", promises(), ids=lambda row: row[0])
def test_a_promise_has_its_tests(row):
    promise, shown = row
    assert promise.endswith(".")
    tests = re.findall(r"`(tests/[\w./]+): ([^`]+)`", shown)
    assert ", ".join(f"`{file}: {name}`" for file, name in tests) == shown
    assert [name for file, name in tests if name not in names_in(TOP / file)] == []


def test_the_container_has_the_capabilities_of_a_start_as_root():
    compose = (TOP / "compose" / "compose.yaml").read_text(encoding="utf-8")
    given = re.search(r"cap_add:\n((?:\s+- \w+.*\n)+)", compose)
    assert given
    rows = table(section(OPERATIONS, "## Privileges"))
    needed = {name for row in rows for name in re.findall(r"CAP_(\w+)", row[1])}
    assert set(re.findall(r"- (\w+)", given[1])) == needed - {"SYS_ADMIN", "SYS_PTRACE"}


def test_every_kernel_source_names_its_licence():
    line = "/* SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause) */\n"
    for path in (TOP / "bpf").rglob("*.[ch]"):
        assert path.read_text(encoding="utf-8").startswith(line), path


def test_libraries_of_the_agent_are_installed_by_make_setup_and_in_the_image():
    (row,) = re.findall(r"^\| libraries \|.*", OPERATIONS, re.MULTILINE)
    packages = re.findall(r"Debian: `([^`]+)`", row)
    assert packages == ["libbpf1", "libseccomp2", "libpcap0.8"]
    makefile = (TOP / "Makefile").read_text(encoding="utf-8")
    (line,) = re.findall(r"^RUN_PACKAGES := (.*)", makefile, re.MULTILINE)
    assert set(packages) <= set(line.split())
    dockerfile = (TOP / "Dockerfile").read_text(encoding="utf-8")
    (image,) = re.findall(
        r"install -y --no-install-recommends (libbpf1 .* python3 .*)", dockerfile
    )
    assert set(packages) <= set(image.split())
