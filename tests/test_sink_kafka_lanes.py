"""How the Kafka sink's lanes share records out into batches."""

from __future__ import annotations

from support.outcomes import Account, make_batch, number

from flowstream.delivery.space import Space
from flowstream.kafka.lanes import Lane, Lanes


class Values:
    """A batch builder that takes everything."""

    def __init__(self) -> None:
        self.numbers: list[int] = []

    def append(self, *, value: bytes, **_: object) -> object:
        self.numbers.append(number(value))
        return self


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


def test_partitions_that_are_gone_are_merged_by_age() -> None:
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
    lanes.recall()
    assert launch(lane, 0) == list(range(20))
    lanes.acknowledge(lane, 1.1)
    assert launch(lane, 2) == list(range(20, 40))
    lanes.acknowledge(lane, 2.9)
    assert launch(lane, 3) == list(range(40, 63))
    lanes.refuse_size(lane)
    assert launch(lane, 3) == list(range(40, 51))
    assert len(account.acknowledged_values) == 40
    assert not account.causes


def test_only_a_single_record_is_too_large() -> None:
    account = Account()
    lanes = lanes_with(account, (0, 0, 3))
    (lane,) = lanes
    for sent in ([0, 1, 2], [0], [1], [2]):
        assert launch(lane, 0) == sent
        lanes.refuse_size(lane)
    assert account.causes == lanes.failed == {"message_too_large": 3}
