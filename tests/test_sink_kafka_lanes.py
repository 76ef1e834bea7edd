"""The Kafka sink's lanes: batch sizes, merged partitions, outcomes."""

from __future__ import annotations

from typing import TYPE_CHECKING

from aiokafka.errors import MessageSizeTooLargeError
from support.outcomes import Account, make_batch, number

from flowstream.delivery.space import Space
from flowstream.kafka.lanes import Lanes
from flowstream.kafka.refusals import refusal_of

if TYPE_CHECKING:
    from flowstream.kafka.lane import Lane

TOO_LARGE = refusal_of(MessageSizeTooLargeError(), 10)


class Values:
    """A batch builder that accepts everything."""

    def __init__(self) -> None:
        self.numbers: list[int] = []

    def append(self, *, value: bytes, **_: object) -> object:
        self.numbers.append(number(value))
        return self


def sent(topic: str, partition: int) -> bool:
    """Whether a flight was sent."""
    return True


def launch(lane: Lane, now: float) -> list[int]:
    builder = Values()
    lane.launch(builder, now)
    return builder.numbers


def lanes_with(account: Account, *batches: tuple[int, int, int]) -> Lanes:
    """Batches of (partition, first number, records), accepted one a second."""
    space = Space(1 << 20)
    lanes = Lanes(account, space, prompt=1.0)
    for second, (partition, first, count) in enumerate(batches):
        lanes.accept(make_batch("t", partition, first, count), partition, 0, second + 30.0)
    return lanes


def test_missing_partitions_are_merged_by_age() -> None:
    lanes = lanes_with(Account(), (1, 0, 7), (5, 7, 7), (1, 14, 7), (3, 21, 7), (5, 28, 7))
    assert lanes.fit({"t": 2}) == 21
    (lane,) = lanes
    assert (lane.partition, len(lanes)) == (1, 35)
    assert launch(lane, 0) == list(range(35))
    assert lanes.fit({"t": 2}) == 0


def test_flights_shrink_without_an_answer_and_grow_when_it_is_prompt() -> None:
    account = Account()
    lanes = lanes_with(account, (0, 0, 331))
    (lane,) = lanes
    assert len(launch(lane, 0)) == 331
    lanes.recall(sent)
    assert launch(lane, 0) == list(range(20))
    lanes.acknowledge(lane, 1.1)
    assert launch(lane, 2) == list(range(20, 40))
    lanes.acknowledge(lane, 2.9)
    assert launch(lane, 3) == list(range(40, 63))
    lanes.refuse(lane, TOO_LARGE)
    assert launch(lane, 3) == list(range(40, 51))
    assert len(account.acknowledged_values) == 40
    assert not account.causes


def test_unanswered_records_stay_in_doubt_after_a_refusal() -> None:
    account = Account()
    lanes = lanes_with(account, (0, 0, 331))
    (lane,) = lanes
    lane.max_records = 7
    assert launch(lane, 0) == list(range(7))
    lanes.recall(sent)
    # One record is refused; the other six, sent before, still wait.
    assert launch(lane, 1) == [0]
    lanes.refuse(lane, TOO_LARGE)
    assert account.doubts == lanes.in_doubt == {"message_too_large": 1}
    lanes.expire(30.0)
    assert account.doubts == {"message_too_large": 1, "delivery_timeout": 6}
    assert account.causes == lanes.failed == {"delivery_timeout": 324}
    assert sorted(map(number, account.doubtful_values)) == list(range(7))


def test_records_that_were_never_sent_fail() -> None:
    account = Account()
    lanes = lanes_with(account, (0, 0, 7))
    (lane,) = lanes
    launch(lane, 0)
    lanes.recall(lambda *_: False)
    lanes.expire(30.0)
    assert account.causes == {"delivery_timeout": 7}
    assert not account.doubts


def test_flight_at_the_end_is_in_doubt_and_waiting_records_fail() -> None:
    account = Account()
    lanes = lanes_with(account, (0, 0, 11))
    (lane,) = lanes
    lane.max_records = 7
    launch(lane, 0)
    lanes.give_up_all("shutdown", sent)
    assert account.doubts == {"shutdown": 7}
    assert account.causes == {"shutdown": 4}


def test_only_a_single_record_is_too_large() -> None:
    account = Account()
    lanes = lanes_with(account, (0, 0, 3))
    (lane,) = lanes
    for sent in ([0, 1, 2], [0], [1], [2]):
        assert launch(lane, 0) == sent
        lanes.refuse(lane, TOO_LARGE)
    assert account.causes == lanes.failed == {"message_too_large": 3}
