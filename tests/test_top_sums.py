"""The live table's sums: bounded tables, groups, interfaces, texts and names."""

from __future__ import annotations

import threading

import msgspec
import numpy as np
import pytest
from support.records import COUNTERS

from flowstream.errors import SourceError
from flowstream.messages import Message
from flowstream.records import Loss, encode
from flowstream.testing import FlowFactory
from flowstream.top.drawing import Choice, draw, rows_that_fit
from flowstream.top.flows import Decoder
from flowstream.top.grouping import GROUPS
from flowstream.top.interfaces import MOST, Interfaces
from flowstream.top.model import MARKS, Model, Order
from flowstream.top.names import Names
from flowstream.top.printing import plain
from flowstream.top.pump import Pump
from flowstream.top.table import OTHERS, Table
from flowstream.top.texts import read_text, short, sparkline

S = 1_000_000_000


def amounts(*octets):
    """Amounts of records with so many octets, each of 1 packet."""
    ones = np.ones(len(octets), np.uint64)
    return np.array(octets, np.uint64), ones, ones, np.zeros(len(octets), np.uint64)


def sums(table):
    keys, total, late, _ = table.sums()
    return {key: (total[0, n], late[0, n]) for n, key in enumerate(keys)}


def messages(records, topic="flowstream.flows"):
    return [
        Message(topic, 0, n, 0, None, encode(each, "msgpack")) for n, each in enumerate(records)
    ]


def added(records, **settings):
    model = Model(10.0, whole=True)
    model.select(settings.get("where"), settings.get("direction"))
    model.add_flows(messages(records))
    return model.snapshot()


def rows(records, group):
    view = added(records).view(group, Order(), slice(99))
    return {GROUPS[group].text(row.key, {}): row.sums.total.packets for row in view.rows}


def test_a_table_sums_by_key_and_since_its_oldest_mark():
    table = Table(most=100, marks=2)
    table.add([b"a", b"b", b"a"], amounts(3, 5, 7))
    assert sums(table) == {OTHERS: (0, 0), b"a": (10, 10), b"b": (5, 5)}
    table.mark()
    table.add([b"a", b"c"], amounts(11, 13))
    table.mark()
    assert sums(table) == {OTHERS: (0, 0), b"a": (21, 11), b"b": (5, 0), b"c": (13, 13)}
    table.mark()
    assert sums(table)[b"a"] == (21, 0)


def test_the_smallest_keys_become_others_and_nothing_is_lost():
    table = Table(most=100, marks=10)
    table.add([b"early"], amounts(1_000_003))
    table.mark()
    keys = [n.to_bytes(4) for n in range(5_003)]
    for start in range(0, len(keys), 7):
        part = keys[start : start + 7]
        table.add(part, amounts(*range(start, start + len(part))))
        assert len(table.sums().keys) <= 201
    every = sum(range(5_003))
    found = table.sums()
    assert found.total[0].sum() == every + 1_000_003
    assert found.late[0].sum() == every + 1_000_003
    assert found.total[1].sum() == 5_004
    assert found.evicted == 5_004 - (len(found.keys) - 1)
    assert {b"early", keys[-1]} <= set(found.keys)
    # The largest of its time went when others grew larger.
    assert keys[0] not in found.keys


def test_a_key_that_is_small_in_octets_stays_for_its_new_flows():
    table = Table(most=10, marks=2)
    zeros = np.zeros(1, np.uint64)
    table.add([b"scanner"], (zeros, zeros, zeros, np.array([1_009], np.uint64)))
    for n in range(1_000):
        table.add([n.to_bytes(4)], amounts(100))
    assert b"scanner" in table.sums().keys


FLOWS = FlowFactory().batch(
    5,
    src_addr=["10.0.0.1", "10.0.0.2", "2001:db8::1", "10.1.0.0", "::ffff:10.0.0.1"],
    dst_addr=["10.0.0.2", "10.0.0.1", "2001:db8::2", "0.0.0.0", "::ffff:10.0.0.2"],
    etype=[0x0800, 0x0800, 0x86DD, 0x0800, 0x86DD],
    src_net=[32, 32, 128, 24, 128],
    dst_net=[32, 32, 128, 0, 128],
    src_port=[40_000, 443, 53, 0, 7],
    dst_port=[443, 40_000, 5_353, 0, 9],
    proto=[6, 6, 17, 58, 253],
    packets=[2, 3, 5, 7, 11],
)


@pytest.mark.parametrize(
    ("group", "expected"),
    [
        (
            "source",
            {"10.0.0.1": 2, "10.0.0.2": 3, "2001:db8::1": 5, "10.1.0.0/24": 7}
            | {"::ffff:10.0.0.1": 11},
        ),
        (
            "destination",
            {"10.0.0.2": 2, "10.0.0.1": 3, "2001:db8::2": 5, "0.0.0.0/0": 7}
            | {"::ffff:10.0.0.2": 11},
        ),
        (
            "conversation",
            {"10.0.0.1 <-> 10.0.0.2": 5, "2001:db8::1 <-> 2001:db8::2": 5}
            | {"0.0.0.0/0 <-> 10.1.0.0/24": 7, "::ffff:10.0.0.1 <-> ::ffff:10.0.0.2": 11},
        ),
        ("port", {"443/tcp": 5, "53/udp": 5, "icmpv6": 7, "7/protocol 253": 11}),
        ("protocol", {"tcp": 5, "udp": 5, "icmpv6": 7, "protocol 253": 11}),
    ],
)
def test_groups_have_the_right_keys(group, expected):
    assert rows(FLOWS, group) == expected


def test_rows_are_sorted_by_each_amount_and_reversed():
    view = added(FLOWS).view("source", Order("packets"), slice(1, 3))
    assert [row.sums.total.packets for row in view.rows] == [7, 5]
    view = added(FLOWS).view("source", Order("packets", reverse=True), slice(2))
    assert [row.sums.total.packets for row in view.rows] == [2, 3]
    assert (view.row_count, view.all.total.packets) == (5, 28)


def test_announcements_are_new_flows_and_no_records():
    flows = FlowFactory()
    announced = flows.batch(3, record_type=2)
    view = added([*flows.batch(2, packets=7), *announced]).view("source", Order(), slice(9))
    (row,) = view.rows
    assert msgspec.structs.astuple(row.sums.total) == (2 * (7 * 60 + 7 * 14), 14, 2, 3)


def test_rates_begin_at_the_oldest_mark_and_a_new_direction_begins_anew():
    model = Model(10.0, whole=False)
    model.add_flows(messages(FlowFactory().batch(3, packets=5)))
    for _ in range(MARKS):
        model.mark()
    model.add_flows(messages(FlowFactory().batch(1, packets=7, flow_direction=1)))
    view = model.snapshot().view("source", Order(), slice(9))
    assert (view.all.total.packets, view.all.late.packets) == (22, 7)
    model.select(None, 1)
    model.add_flows(messages(FlowFactory().batch(2, packets=11, flow_direction=[0, 1])))
    taken = model.take().view("source", Order(), slice(9))
    assert (taken.all.total.packets, taken.state.read) == (11, 2)
    assert model.snapshot().view("source", Order(), slice(9)).rows == []


def test_values_that_are_no_flow_records_are_left_out_and_counted():
    decoder = Decoder()
    bad = Message("flowstream.flows", 4, 17, 0, None, b"{}")
    counters = Message("flowstream.flows", 5, 7, 0, None, encode(COUNTERS, "msgpack"))
    flows = decoder([bad, *messages(FlowFactory().batch(3)), counters])
    assert (len(flows), decoder.bad) == (3, 2)
    assert decoder.first_bad.startswith("topic flowstream.flows, partition 4, offset 17: ")


def test_every_format_gives_the_same_columns():
    records = FlowFactory().batch(7, packets=range(7))
    by_layout = Decoder()(messages(records))
    for name in ("json", "protobuf"):
        values = FlowFactory().values(records, name)
        found = Decoder()([Message("t", 0, 0, 0, None, value) for value in values])
        assert found.tobytes() == by_layout.tobytes()


def counters(seq, second, packets, *, lost=0, **changes):
    losses = {"overflow_lost": Loss(lost, lost, 100 * lost), "shutdown": Loss(0, 0, 0)}
    return msgspec.structs.replace(
        COUNTERS,
        seq=seq,
        time_unix_ns=second * S,
        seen_packets=packets,
        seen_l2_bytes=100 * packets,
        losses=losses,
        **{"final": False} | changes,
    )


def test_rates_of_an_interface_are_those_of_the_latest_time():
    interfaces = Interfaces(2.0, whole=False)
    for second, packets in enumerate((0, 1_000, 1_010, 1_020, 1_040)):
        interfaces.add(counters(second, second, packets))
    interfaces.add(counters(0, 0, 0))
    (found,) = interfaces.read()
    assert (found.host, found.interface, found.netns) == ("host-a", "eth0", "pid:4177")
    assert (found.packets_per_s, found.octets_per_s) == (15.0, 1_500.0)
    assert found.rates == [100_000.0, 1_000.0, 1_000.0, 2_000.0]
    assert (found.seen.packets, found.losing) == (1_040, False)


def test_losses_grow_and_are_summed_over_runs():
    interfaces = Interfaces(10.0, whole=True)
    interfaces.add(counters(0, 0, 10, lost=3))
    interfaces.add(counters(1, 5, 20, lost=5))
    interfaces.add(counters(0, 9, 100, lost=7, agent_epoch=COUNTERS.agent_epoch + 1_024))
    (found,) = interfaces.read()
    assert found.losses["overflow_lost"] == Loss(12, 12, 1_200)
    assert (found.lost.packets, found.seen.packets) == (12, 120)
    # Of the last run nothing grew yet; a rate takes two records.
    assert (found.losing, found.octets_per_s) == (False, None)
    interfaces.add(counters(1, 10, 101, lost=8, agent_epoch=COUNTERS.agent_epoch + 1_024))
    (found,) = interfaces.read()
    assert (found.losing, found.octets_per_s) == (True, 100.0)


def test_names_in_counters_are_made_printable():
    model = Model(10.0, whole=False)
    evil = "evil\x1b[2J\u202e"
    lost = {evil: Loss(7, 7, 7)}
    record = counters(0, 0, 9, host=evil, netns=evil)
    record = msgspec.structs.replace(record, losses=lost)
    model.add_counters(messages([record]))
    model.notes = [evil]
    view = model.snapshot().view("source", Order(), slice(9))
    text = plain(view, evil, "source")
    assert text.replace("\n", "").isprintable()
    assert text.count("evil\\x1b[2J\\u202e") == 5


def test_the_number_of_interfaces_is_bounded():
    interfaces = Interfaces(10.0, whole=False)
    for index in range(1, MOST + 18):
        interfaces.add(counters(0, 0, 1, if_index=index, if_name=f"eth{index}"))
    assert len(interfaces.read()) == MOST
    assert interfaces.left_out == 17


@pytest.mark.parametrize(
    ("number", "text"),
    [
        *((None, "-"), (0, "0"), (0.25, "0.2"), (999, "999"), (999.6, "1.00k"), (1_234, "1.23k")),
        *((12_345, "12.3k"), (99_960, "100k"), (123_456, "123k"), (999_999, "1.00M")),
        *((1.5e9, "1.50G"), (2**64, "18.4E")),
    ],
)
def test_numbers_have_three_digits(number, text):
    assert short(number) == text


def test_a_sparkline_shows_the_latest_rates():
    assert sparkline([9, 0, 1, 2, 7], 4) == "▁▂▃█"
    assert sparkline([0, 0], 5) == "▁▁"
    assert sparkline([], 5) == sparkline([1.0], -3) == ""


class Lists:
    """A feed of some lists of messages, as fast as they are taken."""

    is_certain = True
    warnings = ("of the feed",)

    def __init__(self, *lists):
        self._lists = lists

    def run(self, take):
        for each in self._lists:
            take(each)

    def stop(self):
        pass


@pytest.mark.parametrize("exact", [False, True])
def test_lists_that_come_too_fast_are_skipped_and_told(exact):
    """While the sums are held the queue fills, as on a slow machine; counters are all read."""
    model = Model(10.0, whole=exact)
    flows = [messages(FlowFactory().batch(7)) for _ in range(100)]
    last = messages([counters(0, 0, 1_009)], "flowstream.counters")
    pump = Pump(Lists(*flows, last), model, exact=exact)
    with model._lock:
        pump.start()
        if not exact:
            # One list is being added, 16 wait, of which the counters are not the last.
            eventually(lambda: model.skipped >= 7 * (100 - 17))
    assert pump.ended.wait(60)
    pump.raise_error()
    pump.note()
    state = model.snapshot().state
    assert state.read + state.skipped == 700
    assert (state.skipped > 0) == state.skipping == (not exact)
    assert read_text(state) == ("" if exact else f"{state.read / 7:.1f} % of records read")
    assert state.interfaces[0].seen.packets == 1_009
    assert "of the feed" in state.notes


def test_an_error_of_a_feed_is_raised_after_what_came_before():
    def failing():
        yield messages(FlowFactory().batch(7))
        raise SourceError("it broke")

    model = Model(10.0, whole=True)
    feed = Lists()
    feed._lists = failing()
    pump = Pump(feed, model, exact=True)
    pump.start()
    assert pump.ended.wait(60)
    with pytest.raises(SourceError, match=r"^it broke$"):
        pump.raise_error()
    assert model.snapshot().state.read == 7


def eventually(true):
    assert any(true() or threading.Event().wait(0.01) for _ in range(3_000))


def test_names_are_asked_once_and_made_printable():
    asked = []

    def lookup(address):
        asked.append(address)
        if address == "10.0.0.2":
            raise OSError("no such name")
        return "evil\x1b[2J\u202e.example" + "x" * 300

    names = Names(lookup)
    eventually(lambda: names.of(["10.0.0.1", "10.0.0.2"]))
    eventually(lambda: len(asked) == 2)
    (name,) = names.of(["10.0.0.1", "10.0.0.2"]).values()
    assert name.startswith("evil\\x1b[2J\\u202e.example")
    assert len(name) == 253
    assert sorted(asked) == ["10.0.0.1", "10.0.0.2"]


def test_the_hosts_resolver_knows_this_host():
    names = Names()
    eventually(lambda: names.of(["127.0.0.1"]))
    assert names.of(["127.0.0.1"])["127.0.0.1"].startswith("localhost")


def test_a_resolver_that_does_not_answer_holds_nothing_up():
    answer = threading.Event()
    names = Names(lambda _: str(answer.wait(60)))
    many = [f"10.0.{n // 256}.{n % 256}" for n in range(6_007)]
    assert names.of(many) == {}
    answer.set()


@pytest.mark.parametrize(("width", "height"), [(40, 9), (80, 23), (200, 59), (1, 1), (20, 3)])
def test_a_screen_fits_its_terminal(width, height):
    model = Model(10.0, whole=False)
    for index in range(1, 32):
        model.add_counters(messages([counters(0, 0, 1, if_index=index, host=f"host-{index}")]))
    model.add_flows(messages(FlowFactory().batch(300, src_port=range(1_000, 1_300))))
    view = model.snapshot().view("port", Order(), slice(rows_that_fit(height, 31)))
    lines = draw(view, Choice("kafka://10.0.0.1:9092", "port"), {}, width, height)
    assert len(lines) <= height
    assert max(sum(len(text) for text, _ in line) for line in lines) <= width
