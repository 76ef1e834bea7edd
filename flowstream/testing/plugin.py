"""The fixtures. Every test run of an environment with flowstream imports this: keep it light."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import pytest

from flowstream.extras import requires
from flowstream.kafka.settings import DEFAULT_CLIENT

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from flowstream.testing import (
        CountersFactory,
        Fixtures,
        FlowFactory,
        Recording,
        ReplayedTopics,
    )

BROKER_VARIABLE = "FLOWSTREAM_BROKER"
KAFKA_CONFIG_VARIABLE = "FLOWSTREAM_KAFKA_CONFIG"


def pytest_addoption(parser: pytest.Parser) -> None:
    """Add ``--flowstream-broker`` and ``--flowstream-kafka-config``."""
    group = parser.getgroup("flowstream")
    group.addoption(
        "--flowstream-broker",
        metavar="URL",
        default=None,
        help="kafka://HOST:PORT for the replayed topics "
        f"(default ${BROKER_VARIABLE}, else topics in the process and a consumer double)",
    )
    group.addoption(
        "--flowstream-kafka-config",
        metavar="FILE",
        default=None,
        help="TOML file whose table [kafka] has the properties of that broker's clients "
        f"(default ${KAFKA_CONFIG_VARIABLE})",
    )


@pytest.fixture(scope="session")
def flowstream_session(request: pytest.FixtureRequest) -> Iterator[Fixtures]:
    """All of flowstream's fixtures for the session; paths start at pytest's root directory."""
    yield from _fixtures(request.config, request.config.rootpath)


@pytest.fixture(scope="module")
def flowstream_module(request: pytest.FixtureRequest) -> Iterator[Fixtures]:
    """All of flowstream's fixtures for the module; paths start at its directory."""
    yield from _fixtures(request.config, request.path.parent)


@pytest.fixture
def flowstream_function(request: pytest.FixtureRequest) -> Iterator[Fixtures]:
    """All of flowstream's fixtures for the test; each has a short name too."""
    yield from _fixtures(request.config, request.path.parent)


@pytest.fixture
def recording(flowstream_function: Fixtures) -> Callable[[str | Path], Recording]:
    """Open a recording: a function of its path, which may be relative to the test's file."""
    return flowstream_function.recording


@pytest.fixture
def flow_factory(flowstream_function: Fixtures) -> FlowFactory:
    """Make flow records, their values and messages."""
    return flowstream_function.flow_factory


@pytest.fixture
def counters_factory(flowstream_function: Fixtures) -> CountersFactory:
    """Make counters records, their values and messages."""
    return flowstream_function.counters_factory


@pytest.fixture
def replayed_topic(flowstream_function: Fixtures) -> Callable[..., ReplayedTopics]:
    """Make one topic: a function of a recording or messages, and of the topic's name."""
    return flowstream_function.replayed_topic


@pytest.fixture
def replayed_topics(flowstream_function: Fixtures) -> Callable[..., ReplayedTopics]:
    """Make several topics: a function of a recording or messages, and of the topics' names."""
    return flowstream_function.replayed_topics


def _fixtures(config: pytest.Config, directory: Path) -> Iterator[Fixtures]:
    with requires("testing", "a fixture of flowstream"):
        from flowstream.config.kafka import client_of  # noqa: PLC0415
        from flowstream.testing.fixtures import Fixtures  # noqa: PLC0415

    file = config.getoption("--flowstream-kafka-config") or os.environ.get(KAFKA_CONFIG_VARIABLE)
    url = config.getoption("--flowstream-broker") or os.environ.get(BROKER_VARIABLE)
    client = client_of(url, {"kafka_config": file}) if url else DEFAULT_CLIENT
    with Fixtures(directory, url, client) as fixtures:
        yield fixtures
