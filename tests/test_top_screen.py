"""flowstream top in a terminal: what it shows, its keys, its sizes and its end."""

from __future__ import annotations

import asyncio
import re
import signal
from pathlib import Path

import msgspec
import pytest
from support.agent import FLOWSTREAM
from support.outcomes import Account
from support.records import COUNTERS
from support.terminal import Terminal
from support.traffic import wait_until

from flowstream.messages import MessageBatch
from flowstream.records import Loss, encode
from flowstream.segments.sink import SegmentSink
from flowstream.testing import FlowFactory

TOPICS = ("flowstream.flows", "flowstream.new_flows", "flowstream.counters")
SECOND = 1_000_000_000
BEGIN = 1_700_000_000 * SECOND
LOST = {"overflow_lost": Loss(5, 1_009, 60_540), "delivery_timeout": Loss(0, 0, 0)}


def batch(topic, values):
    return MessageBatch(topic, 0, [0] * len(values), [b"key"] * len(values), values)


@pytest.fixture(scope="module")
def recording(tmp_path_factory) -> Path:
    """10 s: 10.0.0.1 has most octets, 10.0.0.2 most packets, 10.0.0.3 most new flows."""
    flows = FlowFactory()
    common = {"time_flow_start_ns": BEGIN, "time_flow_end_ns": BEGIN + 10 * SECOND}
    records = [
        flows(src_addr="10.0.0.1", packets=100, l2_bytes=100_000, **common),
        flows(src_addr="10.0.0.2", packets=1_000, l2_bytes=60_000, proto=17, **common),
        flows(src_addr="10.0.0.3", packets=10, l2_bytes=600, flow_direction=1, **common),
        *flows.batch(20, src_addr=[f"10.9.0.{n}" for n in range(20)], l2_bytes=60, **common),
    ]
    announced = flows.batch(50, src_addr="10.0.0.3", record_type=2, **common)
    counters = [
        msgspec.structs.replace(
            COUNTERS,
            seq=n,
            time_unix_ns=BEGIN + n * SECOND,
            seen_packets=1_000 * n,
            seen_l2_bytes=1_000_000 * n,
            losses=LOST if n else dict.fromkeys(LOST, Loss(0, 0, 0)),
            netns="",
            flow_direction=0,
        )
        for n in range(11)
    ]
    directory = tmp_path_factory.mktemp("top") / "run"
    values = {
        "flowstream.flows": flows.values(records, "msgpack"),
        "flowstream.new_flows": flows.values(announced, "msgpack"),
        "flowstream.counters": [encode(each, "json") for each in counters],
    }

    async def write():
        sink = SegmentSink(directory, Account(), partitions=1)
        await sink.start(TOPICS)
        for topic in TOPICS:
            await sink.send(batch(topic, values[topic]))
        await sink.flush(60)
        await sink.close(5)

    asyncio.run(write())
    return directory


def top(recording, *options, **terminal) -> Terminal:
    command = [*FLOWSTREAM, "top", str(recording), "--from", "start", *options]
    return Terminal(command, **terminal)


def keys_shown(text):
    """Addresses and so on in the order of the rows; none while the screen is being drawn."""
    header = re.search(r"^[A-Z]+ .*(?:OCTETS|PKTS|RECS|NEW).*\n", text, flags=re.MULTILINE)
    rows = text[header.end() :].splitlines()[:-1] if header else []
    return [row.split()[0] for row in rows if row.strip()]


def first(*expected):
    return lambda text: "/S" in text and keys_shown(text)[: len(expected)] == list(expected)


def test_it_shows_talkers_interfaces_and_losses(recording):
    with top(recording) as terminal:
        ready = first("10.0.0.1", "10.0.0.2", "10.0.0.3")
        text = terminal.wait(lambda text: "ended" in text and ready(text) and "of 23" in text)
        title, status, interface, losses, head, *_ = text.splitlines()
        assert title == f"flowstream top {recording} by source"
        assert "average of 10 s, rows 1-18 of 23" in status
        assert re.match(r"eth0 in {3}1\.00M B/s  1\.00k p/s █+ lost 1\.01k ended$", interface)
        assert losses.startswith("LOST 1,009 packets in 5 records: overflow_lost 1,009; ")
        assert re.sub(" +", " ", head) == "SOURCE OCTETS/S▼ PKTS/S RECS/S NEW/S OCTETS PACKETS"
        assert re.search(r"^10\.0\.0\.1 +10\.0k +10 +0\.1 +0 +100k +100$", text, re.MULTILINE)
        assert re.search(r"^10\.0\.0\.3 +60 +1 +0\.1 +5 +600 +10$", text, re.MULTILINE)
        assert {cell.fg for cell in terminal.cells("LOST 1,009 packets")} == {
            terminal.cells("lost 1.01k")[0].fg
        }
        assert terminal.cells("LOST")[0].fg != terminal.cells("flowstream top")[0].fg
        assert terminal.cells("LOST")[0].bold
        terminal.keys("q")
        assert terminal.ended() == 0
        assert terminal.is_restored
        assert b"\x1b[?1049l" in terminal.output
        assert b"\x1b[?25h" in terminal.output


def test_keys_sort_reverse_group_and_scroll(recording):
    with top(recording) as terminal:
        terminal.wait(first("10.0.0.1", "10.0.0.2"))
        terminal.keys("s")
        terminal.wait(first("10.0.0.2", "10.0.0.1"))
        terminal.keys(">", ">")
        terminal.wait(first("10.0.0.3"))
        assert "NEW/S▼" in terminal.text()
        terminal.keys("<", "<")
        terminal.wait(first("10.0.0.2", "10.0.0.1"))
        terminal.keys("r")
        terminal.wait(lambda text: "PKTS/S▲" in text and keys_shown(text)[0] == "10.9.0.0")
        terminal.keys("r", "down", "down")
        terminal.wait(first("10.0.0.3"))
        assert "rows 3-20 of 23" in terminal.text()
        terminal.keys("g")
        terminal.wait(lambda text: "DESTINATION" in text and keys_shown(text) == ["10.0.0.2"])
        terminal.keys("\t")
        terminal.wait("10.0.0.1 <-> 10.0.0.2")
        terminal.keys("4")
        terminal.wait(lambda text: {"443/tcp", "443/udp"} == set(keys_shown(text)))
        terminal.keys("5")
        terminal.wait(lambda text: keys_shown(text) == ["udp", "tcp"])


def test_a_filter_and_a_direction_choose_records(recording):
    with top(recording, "--where", "packets > 1", columns=160) as terminal:
        terminal.wait(lambda text: "where packets > 1" in text and len(keys_shown(text)) == 3)
        terminal.keys("/")
        terminal.wait(lambda text: "packets > 1" in text.splitlines()[-2])
        terminal.keys("x\r")
        text = terminal.wait("is not a condition")
        assert "where packets > 1" in text
        assert terminal.cells("--where")[0].bold
        terminal.keys("?")
        terminal.wait("flowstream top: keys")
        terminal.keys("?")
        terminal.wait(first("10.0.0.1", "10.0.0.2", "10.0.0.3"))
        terminal.keys("d")
        terminal.wait("by source, ingress")
        terminal.keys("d")
        terminal.wait("by source, egress")
        terminal.keys("d")
        terminal.wait(lambda text: "gress" not in text.splitlines()[0])


def test_what_is_paused_can_still_be_sorted(recording):
    # The recording's name alone is longer than the title.
    with top(recording, columns=60) as terminal:
        terminal.wait(first("10.0.0.1"))
        terminal.keys(" ")
        terminal.wait("PAUSED")
        terminal.keys("s")
        terminal.wait(first("10.0.0.2"))
        terminal.keys("p")
        terminal.wait(lambda text: "PAUSED" not in text)


def test_names_take_the_place_of_addresses(tmp_path):
    flows = FlowFactory()
    values = flows.values([flows(src_addr="127.0.0.1")], "msgpack")

    async def write():
        sink = SegmentSink(tmp_path / "run", Account(), partitions=1)
        await sink.start(TOPICS)
        await sink.send(batch(TOPICS[0], values))
        await sink.flush(60)
        await sink.close(5)

    asyncio.run(write())
    with top(tmp_path / "run") as terminal:
        terminal.wait(first("127.0.0.1"))
        terminal.keys("n")
        terminal.wait(lambda text: keys_shown(text)[0].startswith("localhost"))
        terminal.keys("n")
        terminal.wait(first("127.0.0.1"))


@pytest.mark.parametrize(("columns", "lines"), [(40, 10), (200, 60)])
def test_it_fits_other_sizes(recording, columns, lines):
    with top(recording, columns=columns, lines=lines) as terminal:
        rows = 4 if lines == 10 else 23
        ready = first("10.0.0.1", "10.0.0.2")
        # It is drawn in several writes.
        terminal.wait(
            lambda text: (
                "LOST 1,009 packets in 5 records" in text
                and ready(text)
                and len(keys_shown(text)) == rows
                and text.splitlines()[-1].startswith(" q quit")
            )
        )
        terminal.resize(100, 30)
        terminal.wait(lambda text: len(keys_shown(text)) == 23 and len(text.splitlines()[5]) > 70)


def test_without_colour_losses_are_bold(recording):
    with top(recording, env={"NO_COLOR": "1"}) as terminal:
        terminal.wait("LOST 1,009")
        lost = terminal.cells("LOST")[0]
        assert lost.bold
        colour = lost.fg
        assert colour == "default" or len({colour[n : n + 2] for n in (0, 2, 4)}) == 1


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP])
def test_a_signal_ends_it_with_the_terminal_restored(recording, number):
    with top(recording) as terminal:
        terminal.wait(first("10.0.0.1"))
        terminal.process.send_signal(number)
        assert terminal.ended() == 128 + number
        assert terminal.is_restored
        assert b"Traceback" not in terminal.output


def test_control_z_suspends_it(recording):
    with top(recording) as terminal:
        terminal.wait(first("10.0.0.1"))
        terminal.keys("\x1a")
        stat = Path(f"/proc/{terminal.process.pid}/stat")
        assert wait_until(lambda: stat.read_text().rpartition(")")[2].split()[0] == "T")
        assert terminal.is_restored
        terminal.process.send_signal(signal.SIGCONT)
        terminal.keys("q")
        assert terminal.ended() == 0
        assert terminal.is_restored


def test_control_c_ends_it_even_in_the_filters_line(recording):
    with top(recording) as terminal:
        terminal.wait(first("10.0.0.1"))
        terminal.keys("/")
        terminal.wait("condition, such as")
        terminal.keys("q")
        terminal.wait(lambda text: text.splitlines()[-2].startswith("q"))
        terminal.keys("ctrl-c")
        assert terminal.ended() == 0
        assert terminal.is_restored


def test_it_ends_with_its_terminal(recording):
    with top(recording) as terminal:
        terminal.wait(first("10.0.0.1"))
        terminal.hang_up()
        assert terminal.ended() == 128 + signal.SIGHUP


def test_an_error_leaves_the_terminal_as_it_was(tmp_path):
    with Terminal([*FLOWSTREAM, "top", str(tmp_path / "none")]) as terminal:
        assert terminal.ended() == 1
        assert terminal.is_restored
        said = terminal.output.rpartition(b"flowstream: error: ")[2].decode()
        assert said == f"{tmp_path}/none: No such file or directory; name a recording\r\n"
        assert b"Traceback" not in terminal.output


@pytest.mark.parametrize("term", ["dumb", ""])
def test_a_terminal_without_a_cursor_is_refused(recording, term):
    with top(recording, env={"TERM": term}) as terminal:
        assert terminal.ended() == 2
        assert b"use --once" in terminal.output
        assert b"\x1b[" not in terminal.output
