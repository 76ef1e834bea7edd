"""When a link that refused is tried again."""

from __future__ import annotations

from dataclasses import replace

from flowstream.following.places import LinkKey
from flowstream.following.points import PointKey
from flowstream.following.retries import Retries
from flowstream.host.links import LinkFacts

KEY, LINK = PointKey(LinkKey(0, 3, 1), 0), LinkFacts(3, "eth0")


def test_each_pause_is_twice_the_last_up_to_a_minute():
    retries, now, pauses = Retries(), 1_000.0, []
    assert retries.due(KEY, LINK) == 0
    for _ in range(9):
        retries.failed(KEY, LINK, "busy", now)
        pauses.append(retries.due(KEY, LINK) - now)
        now = retries.due(KEY, LINK)
    assert pauses == [1, 2, 4, 8, 16, 32, 60, 60, 60]


def test_a_link_that_changed_is_due_at_once_and_begins_anew():
    retries, changed = Retries(), replace(LINK, up=False)
    for _ in range(5):
        retries.failed(KEY, LINK, "busy", 1_000.0)
    assert retries.due(KEY, changed) == 0
    retries.failed(KEY, changed, "busy", 1_000.0)
    assert retries.due(KEY, changed) == 1_001.0


def test_a_reason_is_new_once():
    retries = Retries()
    reasons = ["busy", "busy", "no memory", "no memory", "busy"]
    news = [retries.failed(KEY, LINK, reason, 0.0) for reason in reasons]
    assert news == [True, False, True, False, True]


def test_what_is_not_there_any_more_or_attached_is_forgotten():
    retries, other = Retries(), PointKey(LinkKey(0, 3, 1), 1)
    for key in (KEY, other):
        retries.failed(key, LINK, "busy", 1_000.0)
    retries.keep({other})
    assert not retries.has(KEY)
    assert retries.has(other)
    retries.forget(other)
    assert retries.due(other, LINK) == 0
