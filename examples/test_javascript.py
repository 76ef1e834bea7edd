"""The JavaScript of docs/consumers.md that needs libraries, on every format's values."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from support.records import EPOCH, PREFIXES, SAMPLER, random_flows

from flowstream.accounting.identity import Identity
from flowstream.encode import make_encoder
from flowstream.encode.stamp import stamp
from flowstream.records import decode, to_dict

TOP = Path(__file__).parent.parent
TEXT = (TOP / "docs" / "consumers.md").read_text(encoding="utf-8")
LIBRARIES = TOP / ".cache" / "node" / "node_modules"
COUNT = 101
HARNESS = """
for (const line of require("fs").readFileSync(0, "utf8").trimEnd().split("\\n")) {
  const record = reader(Buffer.from(line, "hex"));
  const exact = (_, value) =>
    typeof value === "bigint" ? `big ${value}` :
    value && value.type === "Buffer" ? Buffer.from(value.data).toString("hex") : value;
  console.log(JSON.stringify(record, exact));
}
"""
BYTES = "Uint8Array.prototype.toJSON = function () { return Buffer.from(this).toString('hex'); };"


def block(text: str) -> str:
    """The one block of JavaScript with this text."""
    (found,) = (
        code
        for code in re.findall(r"^```javascript\n(.*?)^```", TEXT, re.MULTILINE | re.DOTALL)
        if text in code
    )
    return found


def values(record_format: str) -> list[bytes]:
    identity = Identity(EPOCH, bytes(range(16)), "host-a", SAMPLER, {7: "veth7"})
    flows = random_flows(COUNT)
    flows["if_index"] = 7
    flows["time_flow_start_ns"] = EPOCH + 1_009 * np.arange(COUNT)
    stamp(flows, identity, 0)
    encoder = make_encoder(record_format, identity, prefixes=PREFIXES.get(record_format))
    return encoder.encode(flows)


def read(code: str, given: list[bytes], directory: Path) -> subprocess.CompletedProcess[str]:
    for name in ("flows.layout.json", "flows.avsc"):
        shutil.copy(TOP / "schemas" / name, directory)
    return subprocess.run(
        ["node", "-e", f"{BYTES}\n{code}\n{HARNESS}"],
        input="\n".join(value.hex() for value in given) + "\n",
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
        cwd=directory,
        env=os.environ | {"NODE_PATH": str(LIBRARIES)},
    )


def rows(done: subprocess.CompletedProcess[str]) -> list[dict[str, Any]]:
    """Records, with integers of both kinds as integers."""
    assert done.returncode == 0, done.stderr
    exact = re.sub(r'"big (-?\d+)"', r"\1", done.stdout)
    return [json.loads(line) for line in exact.splitlines()]


def expected(value: bytes) -> dict[str, Any]:
    """A value's fields by Python, octets as hex digits."""
    record = decode(value)
    return {
        name: each.hex() if isinstance(each := getattr(record, name), bytes) else each
        for name in record.__struct_fields__
    }


def test_messagepack(tmp_path: Path) -> None:
    given = values("msgpack")
    found = rows(read(f"{block('useBigInt64')}\nconst reader = unpack;", given, tmp_path))
    assert found == [expected(value) for value in given]
    assert {record["if_name"] for record in found} == {"veth7"}
    # A field of a later version, at the end: 35 elements.
    later = [b"\xdc\x00\x23" + value[3:] + b"\x07" for value in given]
    reader = f"{block('useBigInt64')}\nconst reader = unpack;"
    assert rows(read(reader, later, tmp_path)) == found


def test_messagepack_without_big_integers_is_rounded(tmp_path: Path) -> None:
    given = values("msgpack")
    code = block("useBigInt64").replace("{ useBigInt64: true }", "")
    found = rows(read(f"{code}\nconst reader = unpack;", given, tmp_path))
    wrong = [
        name
        for record, value in zip(found, given, strict=True)
        for name, exact in expected(value).items()
        if record[name] != exact
    ]
    assert "time_flow_start_ns" in wrong


AVRO = """
const reader = avroReader(JSON.parse(require("fs").readFileSync("flows.avsc", "utf8")));
"""


def test_avro(tmp_path: Path) -> None:
    given = values("avro")
    found = rows(read(block("avroReader") + AVRO, given, tmp_path))
    wanted = [to_dict(decode(value)) for value in given]
    assert len(found) == COUNT
    for record, fields in zip(found, wanted, strict=True):
        assert {name: record[name] for name in fields if name != "host"} == {
            name: each for name, each in fields.items() if name != "host"
        }
        assert record["host"] == "host-a"


def test_avro_without_the_type_is_an_error(tmp_path: Path) -> None:
    code = block("avroReader").replace(", { registry: { long } }", "")
    done = read(code + AVRO, values("avro"), tmp_path)
    assert done.returncode != 0
    assert "potential precision loss" in done.stderr


@pytest.mark.parametrize("text", ["useBigInt64", "avroReader", "function parse("])
def test_every_block_is_run(text: str) -> None:
    """The third one by tests/test_docs_consumers.py: it needs no library."""
    assert block(text)
    assert len(re.findall(r"^```javascript$", TEXT, re.MULTILINE)) == 3
