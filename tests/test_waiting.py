"""Pauses between attempts: a fleet that lost one broker does not return at one moment."""

from __future__ import annotations

import random

from flowstream.kafka.refusals import ClosedTopics
from flowstream.waiting import Pauses


def test_pauses_grow_and_are_spread_over_half_their_length() -> None:
    random.seed(11)
    fleet = [Pauses(0.1, 2.0) for _ in range(10_000)]
    for full in (0.1, 0.2, 0.4, 0.8, 1.6, 2.0, 2.0):
        lengths = sorted(each.length() for each in fleet)
        assert full / 2 <= lengths[0]
        assert lengths[-1] <= full
        # A tenth of the fleet in each tenth of the range.
        for tenth in range(10):
            low = full / 2 * (1 + tenth / 10)
            inside = sum(low <= each < low + full / 20 for each in lengths)
            assert 850 < inside < 1150
    fleet[0].restart()
    assert 0.05 <= fleet[0].length() <= 0.1


def test_a_topic_that_refuses_everything_is_closed_longer_and_longer_until_it_accepts() -> None:
    random.seed(11)
    topics, now, closed = ClosedTopics(), 100.0, []
    for _ in range(7):
        begin = now
        topics.close("t", "not_authorised", now)
        # Refusals of its other partitions, a little later, change nothing.
        topics.close("t", "not_authorised", now + 0.1)
        while topics.cause("t", now):
            assert topics.cause("t", now) == "not_authorised"
            assert topics.cause("other", now) is None
            now += 0.001
        closed.append(now - begin)
    for length, full in zip(closed, (1, 2, 4, 8, 10, 10, 10), strict=True):
        assert full / 2 <= length <= full + 0.01
    topics.close("t", "not_authorised", now)
    topics.open("t")
    assert topics.cause("t", now) is None
    topics.close("t", "not_authorised", now)
    assert topics.cause("t", now + 1.01) is None
