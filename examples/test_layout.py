"""The decoders in schemas/ for C, Go, Rust and TypeScript: compiled, and compared with ours."""

from __future__ import annotations

import json
import os
import shutil
import struct
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from broker import Broker
from support import agent, capture

from flowstream.schemas.layout import document
from flowstream.testing.factory import FlowFactory

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from flowstream.records import FlowRecord

TOP = Path(__file__).parent.parent
SUMS = TOP / "examples" / "layout"
CACHE = TOP / ".cache" / "go"
FIELDS = document()["fields"]
U8, U16, U32, U64 = 0xFF, 0xFFFF, 0xFFFF_FFFF, 0x7FFF_FFFF_FFFF_FFFF
HIGHEST: dict[str, Any] = {
    **dict.fromkeys(("agent_epoch", "seq", "packets", "bytes", "l2_bytes"), U64),
    **dict.fromkeys(("time_received_ns", "time_flow_start_ns", "time_flow_end_ns"), U64),
    **dict.fromkeys(("etype", "src_port", "dst_port", "vlan_id"), U16),
    **dict.fromkeys(("if_index", "flow_count", "sampling_rate"), U32),
    **dict.fromkeys(("proto", "icmp_type", "icmp_code", "tcp_flags", "ip_tos", "ip_ttl"), U8),
    **dict.fromkeys(("src_net", "dst_net"), 128),
    **dict.fromkeys(("host_id", "sampler_address", "src_addr", "dst_addr"), b"\xff" * 16),
    **dict.fromkeys(("src_mac", "dst_mac"), b"\xff" * 6),
    "record_type": 2,
    "if_name": "fifteen-octets0",
    "end_reason": U8,
    "flow_direction": 1,
}

# A program that prints each field of each value in a line, octets in hexadecimal; a value
# that is refused is a line with the reason.
DUMPS = {
    "c": (
        r"""#include <stdio.h>
#include "flowstream.h"
static void hex(const uint8_t *octets, size_t count) {
	while (count--) printf("%02x", *octets++);
	puts("");
}
int main(void) {
	static uint8_t value[65536];
	uint8_t length[4];
	struct flowstream_flow flow;
	while (fread(length, 4, 1, stdin) == 1) {
		size_t octets = flowstream_number(length, 0, 4);
		fread(value, 1, octets, stdin);
		switch (flowstream_decode(value, octets, &flow)) {
		case FLOWSTREAM_NOT_A_FLOW: puts("not a flow"); continue;
		case FLOWSTREAM_OTHER_VERSION: puts("other version"); continue;
		case FLOWSTREAM_OK: break;
		}
@FIELDS@
	}
}
""",
        {
            "octets": "hex(flow.@, sizeof(flow.@));",
            "text": "puts(flow.@);",
            "": 'printf("%llu\\n", (unsigned long long)flow.@);',
        },
    ),
    "go": (
        r"""package main

import (
	"bufio"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"os"

	flowstream "flowstream/schemas/go"
)

func main() {
	reader := bufio.NewReader(os.Stdin)
	var length uint32
	for binary.Read(reader, binary.BigEndian, &length) == nil {
		value := make([]byte, length)
		io.ReadFull(reader, value)
		flow, err := flowstream.Decode(value)
		if errors.Is(err, flowstream.ErrNotAFlow) {
			fmt.Println("not a flow")
			continue
		}
		if errors.Is(err, flowstream.ErrSchemaVersion) {
			fmt.Println("other version")
			continue
		}
@FIELDS@
	}
}
""",
        {
            "octets": 'fmt.Printf("%x\\n", flow.@)',
            "text": "fmt.Println(flow.@)",
            "": "fmt.Println(flow.@)",
        },
    ),
    "rust": (
        r"""use std::io::Read;
#[path = "@TOP@/schemas/rust/flowstream.rs"]
mod flowstream;
fn hex(octets: &[u8]) -> String {
    octets.iter().map(|octet| format!("{:02x}", octet)).collect()
}
fn main() {
    let mut input = std::io::stdin().lock();
    let mut length = [0; 4];
    while input.read_exact(&mut length).is_ok() {
        let mut value = vec![0; u32::from_be_bytes(length) as usize];
        input.read_exact(&mut value).unwrap();
        let flow = match flowstream::decode(&value) {
            Err(flowstream::Error::NotAFlow) => { println!("not a flow"); continue; }
            Err(flowstream::Error::SchemaVersion(_)) => { println!("other version"); continue; }
            Ok(flow) => flow,
        };
@FIELDS@
    }
}
""",
        {
            "octets": 'println!("{}", hex(&flow.@));',
            "text": 'println!("{}", flow.@);',
            "": 'println!("{}", flow.@);',
        },
    ),
    "typescript": (
        r"""import { Flow, decode } from "./flowstream";
declare const require: (module: "fs") => { readFileSync(descriptor: number): Uint8Array };
const hex = (octets: Uint8Array) =>
  Array.from(octets, (octet) => octet.toString(16).padStart(2, "0")).join("");
const input = require("fs").readFileSync(0);
const lengths = new DataView(input.buffer, input.byteOffset, input.byteLength);
for (let position = 0; position < input.length; ) {
  const begin = position + 4;
  position = begin + lengths.getUint32(position);
  let flow: Flow;
  try {
    flow = decode(input.subarray(begin, position));
  } catch (error) {
    console.log(error instanceof RangeError ? "other version" : "not a flow");
    continue;
  }
@FIELDS@
}
""",
        {
            "octets": "console.log(hex(flow.@));",
            "text": "console.log(flow.@);",
            "": "console.log(flow.@.toString());",
        },
    ),
}
SUFFIXES = {"c": "c", "go": "go", "python": "py", "rust": "rs", "typescript": "ts"}
LANGUAGES = tuple(DUMPS)


def dump(language: str) -> str:
    text, prints = DUMPS[language]
    lines = []
    for field in FIELDS:
        name = field["name"]
        if language == "go":
            name = "".join(word.capitalize() for word in name.split("_"))
        lines.append(prints.get(field["type"], prints[""]).replace("@", name))
    return text.replace("@FIELDS@", "\n".join(lines)).replace("@TOP@", str(TOP))


def compiled(language: str, source: Path, to: Path) -> tuple[str | Path, ...]:
    """Compile a program and return the command that runs it."""
    program = to / "program"
    match language:
        case "python":
            return (sys.executable, source)
        case "c":
            checks = ("-std=c11", "-O2", "-Wall", "-Wextra", "-Werror", "-Wno-unused-result")
            build(f"gcc {' '.join(checks)} -I {TOP}/schemas/c -o {program} {source}")
        case "go":
            build(f"{Path(sys.executable).parent}/go build -o {program} .", cwd=source.parent)
        case "rust":
            build(f"rustc -O -D warnings --edition 2021 -o {program} {source}")
        case "typescript":
            options = f"--strict --target es2020 --module commonjs --rootDir / --outDir {to}/built"
            build(f"tsc {options} {source}")
            return ("node", f"{to}/built{source.with_suffix('.js')}")
    return (program,)


def build(command: str, cwd: Path | None = None) -> None:
    # Nothing of a user's settings may choose another Go.
    settings = {
        "GOTOOLCHAIN": "local",
        "GOFLAGS": "-mod=readonly -modcacherw",
        "GOPATH": str(CACHE / "path"),
        "GOCACHE": str(CACHE / "build"),
    }
    done = subprocess.run(
        command.split(),
        cwd=cwd,
        env=os.environ | settings,
        capture_output=True,
        text=True,
        check=False,
        timeout=300,
    )
    assert done.returncode == 0, done.stdout + done.stderr


def framed(values: Iterable[bytes]) -> bytes:
    """Values behind their lengths, as kcat writes them by %R%s."""
    return b"".join(struct.pack(">I", len(value)) + value for value in values)


def text_of(record: FlowRecord) -> list[str]:
    """Lines that a dump prints of a record."""
    values = [getattr(record, field["name"]) for field in FIELDS]
    return [value.hex() if isinstance(value, bytes) else str(value) for value in values]


@pytest.mark.timeout(400)
@pytest.mark.parametrize("language", LANGUAGES)
def test_every_field_and_every_refusal(language: str, tmp_path: Path) -> None:
    source = tmp_path / f"dump.{SUFFIXES[language]}"
    source.write_text(dump(language), encoding="utf-8")
    (tmp_path / "go.mod").write_text(
        "module dump\n\ngo 1.23.0\n\nrequire flowstream/schemas/go v0.0.0\n\n"
        f"replace flowstream/schemas/go => {TOP}/schemas/go\n",
        encoding="utf-8",
    )
    # JavaScript knows no path to look for modules of one's own.
    shutil.copy(TOP / "schemas" / "typescript" / "flowstream.ts", tmp_path)
    command = compiled(language, source, tmp_path)
    factory = FlowFactory()
    lowest = {
        name: 0 if isinstance(value, int) else type(value)()
        for name, value in HIGHEST.items()
        if not isinstance(value, bytes)
    } | {"record_type": 1}
    records = [factory(), factory(**HIGHEST), factory(**lowest), factory(src_addr="2001:db8::1")]
    values = factory.values(records, "msgpack")
    good = values[0]
    # The same record with a field more at its end, as a later version may have it.
    longer = good[:1] + struct.pack(">H", len(FIELDS) + 1) + good[3:] + b"\xc0"
    refused = {
        b"": "not a flow",
        good[:-1]: "not a flow",
        factory.values(records[:1], "json")[0]: "not a flow",
        factory.values(records[:1], "protobuf")[0]: "not a flow",
        good[:1] + struct.pack(">H", len(FIELDS) - 1) + good[3:]: "not a flow",
        good[:4] + b"\x03" + good[5:]: "not a flow",
        good[:3] + b"\x03" + good[4:]: "not a flow",
        good[:6] + b"\x02" + good[7:]: "other version",
    }
    stdin = framed([*values, longer, *refused])
    done = subprocess.run(command, input=stdin, capture_output=True, check=False, timeout=60)
    assert done.returncode == 0, done.stderr
    expected = [line for record in (*records, records[0]) for line in text_of(record)]
    assert done.stdout.decode().splitlines() == [*expected, *refused.values()]


class Recorded:
    """A recording of a capture in MessagePack, replayed to a broker, and its sums."""

    def __init__(self, directory: Path, broker: Broker) -> None:
        file, recording = directory / "captured.pcap", directory / "recording"
        self.octets = capture.write(file).octets.total()
        flowstream = [*agent.FLOWSTREAM]
        publish = ("pcap", file, "--sink", f"file:{recording}", "--format", "msgpack")
        for command in (publish, ("replay", recording, "--to", broker.url)):
            subprocess.run([*flowstream, *command], check=True, capture_output=True, timeout=60)
        (self.interface,) = agent.audited(f"file:{recording}")
        self.records = len(agent.records_of(f"file:{recording}", "flowstream.flows"))
        kcat = ("kcat", "-C", "-q", "-e", "-b", broker.address, "-t", "flowstream.flows")
        read = subprocess.run([*kcat, "-f", "%R%s"], check=True, capture_output=True, timeout=60)
        self.values = read.stdout


@pytest.fixture(scope="module")
def recorded(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Recorded]:
    with Broker({"log.retention.ms": "-1"}) as broker:
        yield Recorded(tmp_path_factory.mktemp("recorded"), broker)


@pytest.mark.timeout(400)
@pytest.mark.parametrize("language", SUFFIXES)
def test_sums_are_those_of_the_audit(language: str, recorded: Recorded, tmp_path: Path) -> None:
    directory = SUMS / "go" if language == "go" else SUMS
    command = compiled(language, directory / f"sum.{SUFFIXES[language]}", tmp_path)
    done = subprocess.run(
        command, input=recorded.values, capture_output=True, check=False, timeout=60
    )
    assert done.returncode == 0, done.stderr
    sums = json.loads(done.stdout)
    flows = recorded.interface["flows"]
    assert {name: sums[name] for name in ("packets", "l2_bytes")} == flows
    assert sums["records"] == recorded.records
    # The capture's closing packet has an IP header, a UDP header and nothing else.
    assert sums["bytes"] == recorded.octets + 28
    # A value that is cut is no sum.
    cut = subprocess.run(
        command, input=recorded.values[:-1], capture_output=True, check=False, timeout=60
    )
    assert cut.returncode != 0
    assert cut.stdout == b""
