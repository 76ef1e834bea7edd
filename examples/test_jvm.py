"""The programs for Flink and Kafka Streams, run against a real broker."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from support import capture
from support.examples import BAD, TOP, bad_topic, check, ended, followed, run

from bench.fleet.check import CACHE, ROOT
from flowstream.testing.counters import CountersFactory
from flowstream.testing.replayed import BrokerTopics

if TYPE_CHECKING:
    from support.examples import Published

HERE = Path(__file__).parent
SCHEMAS = ROOT / "schemas"
FLINK = CACHE / "flink-venv" / "bin" / "python"
JARS = sorted((CACHE / "examples-flink").glob("*.jar"))
STREAMS = ("java", "-Xmx512m", "-cp", f"{CACHE / 'examples-kafka_streams'}/*", "TopTalkers")
LOST = 12_044
PERIODS = 97
"""Seconds with counters: the watermark waits for 45, so five windows of ten are over."""


def flink(published: Published, definition: str, *options: str) -> list[str | Path]:
    jars = [word for jar in JARS for word in ("--jar", jar)]
    program = (HERE / "flink" / "top_talkers.py", SCHEMAS / definition)
    brokers = ("--brokers", published.broker.address)
    return [FLINK, *program, *jars, *brokers, "--top", str(TOP), *options]


def by_window(lines: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Several tasks print at once: only the order within a window is the program's."""
    return sorted(lines, key=lambda line: line["start"])


@pytest.mark.parametrize("value_format", ["json", "avro"])
def test_flink(value_format: str, published: Published) -> None:
    if value_format == "json":
        command = flink(published, "flows.flink.sql", "--once")
    else:
        registry = ("--registry", published.registry.url)
        topic = ("--topic", "avro.flows")
        command = flink(published, "flows.flink-avro.sql", "--once", *registry, *topic)
    check(by_window(run(*command)), published, closed=True)


def test_flink_closes_windows_while_the_topic_goes_on(published: Published) -> None:
    """The last packet is in one partition; the others are empty from then on."""
    before = {window for window in published.windows if window[0] < capture.CLOSING_S}
    command = flink(published, "flows.flink.sql")
    lines = followed(*command, enough=lambda lines: len(lines) == len(before))
    check(by_window(lines), published, closed=False)


@pytest.mark.parametrize("kind", ["no packets", "later version"])
def test_flink_names_the_place_of_what_is_no_record(kind: str, published: Published) -> None:
    with bad_topic(published.broker, BAD[kind]) as topic:
        command = flink(published, "flows.flink.sql", "--once", "--topic", topic.topic)
        done = ended(*command)
    assert done.returncode != 0
    assert f"{topic.topic}, partition 1, offset 2: not a flow record" in done.stderr


def test_flink_ends_at_what_is_no_json(published: Published) -> None:
    with bad_topic(published.broker, BAD["no JSON"]) as topic:
        done = ended(*flink(published, "flows.flink.sql", "--once", "--topic", topic.topic))
    assert done.returncode != 0
    assert "Failed to deserialize JSON 'no record'" in done.stderr


def test_flink_closes_windows_of_one_hosts_counters(published: Published) -> None:
    """They are all in one partition of six: without an idle timeout no window would end."""
    factory = CountersFactory()
    loss = {"shutdown": {"records": 2, "packets": LOST, "l2_bytes": 60 * LOST}}
    records = [factory(losses=loss if n == 42 else {}) for n in range(PERIODS)]
    messages = factory.messages(records)
    assert len({message.partition for message in messages}) == 1
    with BrokerTopics(published.broker.url, messages, {"flowstream.counters": 6}) as topic:
        program = ROOT / "tests" / "support" / "flink_counters.py"
        definition = SCHEMAS / "counters.flink.sql"
        lines = followed(
            *(FLINK, program, definition, published.broker.address, topic.topic, *JARS),
            enough=lambda lines: len(lines) == 5,
        )
    lines = by_window(lines)
    assert [line["records"] for line in lines] == [9, 10, 10, 10, 10]
    assert [line["lost"] for line in lines] == [0, 0, 0, 0, LOST]


def streams(published: Published, state: Path, *options: str) -> list[str | Path]:
    # As long as the topic spans: after sorting by source its partitions mix.
    words = ("--brokers", published.broker.address, "--wait", "4000", "--state", str(state))
    return [*STREAMS, *words, *options]


def last(lines: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The last line of each window and source, as the other programs print them."""
    found = {(line["start"], line["src_addr"]): line for line in lines}
    return sorted(found.values(), key=lambda line: (line["start"], -line["bytes"]))


def test_kafka_streams(published: Published, tmp_path: Path) -> None:
    def enough(lines: list[dict[str, Any]]) -> bool:
        return sum(line["packets"] for line in last(lines)) >= published.packets

    lines = followed(*streams(published, tmp_path), enough=enough)
    check(last(lines), published, closed=True)


@pytest.mark.parametrize("kind", ["tombstone", "no JSON", "no packets", "later version"])
def test_kafka_streams_names_the_place_of_what_is_no_record(
    kind: str, published: Published, tmp_path: Path
) -> None:
    with bad_topic(published.broker, BAD[kind]) as topic:
        done = ended(*streams(published, tmp_path, "--topic", topic.topic))
    assert done.returncode == 1
    place = f"{topic.topic}, partition 1, offset 2"
    assert f"{place}: not a JSON flow record of schema version 1\n" in done.stderr
