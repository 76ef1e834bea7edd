"""record and replay: selected and anonymised records, one file, other names and targets."""

from __future__ import annotations

import asyncio
import ipaddress
import json
import subprocess
import sys
import zipfile

import msgspec
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from support.published import FLOWS, NAMES, Published, publish
from support.records import COUNTERS
from test_cat import write
from yacryptopan import CryptoPAn

from flowstream.audit import audit
from flowstream.cli.main import main
from flowstream.encode import counters_key, partition_keys
from flowstream.layouts.flow import FLOW_RECORD
from flowstream.messages import Message
from flowstream.reading import read
from flowstream.recording.anonymise import Anonymiser
from flowstream.records import CountersRecord, FlowRecord, community_id, decode, encode
from flowstream.records.decoding import flow_extras, format_of
from flowstream.source import open_source
from flowstream.streams import Stream

FORMATS = ["json", "msgpack", "protobuf", "avro"]
TOPICS = [f"flowstream.{stream}" for stream in Stream]


@pytest.fixture(params=FORMATS)
def run(request, tmp_path):
    """Recording of a run in a network namespace, in each format."""
    published = Published(request.param)
    for number in range(len(published.counters)):
        published.change_counters(number, netns="pid:4177")
    asyncio.run(publish(f"file:{tmp_path}/run", request.param, published))
    return tmp_path / "run"


@pytest.fixture
def plain(tmp_path):
    asyncio.run(publish(f"file:{tmp_path}/run", "msgpack", Published("msgpack")))
    return tmp_path / "run"


def messages(url, topics=()) -> list[Message]:
    async def run():
        source = open_source(str(url), topics)
        return [message async for batch in source.batches() for message in batch]

    return asyncio.run(run())


def records(url, topics=TOPICS):
    return list(read(str(url), topic=topics))


def test_recording_of_a_recording_is_the_same(plain, tmp_path, capsys):
    assert main(["record", str(plain), "--to", str(tmp_path / "copy")]) == 0
    assert capsys.readouterr().out == f"46 messages of {plain} recorded in {tmp_path}/copy\n"
    assert messages(tmp_path / "copy") == messages(plain)
    assert main(["record", str(plain), "--to", str(tmp_path / "copy")]) == 1
    assert "already contains topic" in capsys.readouterr().err


def test_one_file_is_read_by_every_command(plain, tmp_path, capsys):
    file = tmp_path / "run.fsrec"
    assert main(["record", str(plain), "--to", str(file)]) == 0
    assert sorted(path.name for path in tmp_path.iterdir()) == ["run", "run.fsrec"]
    assert messages(file) == messages(plain)
    assert asyncio.run(open_source(str(file), []).sizes()) == asyncio.run(
        open_source(str(plain), []).sizes()
    )
    assert file.stat().st_size < sum(p.stat().st_size for p in plain.rglob("*.log"))
    assert main(["audit", str(file)]) == 0
    assert main(["cat", str(file)]) == 0
    assert capsys.readouterr().out.count("holds: ") == 1
    assert main(["replay", str(file), "--to", f"file:{tmp_path}/again"]) == 0
    assert messages(tmp_path / "again") == messages(plain)
    # Any unzip makes the directory.
    zipfile.ZipFile(file).extractall(tmp_path / "unzipped")
    assert messages(tmp_path / "unzipped") == messages(plain)
    capsys.readouterr()
    assert main(["record", str(plain), "--to", str(file)]) == 1
    assert "exists already; record to another file" in capsys.readouterr().err


def test_file_that_cannot_be_made_leaves_nothing(plain, tmp_path, capsys):
    missing = tmp_path / "none" / "run.fsrec"
    assert main(["record", str(plain), "--to", str(missing)]) == 1
    assert "No such file or directory" in capsys.readouterr().err
    where = ["--where", "dst_port == 443"]
    broken = tmp_path / "broken"
    write(broken, [b"no record"])
    assert main(["record", str(broken), "--to", str(tmp_path / "a.fsrec"), *where]) == 1
    assert "topic flowstream.flows, partition 0, offset 0: not a record" in capsys.readouterr().err
    assert not (tmp_path / "a.fsrec").exists()


@pytest.mark.parametrize(
    ("names", "says"),
    [
        (["../outside"], "not a recording: it contains '../outside'"),
        (["t-0/../../x"], "not a recording: it contains"),
        (["/etc/x"], "not a recording: it contains"),
        (["t-0/00000000000000000000.log", "readme"], "not a recording: it contains 'readme'"),
        ([], "no topic t in this recording"),
    ],
)
def test_other_archives_are_refused(tmp_path, capsys, names, says):
    with zipfile.ZipFile(tmp_path / "a.fsrec", "w") as archive:
        for name in names:
            archive.writestr(name, b"")
    assert main(["cat", str(tmp_path / "a.fsrec"), "--topic", "t"]) == 1
    assert says in capsys.readouterr().err
    assert [path.name for path in tmp_path.iterdir()] == ["a.fsrec"]


def test_archive_that_would_fill_the_disk_is_refused(tmp_path, capsys):
    file = tmp_path / "a.fsrec"
    with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("t-0/00000000000000000000.log", bytes(30_000_000))
    assert file.stat().st_size < 100_000
    assert main(["cat", str(file), "--topic", "t"]) == 1
    assert "not a recording: it unpacks to more than 100 times its size" in capsys.readouterr().err


def test_damaged_file_is_an_error_of_one_line(plain, tmp_path, capsys):
    file = tmp_path / "run.fsrec"
    assert main(["record", str(plain), "--to", str(file)]) == 0
    whole = file.read_bytes()
    capsys.readouterr()
    for octets in (b"", b"text", whole[:-9], whole[: len(whole) // 2], whole[:200] + b"\xff" * 50):
        file.write_bytes(octets)
        assert main(["cat", str(file)]) == 1
        err = capsys.readouterr().err
        assert err.startswith(f"flowstream: error: {file}: ")
        assert err.count("\n") == 1


def test_selected_records_are_recorded(run, tmp_path):
    half = sorted(r.packets for r in records(run, TOPICS[0]))[FLOWS // 2]
    where = f'packets >= {half} or record_type == "counters"'
    to = tmp_path / "some"
    command = ["record", str(run), "--to", str(to), "--where", where]
    assert main(command) == 0
    expected = [m for m in messages(run, [TOPICS[0]]) if decode(m.value).packets >= half]
    found = messages(to, [TOPICS[0]])
    assert [(m.partition, m.timestamp_ms, m.key, m.value) for m in found] == [
        (m.partition, m.timestamp_ms, m.key, m.value) for m in expected
    ]
    # Partitions are kept, also those that are empty now.
    assert {
        topic: len(n) for topic, n in asyncio.run(open_source(str(to), []).sizes()).items()
    } == dict.fromkeys(TOPICS, 5)
    few = ["record", str(run), "--to", str(tmp_path / "few"), "--max", "7", "--topic", TOPICS[0]]
    assert main(few) == 0
    assert len(messages(tmp_path / "few")) == 7


def test_anonymised_run_is_audited_as_before(run, tmp_path, capsys):
    (tmp_path / "key").write_bytes(b"k" * 32)
    options = ["--anonymise", "--anonymise-key", str(tmp_path / "key")]
    assert main(["record", str(run), "--to", str(tmp_path / "anon"), *options]) == 0
    before, after = asyncio.run(audit(str(run))), asyncio.run(audit(str(tmp_path / "anon")))
    assert after.holds
    assert after.runs[0].interfaces[0].flows == before.runs[0].interfaces[0].flows
    old, new = messages(run, TOPICS), messages(tmp_path / "anon", TOPICS)
    assert [format_of(m.value) for m in new] == [format_of(m.value) for m in old]
    everything = b"".join(m.value + (m.key or b"") for m in new)
    for secret in (b"host-a", b"pid:4177", *map(str.encode, NAMES.values()), bytes(range(16))):
        assert secret not in everything
        assert secret.hex().encode() not in everything
    for one, other in zip(old, new, strict=True):
        _check(decode(one.value), decode(other.value), other)
    # The same key gives the same names.
    assert main(["record", str(run), "--to", str(tmp_path / "again"), *options]) == 0
    assert messages(tmp_path / "again") == messages(tmp_path / "anon")
    assert main(["record", str(run), "--to", str(tmp_path / "other"), "--anonymise"]) == 0
    assert messages(tmp_path / "other") != messages(tmp_path / "anon")


def _check(old, new, message):
    same = {"host_id", "sampler_address", "if_name", "src_addr", "dst_addr", "src_mac", "dst_mac"}
    for name in set(type(old).__struct_fields__) - same - {"host", "netns"}:
        assert getattr(new, name) == getattr(old, name)
    assert new.host_id != old.host_id
    assert new.if_name.startswith("if-")
    if isinstance(new, CountersRecord):
        assert new.host.startswith("host-")
        assert new.netns.startswith("netns-")
        assert message.key in (b"", counters_key(new))
        return
    assert isinstance(old, FlowRecord)
    assert isinstance(new, FlowRecord)
    assert new.source.version == old.source.version
    columns = np.frombuffer(encode(new, "msgpack"), FLOW_RECORD)
    assert message.key == partition_keys(columns)[0].tobytes()


KEY = b"k" * 32


def test_the_agents_own_namespace_stays_without_a_name():
    own = msgspec.structs.replace(COUNTERS, netns="")
    message = Message("flowstream.counters", 0, 0, 0, b"", encode(own), ())
    assert decode(Anonymiser(KEY).message(message).value).netns == ""


@given(
    one=st.binary(min_size=4, max_size=4),
    length=st.integers(0, 32),
    rest=st.integers(0, 2**32 - 1),
)
def test_common_prefixes_stay(one, length, rest):
    anonymiser = Anonymiser(KEY)
    mask = (1 << 32 - length) - 1
    other = int.from_bytes(one) & ~mask | rest & mask
    mapped = bytes(10) + b"\xff\xff"
    new = [
        int.from_bytes(anonymiser._address(mapped + octets, 0x0800, 32)[12:])
        for octets in (one, other.to_bytes(4))
    ]
    assert (new[0] ^ new[1]).bit_length() == (int.from_bytes(one) ^ other).bit_length()


def test_addresses_are_those_of_crypto_pan():
    """By the vectors of the method's first implementation."""
    pan = CryptoPAn(bytes(range(32)))
    assert pan.anonymize("192.0.2.1") == "2.90.93.17"
    anonymiser = Anonymiser(KEY)
    pan = CryptoPAn(anonymiser._key)
    mapped = bytes(10) + b"\xff\xff"
    found = anonymiser._address(mapped + bytes([192, 0, 2, 1]), 0x0800, 32)
    assert str(ipaddress.ip_address(found[12:])) == pan.anonymize("192.0.2.1")
    v6 = ipaddress.ip_address("2001:db8::1")
    found = anonymiser._address(v6.packed, 0x86DD, 128)
    assert ipaddress.ip_address(found) == ipaddress.ip_address(pan.anonymize(str(v6)))
    # An aggregated record's network stays one.
    assert anonymiser._address(mapped + bytes([10, 1, 2, 0]), 0x0800, 24)[15] == 0


def test_community_id_is_that_of_the_new_addresses():
    from support.records import encoder_of, random_flows

    published = Published("json")
    (value,) = encoder_of("json", published.identity, community_id=True).encode(random_flows(1))
    message = Message("flowstream.flows", 0, 0, 0, b"key", value, (("secret", b"host-a"),))
    changed = Anonymiser(KEY).message(message)
    assert flow_extras(changed.value)[1] == community_id(decode(changed.value))
    assert flow_extras(changed.value)[1] != flow_extras(value)[1]
    assert changed.headers == ()


@pytest.mark.parametrize(
    ("options", "says"),
    [
        (["--anonymise", "--anonymise-key", "none"], "--anonymise-key none: No such file"),
        (["--anonymise", "--anonymise-key", "short"], "3 octets are too few; write a secret by"),
        (["--anonymise-key", "short"], "--anonymise-key: needs --anonymise"),
    ],
)
def test_mistakes_about_the_key(plain, tmp_path, monkeypatch, capsys, options, says):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "short").write_bytes(b"abc")
    assert main(["record", str(plain), "--to", "to", *options]) == 2
    assert says in capsys.readouterr().err
    assert not (tmp_path / "to").exists()


def test_replay_under_another_name(plain, tmp_path, broker, capsys):
    prefix = f"renamed-{tmp_path.name}"
    rename = ["--rename", f"flowstream={prefix}"]
    assert main(["replay", str(plain), "--to", broker.url, *rename]) == 0
    assert f"{prefix}.counters" in capsys.readouterr().out
    topics = [f"{prefix}.{stream}" for stream in Stream]
    # There is order within a partition only.
    key = lambda m: (m.topic, m.partition, m.offset)  # noqa: E731
    found = sorted(messages(broker.url, topics), key=key)
    expected = [m._replace(topic=m.topic.replace("flowstream", prefix)) for m in messages(plain)]
    assert found == sorted(expected, key=key)
    assert asyncio.run(audit(broker.url, prefix)).holds

    one = ["--topic", TOPICS[0], "--rename", f"{TOPICS[0]}=other"]
    assert main(["replay", str(plain), "--to", f"file:{tmp_path}/one", *one]) == 0
    assert asyncio.run(open_source(f"{tmp_path}/one", []).sizes()).keys() == {"other"}
    capsys.readouterr()
    for wrong, says in (("none=x", "rename: no topic none among"), ("a", "is not OLD=NEW")):
        assert main(["replay", str(plain), "--to", broker.url, "--rename", wrong]) == 2
        assert says in capsys.readouterr().err


def test_replay_to_a_pipe_gives_json_lines(run):
    command = [sys.executable, "-m", "flowstream", "replay", str(run), "--to", "stdout:"]
    done = subprocess.run(command, capture_output=True, check=True, timeout=60)
    lines = done.stdout.splitlines()
    assert sorted(decode(line).seq for line in lines) == sorted(r.seq for r in records(run))
    assert all(json.loads(line)["agent_epoch"] for line in lines)
    assert done.stderr.startswith(b"46 messages of flowstream.")
