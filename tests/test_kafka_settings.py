"""What the properties of Kafka clients do: seen in the broker's own files, and its refusals."""

from __future__ import annotations

import asyncio
import re
import time
from typing import TYPE_CHECKING

import pytest
from broker import Broker, dump_log
from broker.acls import allow, forget
from broker.secure import PASSWORDS, STRANGER, SecureBroker
from support import kafka_config
from support.agent import flowstream
from support.outcomes import VALUE_BYTES, Account, make_batch

from flowstream.kafka.credentials import exposed
from flowstream.kafka.limits import Limits
from flowstream.kafka.secrets import Secret
from flowstream.kafka.settings import ClientSettings, Sasl
from flowstream.segments.sink import SegmentSink

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

RECORDS = 101


def batches(broker: Broker, office: Path, *properties: str) -> str:
    """Replay the recording with these properties; what the broker wrote of its flows."""
    prefix = f"settings-{time.time_ns()}"
    options = [word for each in properties for word in ("-X", each)]
    renamed = ("--rename", f"flowstream={prefix}")
    done = flowstream("replay", office, "--to", broker.url, *renamed, *options)
    assert (done.returncode, done.stderr) == (0, "")
    plain = flowstream("cat", office).stdout
    shown = flowstream("cat", broker.url, "--topic-prefix", prefix).stdout
    assert sorted(shown.splitlines()) == sorted(plain.splitlines())
    (segment,) = (broker.log_dir / f"{prefix}.flows-0").glob("*.log")
    return dump_log(segment)


@pytest.mark.parametrize("codec", ["none", "gzip", "snappy", "lz4", "zstd"])
def test_batches_are_compressed(broker: Broker, office: Path, codec: str) -> None:
    dumped = batches(broker, office, f"compression.type={codec}")
    assert set(re.findall(r"compresscodec: (\w+)", dumped)) == {codec}


def test_batches_are_compressed_with_zstd_unless_set_otherwise(
    broker: Broker, office: Path
) -> None:
    dumped = batches(broker, office)
    assert set(re.findall(r"compresscodec: (\w+)", dumped)) == {"zstd"}


async def one_batch(path: Path, topic: str) -> None:
    """Record messages that are read, and so sent on, as a whole."""
    sink = SegmentSink(path, Account(), partitions=1)
    await sink.start([topic])
    await sink.send(make_batch(topic, 0, 0, RECORDS))
    await sink.close(60)


def sizes(broker: Broker, recording: Path, topic: str, *properties: str) -> list[int]:
    """Replay a recording; octets of each batch that the broker wrote."""
    name = f"settings-{time.time_ns()}"
    options = [word for each in properties for word in ("-X", each)]
    renamed = ("--rename", f"{topic}={name}")
    done = flowstream("replay", recording, "--to", broker.url, *renamed, *options)
    assert (done.returncode, done.stderr) == (0, "")
    (segment,) = (broker.log_dir / f"{name}-0").glob("*.log")
    dumped = dump_log(segment)
    assert sum(map(int, re.findall(r" count: (\d+)", dumped))) == RECORDS
    return [int(size) for size in re.findall(r" size: (\d+)", dumped)]


def test_batches_are_as_large_as_allowed(broker: Broker, tmp_path: Path) -> None:
    asyncio.run(one_batch(tmp_path / "recording", "t"))
    (whole,) = sizes(broker, tmp_path / "recording", "t", "compression.type=none")
    parts = sizes(broker, tmp_path / "recording", "t", "compression.type=none", "batch.size=1024")
    assert whole > RECORDS * VALUE_BYTES
    assert 4 * VALUE_BYTES < max(parts) <= 1_024


def test_a_rack_is_named_where_reading(broker: Broker, office: Path) -> None:
    topic = f"settings-{time.time_ns()}"
    renamed = ("--rename", f"flowstream={topic}")
    assert flowstream("replay", office, "--to", broker.url, *renamed).returncode == 0
    plain = flowstream("cat", broker.url, "--topic-prefix", topic).stdout
    done = flowstream("cat", broker.url, "--topic-prefix", topic, "-X", "client.rack=b")
    assert (done.returncode, done.stderr) == (0, "")
    assert sorted(done.stdout.splitlines()) == sorted(plain.splitlines())


def test_limits_of_a_sink_follow_the_settings() -> None:
    assert Limits.of(ClientSettings()) == Limits()
    limits = Limits.of(
        ClientSettings(
            request_timeout=40.0, batch_size=65_536, delivery_timeout=120.0, metadata_max_age=30.0
        )
    )
    assert (limits.request_timeout, limits.stuck_timeout) == (40.0, 80.0)
    assert (limits.batch_bytes, limits.delivery_timeout, limits.metadata_age) == (65_536, 120, 30)


def test_files_with_a_secret_that_others_can_read_are_found(tmp_path: Path) -> None:
    file = tmp_path / "secret"
    file.write_text("a secret")
    for secret in (Secret.of_file(file), Secret("of the configuration", file)):
        settings = ClientSettings(sasl=Sasl("PLAIN", "u", secret))
        for mode, is_exposed in ((0o600, False), (0o640, False), (0o604, True), (0o602, True)):
            file.chmod(mode)
            found = exposed(settings)
            assert [(each.file, each.mode) for each in found] == [(file, mode)] * is_exposed
    of_environment = ClientSettings(sasl=Sasl("PLAIN", "u", Secret("of the environment")))
    assert exposed(of_environment) == []


@pytest.fixture
def stranger(secure_broker: SecureBroker) -> Iterator[str]:
    """A user who may do nothing, and again nothing after the test."""
    yield STRANGER
    forget(secure_broker, STRANGER)


def test_the_rights_that_the_documents_name_are_enough(
    secure_broker: SecureBroker, stranger: str, office: Path, tmp_path: Path
) -> None:
    """Write and Create to publish, then Read alone of another prefix to audit."""
    given = secure_broker.settings("SASL", stranger)
    assert given["sasl.password"] == PASSWORDS[stranger]
    config = ("--kafka-config", kafka_config.write(tmp_path / "kafka.toml", given))
    url, prefix = secure_broker.url_of("SASL"), f"rights-{time.time_ns()}"
    replay = ("replay", office, "--to", url, "--rename", f"flowstream={prefix}", *config)
    audit = ("audit", url, "--topic-prefix", prefix, *config)
    assert flowstream(*replay).returncode == 1
    allow(secure_broker, stranger, f"{prefix}.", "WRITE", prefixed=True)
    assert flowstream(*replay).returncode == 1
    allow(secure_broker, stranger, f"{prefix}.", "CREATE", prefixed=True)
    done = flowstream(*replay)
    assert (done.returncode, done.stderr) == (0, "")
    assert flowstream(*audit).returncode == 1
    allow(secure_broker, stranger, f"{prefix}.", "READ", prefixed=True)
    done = flowstream(*audit)
    assert (done.returncode, done.stderr) == (0, ""), done.stdout
    assert "holds: " in done.stdout
