from __future__ import annotations

from contextlib import ExitStack
from typing import TYPE_CHECKING

import pytest
from broker import Broker
from hypothesis import settings
from support.registry import Registry

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

# A busy machine is no fault of an example: pytest-timeout bounds the test as a whole.
settings.register_profile("flowstream", deadline=None)
settings.load_profile("flowstream")


@pytest.fixture(params=[False, True], ids=["asyncio", "uvloop"])
def anyio_backend(request: pytest.FixtureRequest) -> tuple[str, dict[str, bool]]:
    return "asyncio", {"use_uvloop": request.param}


@pytest.fixture(scope="session")
def broker() -> Iterator[Broker]:
    """A broker for all tests that leave it as it is: each takes topics of its own."""
    with Broker() as shared:
        yield shared


@pytest.fixture
def registry() -> Iterator[Registry]:
    """An empty schema registry."""
    with Registry() as server:
        yield server


@pytest.fixture
def broker_factory() -> Iterator[Callable[..., Broker]]:
    """Make brokers, with further settings, for a test that stops or breaks them."""
    with ExitStack() as brokers:
        yield lambda **settings: brokers.enter_context(Broker(settings))
