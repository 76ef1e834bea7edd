"""What a client may do in a cluster, found out without writing a record."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from aiokafka.errors import (
    ClusterAuthorizationFailedError,
    NoError,
    TopicAuthorizationFailedError,
    for_code,
)

from flowstream.kafka import requests

if TYPE_CHECKING:
    from collections.abc import Sequence

    from flowstream.kafka.peer import Peer

# The bit of Write among a topic's authorised operations (AclOperation.java).
_WRITE: Final = 1 << 4
# The broker did not tell the operations.
_UNTOLD: Final = -(1 << 31)
_PAUSE: Final = 0.1


@dataclass(frozen=True, slots=True)
class TopicState:
    """A topic as this client sees it.

    ``partitions`` is 0 where it does not exist, or is not ``visible`` to the client;
    ``may_write`` is None where the broker does not tell it.
    """

    partitions: int = 0
    leaderless: int = 0
    visible: bool = True
    may_write: bool | None = None


async def topic_states(peer: Peer, topics: Sequence[str]) -> dict[str, TopicState]:
    """Return the state of each topic; raises as ``Peer.ask`` does. Creates nothing."""
    answer = await requests.TOPICS.ask(peer, list(topics), False, False, True)
    found = {name: _state(code, *state) for code, name, _, *state in answer[4] or ()}
    return {topic: found.get(topic, TopicState()) for topic in topics}


def _state(code: int, partitions: Sequence[Sequence[int]], operations: int) -> TopicState:
    leaders = [leader for _, _, leader, *_ in partitions or ()]
    return TopicState(
        partitions=len(leaders),
        leaderless=sum(leader < 0 for leader in leaders),
        visible=for_code(code) is not TopicAuthorizationFailedError,
        may_write=None if operations == _UNTOLD else bool(operations & _WRITE),
    )


async def refuses_idempotence(peer: Peer) -> str:
    """Ask for a producer id, as a producer does at its start; return the error, "" for none.

    May wait forever for a cluster that has just started: the caller sets the deadline.
    """
    while True:
        _, code, _, _ = await requests.INIT_PRODUCER_ID.ask(peer, None, 0)
        error = for_code(code)
        if not error.retriable:
            break
        await asyncio.sleep(_PAUSE)
    if error is ClusterAuthorizationFailedError:
        return "not allowed"
    return "" if error is NoError else str(error.__name__)
