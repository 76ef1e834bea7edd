"""What the command line says of the live table."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, NamedTuple

if TYPE_CHECKING:
    from flowstream.reading.where import Condition

GROUP_NAMES: Final = ("source", "destination", "conversation", "port", "protocol")
"""Ways to group flows, in the order in which the screen goes through them."""


class Settings(NamedTuple):
    """What is shown, and for how long.

    ``seconds`` is the period, ``whole`` whether the source is read from its start. ``where`` is
    the condition whose text is ``condition``. ``rows`` are those of ``once`` and ``json``.
    """

    seconds: float
    group: str
    whole: bool
    where: Condition | None
    condition: str
    once: bool
    json: bool
    rows: int
