"""The cluster's clock against this host's: brokers refuse records of other times."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Final

from flowstream.kafka import requests

if TYPE_CHECKING:
    from flowstream.kafka.peer import Peer

_TOPIC: Final = "__cluster_metadata"


async def ahead_ms(peer: Peer) -> float | None:
    """Return by how much this host's clock is ahead of the controller's.

    None where the cluster does not tell it: before Kafka 3.4, and to clients without
    the right Describe on the cluster. Raises as ``Peer.ask`` does.
    """
    if not await requests.QUORUM.is_known(peer):
        return None
    asked = _now_ms()
    _, _, topics, _ = await requests.QUORUM.ask(peer, {}, [(_TOPIC, [(0, {})], {})], {})
    host = (asked + _now_ms()) / 2
    for _, partitions, _ in topics or ():
        for _, _, leader, _, _, voters, _, _ in partitions or ():
            for replica, _, _, caught_up, _ in voters or ():
                # The leader's own time is the present.
                if replica == leader and caught_up > 0:
                    return float(host - caught_up)
    return None


def _now_ms() -> float:
    return time.time_ns() / 1e6
