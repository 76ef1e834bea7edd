"""Values of records in the live table: none ends it, and nothing unprintable is shown."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from flowstream.messages import Message
from flowstream.streams import Stream
from flowstream.top.drawing import Choice, draw
from flowstream.top.grouping import GROUPS
from flowstream.top.model import Model, Order
from flowstream.top.printing import document, plain
from fuzz import values

if TYPE_CHECKING:
    from collections.abc import Sequence

seeds = values.seeds
mutate = values.mutate
_GOOD: Final = values.seeds()[:3]


def target(data: bytes) -> None:
    """Add the value up, among good ones, and show it in every form."""
    model = Model(10.0, whole=False)
    for add, stream in (
        (model.add_flows, Stream.FLOWS),
        (model.add_flows, Stream.NEW_FLOWS),
        (model.add_counters, Stream.COUNTERS),
    ):
        add(_among(data, f"flowstream.{stream}"))
        model.mark()
    snapshot = model.snapshot()
    for group in GROUPS:
        view = snapshot.view(group, Order(), slice(9))
        assert document(view, "source", group).startswith(b"{")
        assert all(line.isprintable() for line in plain(view, "source", group).split("\n"))
        lines = draw(view, Choice("source", group), {}, 80, 24)
        assert all(text.isprintable() for line in lines for text, _ in line)


def _among(data: bytes, topic: str) -> Sequence[Message]:
    each = enumerate((*_GOOD, data, data))
    return [Message(topic, 0, number, 0, None, value) for number, value in each]
