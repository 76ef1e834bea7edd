"""The spool: batches come back whole and in order, once, also from an earlier run."""

from __future__ import annotations

import dataclasses
import zlib

import numpy as np
import pytest
from support.outcomes import TIMESTAMP_MS, make_batch
from support.published import FLOWS, PARTITIONS, Published
from support.spools import (
    EPOCH,
    TOPIC,
    amounts,
    append,
    drain,
    files,
    filled,
    flows,
    log_of,
    numbers,
    opened,
    tally_of,
    unread,
)

from flowstream.accounting.amounts import RecordAmount
from flowstream.accounting.attachment_key import AttachmentKey
from flowstream.accounting.tally import Tally
from flowstream.cli.main import main
from flowstream.messages import MessageBatch
from flowstream.segments.retention import Retention
from flowstream.segments.settled import Settled
from flowstream.segments.spool import Spool
from flowstream.segments.spooled import Place, Waiting
from flowstream.segments.tallies import pack_tally, unpack_tally
from flowstream.streams import Stream


@pytest.mark.parametrize("compression", ["none", "gzip", "snappy", "lz4", "zstd"])
def test_a_batch_comes_back_as_it_was(tmp_path, compression):
    spool = opened(tmp_path, compression=compression)
    first = flows(0, 1009)
    second = dataclasses.replace(
        flows(1009, 3, 2),
        keys=[b"k", None, b""],
        values=[b"v" * 100, None, b""],
        headers=[(("h", b"x"), ("n", None)), (), ()],
    )
    append(spool, first)
    assert spool.append(second, EPOCH + 1_024, in_doubt=True) == (3, None)
    got = spool.read()
    assert got is not None
    assert (got.agent_epoch, got.in_doubt, got.place) == (EPOCH, False, Place(TOPIC, 0, 0))
    assert got.amounts == amounts(range(1009))
    compare(got.batch, first)
    got = spool.read()
    assert got is not None
    assert (got.agent_epoch, got.in_doubt) == (EPOCH + 1_024, True)
    assert got.place == Place(TOPIC, 2, 0)
    compare(got.batch, second)
    assert spool.read() is None


def compare(got, sent):
    assert (got.topic, got.partition, got.stream) == (sent.topic, sent.partition, sent.stream)
    assert got.timestamps_ms == list(sent.timestamps_ms)
    assert got.keys == list(sent.keys)
    assert got.values == list(sent.values)
    assert list(got.headers) == list(sent.headers)
    for name in ("attachments", "packets", "l2_bytes"):
        ours, theirs = getattr(got.tally, name), getattr(sent.tally, name)
        assert ours.dtype == np.uint64
        assert ours.tolist() == theirs.tolist()


def test_a_large_batch_becomes_several(tmp_path):
    spool = opened(tmp_path)
    append(spool, flows(0, 3001, size=500))
    found = unread(spool)
    assert [len(each.batch) for each in found] == [1010, 1010, 981]
    assert numbers(found) == list(range(3001))
    assert spool.records == 3001


def test_batches_of_no_run_have_no_tally(tmp_path):
    spool = opened(tmp_path)
    append(spool, make_batch(TOPIC, 1, 0, 7))
    got = spool.read()
    assert (got.batch.stream, got.batch.tally, got.amounts) == (None, None, {})


def test_all_partitions_are_read_in_the_order_of_their_times(tmp_path):
    spool = opened(tmp_path)
    for n in range(12):
        append(spool, flows(n * 10, 10, n % 3))
    assert numbers(unread(spool)) == list(range(120))


def test_what_is_appended_while_it_is_read_is_read_too(tmp_path):
    spool = opened(tmp_path, segment_bytes=30_000)
    got = []
    for n in range(23):
        append(spool, flows(n * 100, 100))
        if n % 3 == 2:
            got += numbers(unread(spool))
    got += numbers(unread(spool))
    assert got == list(range(2300))


def test_waiting_amounts_are_those_of_each_run_stream_and_attachment(tmp_path):
    spool = opened(tmp_path)
    append(spool, flows(0, 101))
    append(spool, flows(101, 13, 1), epoch=7 * 1_024)
    announcements = dataclasses.replace(
        flows(114, 5, 2), stream=Stream.NEW_FLOWS, tally=Tally.empty(5)
    )
    append(spool, announcements)
    expected = {
        **{Waiting(EPOCH, Stream.FLOWS, key): each for key, each in amounts(range(101)).items()},
        **{
            Waiting(7 * 1_024, Stream.FLOWS, key): each
            for key, each in amounts(range(101, 114)).items()
        },
        Waiting(EPOCH, Stream.NEW_FLOWS, AttachmentKey(0, 0)): RecordAmount(5, 0, 0),
    }
    assert (spool.records, spool.amounts) == (119, expected)
    assert spool.oldest_ms == TIMESTAMP_MS
    on_disk = sum((tmp_path / name).stat().st_size for name in files(tmp_path))
    assert spool.octets == on_disk
    spool.close()
    spool = opened(tmp_path)
    assert (spool.records, spool.amounts) == (119, expected)
    assert (spool.oldest_ms, spool.octets) == (TIMESTAMP_MS, on_disk)
    drain(spool)
    assert (spool.records, spool.amounts, spool.octets, spool.oldest_ms) == (0, {}, 0, None)


def test_the_next_run_reads_what_was_not_acknowledged(tmp_path):
    spool = opened(tmp_path)
    for n in range(10):
        append(spool, flows(n * 10, 10, n % 3))
    found = unread(spool)
    for each in found[:4] + found[7:8]:
        spool.acknowledge(each)
    assert spool.records == 50
    spool.save({EPOCH: [b"counters", b"of two"]})
    spool.close()
    spool = opened(tmp_path)
    assert spool.runs == {EPOCH: [b"counters", b"of two"]}
    assert spool.records == 50
    assert numbers(unread(spool)) == [*range(40, 70), *range(80, 100)]
    assert spool.gone() == []


def test_what_was_acknowledged_after_the_checkpoint_is_repeated(tmp_path):
    spool = opened(tmp_path)
    for n in range(4):
        append(spool, flows(n * 10, 10))
    for _ in range(2):
        spool.acknowledge(spool.read())
    spool.save()
    spool.acknowledge(spool.read())
    spool.close()
    assert numbers(unread(opened(tmp_path))) == list(range(20, 40))


def test_a_new_run_reads_again_what_has_no_outcome(tmp_path):
    with opened(tmp_path, segment_bytes=5_000) as spool:
        for n in range(10):
            append(spool, flows(n * 10, 10, n % 2))
        _, second, *_ = unread(spool)
        spool.acknowledge(second)
        spool.save()
    with opened(tmp_path) as spool:
        first, third, *_ = again = unread(spool)
        assert numbers(again) == [*range(10), *range(20, 100)]
        spool.acknowledge(first)
        assert spool.records == 80
        spool.acknowledge(third)
        assert spool.records == 70


def test_segments_whose_records_are_published_are_deleted(tmp_path):
    spool = opened(tmp_path, segment_bytes=5_000)
    for n in range(10):
        append(spool, flows(n * 20, 20))
    assert len(files(tmp_path)) == 20
    found = unread(spool)
    # Not before everything before it is published too.
    for each in found[2:]:
        spool.acknowledge(each)
    spool.save()
    assert len(files(tmp_path)) == 20
    spool.acknowledge(found[0])
    spool.save()
    assert len(files(tmp_path)) == 18
    spool.acknowledge(found[1])
    spool.save()
    assert files(tmp_path) == []
    # Offsets go on, in this run and the next.
    append(spool, flows(200, 20))
    spool.close()
    spool = opened(tmp_path)
    append(spool, flows(220, 20))
    assert files(tmp_path, ".log") == [f"{TOPIC}-0/{200:020}.log", f"{TOPIC}-0/{220:020}.log"]
    assert drain(spool) == list(range(200, 240))


def test_partitions_of_another_run_are_drained_too(tmp_path):
    spool = Spool(tmp_path, retention=Retention())
    spool.open({"other.flows": 7})
    batch = dataclasses.replace(flows(0, 10), topic="other.flows", partition=6)
    append(spool, batch)
    spool.close()
    assert drain(opened(tmp_path)) == list(range(10))


def test_a_crash_between_checkpoint_and_deletion(tmp_path):
    filled(tmp_path, *[20] * 5, segment_bytes=5_000)
    kept = {name: (tmp_path / name).read_bytes() for name in files(tmp_path)}
    spool = opened(tmp_path)
    assert drain(spool) == list(range(100))
    spool.close()
    for name, data in kept.items():
        (tmp_path / name).write_bytes(data)
    spool = opened(tmp_path)
    assert (spool.records, spool.read(), spool.gone()) == (0, None, [])
    spool.save()
    assert files(tmp_path) == []


def test_a_crash_between_deletion_and_checkpoint(tmp_path):
    """Files of published records go before the checkpoint says so."""
    filled(tmp_path, *[20] * 5, segment_bytes=5_000)
    log_of(tmp_path, 0).unlink()
    log_of(tmp_path, 20).unlink()
    tally_of(tmp_path, 20).unlink()
    spool = opened(tmp_path)
    assert spool.gone() == []
    assert drain(spool) == list(range(40, 100))


def test_a_missing_checkpoint_repeats_and_loses_nothing(tmp_path):
    spool = opened(tmp_path)
    for n in range(5):
        append(spool, flows(n * 20, 20))
    for _ in range(3):
        spool.acknowledge(spool.read())
    spool.save()
    spool.close()
    (tmp_path / "checkpoint").unlink()
    spool = opened(tmp_path)
    assert drain(spool) == list(range(100))
    assert spool.gone() == []


def test_an_empty_batch_is_nothing(tmp_path):
    spool = opened(tmp_path)
    append(spool, flows(0, 0))
    assert (files(tmp_path), spool.records, spool.read()) == ([], 0, None)


def test_tallies_take_few_octets():
    """The sidecar is a tenth of the segment at most; so is its cost."""
    rng = np.random.default_rng(7)
    packets = rng.integers(1, 1_000, 700).astype(np.uint64)
    tally = Tally(np.full(700, 6, np.uint64), packets, packets * np.uint64(613))
    assert len(pack_tally(tally)) < 6 * 700


@pytest.mark.parametrize("largest", [0, 1, 255, 256, 65_536, 2**32, 2**64 - 1])
def test_a_tally_of_any_width_comes_back(largest):
    column = np.array([0, largest, largest // 2], np.uint64)
    constant = np.full(3, largest, np.uint64)
    packed = pack_tally(Tally(constant, column, constant))
    got = unpack_tally(packed, 3, zlib.crc32(packed))
    assert got.attachments.tolist() == got.l2_bytes.tolist() == [largest] * 3
    assert got.packets.tolist() == column.tolist()


@pytest.mark.parametrize("records", [0, 1, 2, 4, 9_999])
def test_a_tally_of_another_number_of_records_is_refused(records):
    column = np.array([1, 2, 3], np.uint64)
    packed = pack_tally(Tally(column, column, column))
    with pytest.raises(ValueError, match="tally"):
        unpack_tally(packed, records, zlib.crc32(packed))


def test_settled_offsets_are_ranges():
    settled = Settled()
    for begin, end in [(10, 20), (30, 40), (20, 25), (50, 50), (24, 31)]:
        settled.add(begin, end)
    assert (settled.next, settled.beyond, settled.end) == (0, [(10, 40)], 40)
    assert settled.open_parts(5, 45) == [(5, 10), (40, 45)]
    assert settled.covers(10, 40)
    assert not settled.covers(39, 41)
    settled.add(0, 10)
    assert (settled.next, settled.beyond) == (40, [])


def test_every_tool_reads_a_spool(tmp_path, capfd):
    """Also while it is written: sidecars and checkpoint are none of their business."""
    published = Published("msgpack")
    spool = Spool(tmp_path / "spool", retention=Retention())
    topics = [f"flowstream.{name}" for name in Stream]
    spool.open(dict.fromkeys(topics, PARTITIONS))
    for message in published.messages():
        append(spool, MessageBatch.copy_of([message]))
    spool.save()
    url = f"file:{tmp_path}/spool"
    assert main(["audit", url]) == 0
    assert "Every packet is accounted for." in capfd.readouterr().out
    assert main(["cat", url]) == 0
    lines = capfd.readouterr().out
    assert lines.count("\n") == FLOWS
    record = ["record", url, "--to", f"{tmp_path}/copy", "--topic", TOPIC]
    assert main(record) == 0
    replay = ["replay", f"{tmp_path}/spool", "--to", f"file:{tmp_path}/again", "--speed", "max"]
    assert main(replay) == 0
    capfd.readouterr()
    for copy in ("copy", "again"):
        assert main(["cat", f"{tmp_path}/{copy}"]) == 0
        assert sorted(capfd.readouterr().out.splitlines()) == sorted(lines.splitlines())
    spool.close()
