"""How fast the spool drains: the window, and the rate."""

from __future__ import annotations

from flowstream.spool.pace import LARGEST, Rate, Window

BATCH = 64 << 10


def answer(window: Window, began: float, seconds: float, *, answered: bool = True) -> None:
    window.take(BATCH)
    window.give(BATCH, began, began + seconds, answered=answered)


def test_the_window_begins_with_one_batch_and_grows_by_an_eighth_of_what_is_answered():
    window = Window()
    assert (window.limit, window.used) == (BATCH, 0)
    window.take(BATCH)
    assert not window.has_room()
    window.give(BATCH, 10.0, 10.2, answered=True)
    assert (window.limit, window.used) == (BATCH + BATCH // 8, 0)
    for _ in range(1_000):
        answer(window, 10.0, 0.2)
    assert window.limit == LARGEST


def test_late_answers_halve_it_once_in_half_a_second():
    window = Window()
    for _ in range(1_000):
        answer(window, 10.0, 0.2)
    for began in (20.0, 20.1, 20.2):
        answer(window, began, 0.7)
    assert window.limit == LARGEST // 2
    answer(window, 21.0, 0.7)
    assert window.limit == LARGEST // 4
    # Neither prompt nor late.
    answer(window, 22.0, 0.4)
    assert window.limit == LARGEST // 4
    for n in range(100):
        answer(window, 30.0 + n, 0.0, answered=False)
    assert window.limit == BATCH


def test_the_rate_is_kept_and_idle_time_is_not_made_up_for():
    rate = Rate(500)
    assert rate.wait(100.0) == 0
    rate.take(1_000, 100.0)
    assert rate.wait(100.5) == 1.5
    assert rate.wait(102.0) == 0
    rate.take(250, 200.0)
    assert rate.wait(200.0) == 0.5
    unlimited = Rate(None)
    unlimited.take(1_000_000, 0.0)
    assert unlimited.wait(0.0) == 0
