"""Topics of a broker, made by hand."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from confluent_kafka.admin import AdminClient

if TYPE_CHECKING:
    from confluent_kafka.admin import NewTopic

    from broker import Broker

_TIMEOUT_S = 30


def create(broker: Broker, *topics: NewTopic) -> None:
    """Create topics; return when the broker knows them: its controller answers before."""
    admin = AdminClient({"bootstrap.servers": broker.address})
    for done in admin.create_topics(list(topics)).values():
        done.result(_TIMEOUT_S)
    names = {each.topic for each in topics}
    deadline = time.monotonic() + _TIMEOUT_S
    while not names <= admin.list_topics(timeout=_TIMEOUT_S).topics.keys():
        assert time.monotonic() < deadline, f"the broker does not know {names}"
        time.sleep(0.01)
