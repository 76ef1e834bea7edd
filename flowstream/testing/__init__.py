"""A pytest plugin for tests of programs that read flowstream's topics.

pytest loads it automatically; docs/testing.md lists its fixtures and has an example.
For type hints this package has the types of what the fixtures return::

    from flowstream.testing import FlowFactory, ReplayedTopics

Nothing is imported before a name or a fixture is used.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from flowstream.extras import requires

if TYPE_CHECKING:
    from flowstream.testing.consumer import ConsumerDouble
    from flowstream.testing.counters import CountersFactory
    from flowstream.testing.factory import FlowFactory
    from flowstream.testing.fixtures import Fixtures
    from flowstream.testing.recorded import Recording
    from flowstream.testing.replayed import ReplayedTopics

__all__ = [
    "ConsumerDouble",
    "CountersFactory",
    "Fixtures",
    "FlowFactory",
    "Recording",
    "ReplayedTopics",
]

_MODULES = {
    "ConsumerDouble": "consumer",
    "CountersFactory": "counters",
    "Fixtures": "fixtures",
    "FlowFactory": "factory",
    "Recording": "recorded",
    "ReplayedTopics": "replayed",
}


def __getattr__(name: str) -> Any:
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    with requires("testing", f"{__name__}.{name}"):
        return getattr(import_module(f"{__name__}.{_MODULES[name]}"), name)
