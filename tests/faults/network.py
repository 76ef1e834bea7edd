"""Faults of brokers and of the network between."""

from __future__ import annotations

import os
import signal
from contextlib import contextmanager
from functools import partial
from typing import TYPE_CHECKING

from confluent_kafka.admin import (
    AdminClient,
    AlterConfigOpType,
    ConfigEntry,
    ConfigResource,
    NewPartitions,
    ResourceType,
)
from support.traffic import wait_until

from faults.scene import PARTITIONS, PATIENCE_S, SPOOLING, Fault
from flowstream.source import open_source

if TYPE_CHECKING:
    from collections.abc import Iterator

    from faults.scene import Scene


@contextmanager
def stopped(scene: Scene, how: signal.Signals, seen: str = SPOOLING) -> Iterator[None]:
    """The broker ends, and comes back once the log has ``seen``."""
    scene.cluster.stop(how)
    yield
    scene.wait(seen)
    scene.cluster.start()


@contextmanager
def restarted(scene: Scene, how: signal.Signals) -> Iterator[None]:
    """The broker ends and comes back at once."""
    scene.cluster.stop(how)
    yield
    scene.cluster.start()


@contextmanager
def frozen(scene: Scene) -> Iterator[None]:
    """Connections stay, and nothing answers."""
    os.kill(scene.cluster.pid, signal.SIGSTOP)
    try:
        yield
        # From here on everything new goes to the disk.
        scene.traffic_until(lambda: bool(scene.agent.logs("spooling")))
    finally:
        os.kill(scene.cluster.pid, signal.SIGCONT)


@contextmanager
def topic_deleted(scene: Scene) -> Iterator[None]:
    """The topic of flows vanishes; the agent may create it."""

    def made() -> int:
        return len(list(scene.cluster.log_dir.glob(f"{scene.flows}-[0-9]")))

    assert wait_until(lambda: made() == PARTITIONS, PATIENCE_S)
    admin = AdminClient({"bootstrap.servers": scene.cluster.address})
    admin.delete_topics([scene.flows])[scene.flows].result(30)
    # Until then the broker acknowledges records that it deletes.
    assert wait_until(lambda: not made(), PATIENCE_S)
    yield


@contextmanager
def partitions_added(scene: Scene) -> Iterator[None]:
    """The topic gets more partitions, and records arrive in the last one."""
    admin = AdminClient({"bootstrap.servers": scene.cluster.address})
    admin.create_partitions([NewPartitions(scene.flows, 9)])[scene.flows].result(30)
    yield
    scene.traffic_until(lambda: _size(scene, 8) > 0)


def _size(scene: Scene, partition: int) -> int:
    import asyncio

    sizes = asyncio.run(open_source(scene.cluster.url, [scene.flows]).sizes())
    return sizes[scene.flows][partition]


@contextmanager
def topic_set(scene: Scene, name: str, value: str, seen: str) -> Iterator[None]:
    """The topic of flows has a setting, until the log has ``seen``."""
    _set(scene, ConfigEntry(name, value, incremental_operation=AlterConfigOpType.SET))
    yield
    scene.wait(seen)
    _set(scene, ConfigEntry(name, None, incremental_operation=AlterConfigOpType.DELETE))
    # The broker's own setting holds again; what is lost until then is counted, too.


def _set(scene: Scene, entry: ConfigEntry) -> None:
    admin = AdminClient({"bootstrap.servers": scene.cluster.address})
    resource = ConfigResource(ResourceType.TOPIC, scene.flows, incremental_configs=[entry])
    for done in admin.incremental_alter_configs([resource]).values():
        done.result(30)


# Faults of the line.


@contextmanager
def cut(scene: Scene, *, reset: bool) -> Iterator[None]:
    """Connections end in the middle of a request, again and again."""
    line = scene.cluster.line
    begin = line.cuts
    line.reset, line.cut_after = reset, 3001
    yield
    assert wait_until(lambda: line.cuts - begin >= 5, PATIENCE_S)
    line.cut_after = None


@contextmanager
def unanswered(scene: Scene) -> Iterator[None]:
    """Requests arrive, and their answers are lost."""
    scene.cluster.line.mute = True
    yield
    scene.traffic_until(lambda: bool(scene.agent.logs("spooling")))
    scene.cluster.line.mute = False


@contextmanager
def late(scene: Scene) -> Iterator[None]:
    """Answers come after 5 s."""
    line = scene.cluster.line
    begin, line.late_s = line.late, 5.0
    yield
    assert wait_until(lambda: line.late - begin >= 3, PATIENCE_S)
    line.late_s = 0.0


@contextmanager
def slow(scene: Scene) -> Iterator[None]:
    """10 kB a second, for more than that."""
    scene.cluster.line.bytes_per_second = 10_000
    yield
    scene.traffic_until(lambda: bool(scene.agent.logs("spooling")))
    scene.cluster.line.bytes_per_second = None


@contextmanager
def garbage(scene: Scene, answer: bytes) -> Iterator[None]:
    """Something that is no broker answers at its address."""
    scene.cluster.line.garbage = answer
    yield
    scene.wait("kafka_unreachable")
    scene.wait(SPOOLING)
    scene.cluster.line.garbage = None


# Faults of a cluster of three.


@contextmanager
def leader_gone(scene: Scene) -> Iterator[None]:
    """The leader of partition 0 is killed; the others take over."""
    leader = scene.cluster.leaders(scene.flows)[0]
    scene.cluster.nodes[leader].stop(signal.SIGKILL)
    yield
    assert wait_until(lambda: leader not in scene.cluster.leaders(scene.flows), PATIENCE_S)
    scene.traffic()
    scene.cluster.start([leader])


@contextmanager
def leaders_moved(scene: Scene) -> Iterator[None]:
    """Leaders leave a node that is restarted in order, and return to it."""
    scene.cluster.nodes[1].stop()
    scene.traffic()
    assert 1 not in scene.cluster.leaders(scene.flows)
    scene.cluster.start([1])
    yield

    def back() -> bool:
        # Not before it is in sync again.
        scene.cluster.elect_preferred()
        return 1 in scene.cluster.leaders(scene.flows)

    assert wait_until(back, PATIENCE_S)


@contextmanager
def controller_gone(scene: Scene) -> Iterator[None]:
    """The active controller, which is a broker as well, is killed."""
    node = scene.cluster.controller()
    scene.cluster.nodes[node].stop(signal.SIGKILL)
    yield
    assert wait_until(lambda: scene.cluster.controller() != node, PATIENCE_S)
    scene.traffic()
    scene.cluster.start([node])


@contextmanager
def majority_gone(scene: Scene) -> Iterator[None]:
    """Two of three are away: what is left may not write."""
    for n in (2, 3):
        scene.cluster.nodes[n].stop(signal.SIGKILL)
    yield
    scene.traffic_until(lambda: bool(scene.agent.logs("spooling")))
    scene.cluster.start([2, 3])


HTTP = b"HTTP/1.1 400 Bad Request\r\nContent-Length: 0\r\n\r\n"
PROMPT = ("-X", "request.timeout.ms=2000")
# Sizes are those of compressed batches.
UNCOMPRESSED = ("-X", "compression.type=none")

FAULTS = [
    Fault(
        "no broker at the start", "broker", partial(stopped, how=signal.SIGTERM),
        says=("kafka_unreachable.*connection refused", "kafka_reachable", "spool_drained"),
        at_start=True, in_ci=True,
    ),
    Fault(
        "broker stopped for a while", "broker", partial(stopped, how=signal.SIGTERM),
        says=("spool_drained",),
    ),
    Fault(
        "broker killed for a while", "broker", partial(stopped, how=signal.SIGKILL),
        says=("spool_drained",),
    ),
    Fault(
        "broker killed for longer than a delivery may take", "broker",
        partial(stopped, how=signal.SIGKILL, seen="^kafka_records_(failed|in_doubt) "),
        says=("spool_drained",), in_ci=True,
        options=("-X", "request.timeout.ms=1000", "-X", "delivery.timeout.ms=3000"),
    ),
    Fault("broker stopped and started", "broker", partial(restarted, how=signal.SIGTERM)),
    Fault("broker killed and started", "broker", partial(restarted, how=signal.SIGKILL)),
    Fault("broker frozen", "broker", frozen, says=("spool_drained",), options=PROMPT),
    Fault("topic deleted", "broker", topic_deleted, before=False),
    Fault(
        "partitions added", "broker", partitions_added,
        options=("-X", "metadata.max.age.ms=1000"), once=True, in_ci=True,
    ),
    Fault(
        "batches too large for the topic", "broker",
        partial(topic_set, name="max.message.bytes", value="2003", seen=""), once=True,
        options=UNCOMPRESSED,
    ),
    Fault(
        "every record too large for the topic", "broker",
        partial(
            topic_set, name="max.message.bytes", value="211", seen="kafka_records_failed"
        ),
        lost=frozenset({"message_too_large"}), says=("message_too_large",), once=True,
        options=UNCOMPRESSED,
        in_ci=True,
    ),
    Fault(
        "records older than the topic permits", "broker",
        partial(
            topic_set, name="message.timestamp.before.max.ms", value="1",
            seen="kafka_records_failed",
        ),
        lost=frozenset({"invalid_timestamp"}), says=("invalid_timestamp",), once=True,
    ),
    Fault("connections cut within requests", "line", partial(cut, reset=False), once=True),
    Fault("connections reset within requests", "line", partial(cut, reset=True), once=True),
    Fault(
        "answers lost", "line", unanswered, says=("spool_drained",), options=PROMPT, once=True,
    ),
    Fault("answers late by 5 s", "line", late, once=True),
    Fault(
        "a line of 10 kB/s", "line", slow, says=("spool_drained",), options=UNCOMPRESSED,
    ),
    Fault(
        "a web server at the broker's address", "line", partial(garbage, answer=HTTP),
        says=("kafka_unreachable.*does not answer as a Kafka broker",), at_start=True,
    ),
    Fault(
        "a peer that claims a frame of 2^31-1 octets", "line",
        partial(garbage, answer=b"\x7f\xff\xff\xff" + bytes(997)),
        says=("kafka_unreachable.*does not answer as a Kafka broker",), at_start=True,
    ),
    Fault("leader killed, one of three", "three", leader_gone, once=True),
    Fault("leaders moved", "three", leaders_moved, once=True),
    Fault("controller killed", "three", controller_gone, once=True),
    Fault("two of three killed", "three", majority_gone, says=("spool_drained",)),
]  # fmt: skip
