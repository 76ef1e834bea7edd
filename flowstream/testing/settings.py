"""Settings of a consumer double: the same as AIOKafkaConsumer's."""

from __future__ import annotations

import inspect
from typing import TYPE_CHECKING, Any, Final

from aiokafka import AIOKafkaConsumer
from aiokafka.coordinator.assignors.range import RangePartitionAssignor
from aiokafka.coordinator.assignors.roundrobin import RoundRobinPartitionAssignor

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

_SIGNATURE: Final = inspect.signature(AIOKafkaConsumer)
# Others keep state of earlier rebalances in their class.
_ASSIGNORS: Final = (RoundRobinPartitionAssignor, RangePartitionAssignor)


def checked_settings(topics: Sequence[str], settings: Mapping[str, Any]) -> dict[str, Any]:
    """Return all settings, with aiokafka's defaults.

    Raises TypeError for an unknown one, ValueError for an impossible
    ``max_poll_records``, and NotImplementedError for what a double does not do.
    """
    bound = _SIGNATURE.bind(*topics, **settings)
    bound.apply_defaults()
    values = bound.arguments
    at_most = values["max_poll_records"]
    if at_most is not None and (not isinstance(at_most, int) or at_most < 1):
        raise ValueError("`max_poll_records` should be positive Integer")
    if values["group_instance_id"] is not None:
        raise _refused("group_instance_id")
    for assignor in values["partition_assignment_strategy"]:
        if assignor not in _ASSIGNORS:
            raise _refused(f"partition_assignment_strategy {assignor.__name__}")
    return values


def _refused(what: str) -> NotImplementedError:
    return NotImplementedError(f"the double of AIOKafkaConsumer has no {what}: {WITH_BROKER}")


WITH_BROKER: Final = "run this test with a broker, by pytest --flowstream-broker kafka://HOST:PORT"
