"""Errors that a broker answers, by librdkafka's mock cluster; codes are those of Errors.java."""

from __future__ import annotations

import time
from contextlib import contextmanager
from functools import partial
from typing import TYPE_CHECKING, Any

from support.mock_cluster import INIT_PRODUCER_ID, METADATA, PRODUCE

from faults.scene import PARTITIONS, SPOOLING, Fault

if TYPE_CHECKING:
    from collections.abc import Iterator

    from faults.scene import Scene


@contextmanager
def answers(scene: Scene, code: int, times: int = 3, api: int = PRODUCE) -> Iterator[None]:
    """The next requests are answered by an error."""
    before = scene.cluster.requests()[api]
    scene.cluster.answer(api, [code] * times)
    yield
    scene.traffic_until(lambda: scene.cluster.requests()[api] - before > times)


@contextmanager
def leaderless(scene: Scene) -> Iterator[None]:
    """No partition of flows has a leader, until records wait on disk."""
    for partition in range(PARTITIONS):
        scene.cluster.set_leader(scene.flows, partition, None)
    before, begin = scene.cluster.requests()[METADATA], time.monotonic()
    yield
    scene.wait(SPOOLING)
    asked, seconds = scene.cluster.requests()[METADATA] - before, time.monotonic() - begin
    # Four at once, then one every 1 to 2 s.
    assert asked < 10 + 4 * seconds
    for partition in range(PARTITIONS):
        scene.cluster.set_leader(scene.flows, partition, 1)


# Counters only at the beginning and the end: errors are for the others.
QUIET = ("--counters-period", 3600)


def _refused(name: str, code: int, cause: str, **options: Any) -> Fault:
    return Fault(
        name, "mock", partial(answers, code=code), lost=frozenset({cause}),
        says=(f"kafka_records_failed.*{cause}.*remedy",), options=QUIET, **options,
    )  # fmt: skip


def _survived(name: str, code: int, **options: Any) -> Fault:
    return Fault(name, "mock", partial(answers, code=code), options=QUIET, **options)


FAULTS = [
    _survived("LEADER_NOT_AVAILABLE", 5, once=True),
    _survived("NOT_LEADER_OR_FOLLOWER", 6, once=True, in_ci=True),
    _survived("REQUEST_TIMED_OUT", 7, once=True),
    _survived("NOT_ENOUGH_REPLICAS", 19, once=True, in_ci=True),
    _survived("NOT_ENOUGH_REPLICAS_AFTER_APPEND", 20, once=True),
    _survived("KAFKA_STORAGE_ERROR", 56, once=True),
    _survived("MESSAGE_TOO_LARGE", 10, once=True),
    _survived("OUT_OF_ORDER_SEQUENCE_NUMBER", 45, in_ci=True),
    _survived("INVALID_PRODUCER_EPOCH", 47),
    _survived("UNKNOWN_PRODUCER_ID", 59),
    _survived("UNKNOWN_SERVER_ERROR", -1),
    _survived("TOPIC_AUTHORIZATION_FAILED", 29, says=("spool_drained",), in_ci=True),
    _survived("CLUSTER_AUTHORIZATION_FAILED", 31, says=("spool_drained",)),
    _refused("UNSUPPORTED_VERSION", 35, "unsupported_format"),
    _refused("UNSUPPORTED_COMPRESSION_TYPE", 76, "unsupported_format"),
    _refused("POLICY_VIOLATION", 44, "policy_violation", in_ci=True),
    Fault(
        "INVALID_RECORD", "mock", partial(answers, code=87, times=40),
        lost=frozenset({"invalid_record"}), options=QUIET,
        says=("kafka_records_failed.*invalid_record.*remedy",),
    ),
    Fault(
        "COORDINATOR_NOT_AVAILABLE", "mock", partial(answers, code=15, api=INIT_PRODUCER_ID),
        at_start=True, once=True,
    ),
    Fault(
        "partitions without a leader", "mock", leaderless, says=("spool_drained",),
        options=("-X", "request.timeout.ms=2000", "-X", "delivery.timeout.ms=5000"), in_ci=True,
    ),
]  # fmt: skip
