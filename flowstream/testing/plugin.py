"""The fixtures. Every test run of an environment with flowstream imports this: keep it light."""

from __future__ import annotations

import os
from contextlib import ExitStack
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator
    from pathlib import Path

    from flowstream.messages import Message
    from flowstream.testing.factory import FlowFactory
    from flowstream.testing.recorded import Recording
    from flowstream.testing.replayed import ReplayedTopic

BROKER_VARIABLE = "FLOWSTREAM_BROKER"


def pytest_addoption(parser: pytest.Parser) -> None:
    """Add ``--flowstream-broker``."""
    parser.getgroup("flowstream").addoption(
        "--flowstream-broker",
        metavar="URL",
        default=None,
        help="kafka://HOST:PORT for the fixture replayed_topic "
        f"(default ${BROKER_VARIABLE}, else a consumer double in the process)",
    )


@pytest.fixture
def recording(request: pytest.FixtureRequest) -> Callable[[str | Path], Recording]:
    """Load a recording: a function of its path, which may be relative to the test's file."""
    from flowstream.testing.recorded import Recording  # noqa: PLC0415

    return lambda path: Recording(request.path.parent / path)


@pytest.fixture
def flow_factory() -> FlowFactory:
    """Make flow records, their values and messages; numbered anew in every test."""
    from flowstream.testing.factory import FlowFactory  # noqa: PLC0415

    return FlowFactory()


@pytest.fixture
def replayed_topic(
    request: pytest.FixtureRequest, recording: Callable[[str | Path], Recording]
) -> Iterator[Callable[..., ReplayedTopic]]:
    """Make a topic of a recording or of messages: a function of either and of the topic's name.

    The topic is in the broker of ``--flowstream-broker`` or ``FLOWSTREAM_BROKER``, has
    a unique name there and is deleted after the test; without a broker it is in the
    process.
    """
    from flowstream.testing.replayed import BrokerTopic, DoubleTopic  # noqa: PLC0415

    url = request.config.getoption("--flowstream-broker") or os.environ.get(BROKER_VARIABLE)
    with ExitStack() as topics:

        def replayed(
            source: str | Path | Iterable[Message], topic: str = "flowstream.flows"
        ) -> ReplayedTopic:
            if isinstance(source, (str, os.PathLike)):
                source = recording(source).messages(topic)
            messages = list(source)
            if url:
                return topics.enter_context(BrokerTopic(url, topic, messages))
            return DoubleTopic(topic, messages)

        yield replayed
