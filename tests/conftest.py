from __future__ import annotations

import asyncio
import os
import shutil
import tempfile
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from broker import Broker
from broker.secure import SecureBroker
from broker.tokens import TokenEndpoint
from hypothesis import settings
from support.bpffs import mounted
from support.net import Interface, Wire, namespace, own_network, veth_pair
from support.published import Published, publish
from support.registry import Registry

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

# No deadline per example: a busy machine is slow. pytest-timeout bounds the whole test.
settings.register_profile("flowstream", deadline=None)
settings.load_profile("flowstream")


def pytest_configure(config: pytest.Config) -> None:
    """Give each of several processes a network of its own: no port, no "lo" in common."""
    if hasattr(config, "workerinput"):
        own_network()


@pytest.fixture
def anyio_backend() -> tuple[str, dict[str, bool]]:
    """Run async tests on uvloop, as the agent does; test_asyncio_loop.py runs on asyncio's own."""
    return "asyncio", {"use_uvloop": True}


@pytest.fixture(autouse=True)
def _keeps_its_privileges() -> Iterator[None]:
    """Name the test that gives up the privileges of all the others."""
    before = os.geteuid()
    yield
    if os.geteuid() != before:
        pytest.exit("this test gave up root in the tests' own process", returncode=1)


@pytest.fixture
def place() -> Iterator[Path]:
    """A directory that every user can reach; what is made in it is root's alone."""
    path = Path(tempfile.mkdtemp(prefix="flowstream-"))
    path.chmod(0o755)
    yield path
    shutil.rmtree(path)


@pytest.fixture(scope="session")
def broker() -> Iterator[Broker]:
    """Broker for all tests that leave it running and unchanged; tests use topics of their own."""
    with Broker() as shared:
        yield shared


@pytest.fixture(scope="session")
def secure_broker() -> Iterator[SecureBroker]:
    """Broker with TLS, SASL and access control, for all tests that leave it running."""
    with SecureBroker() as shared:
        yield shared


@pytest.fixture(scope="module")
def endpoint() -> Iterator[TokenEndpoint]:
    """A token endpoint whose tokens the secure broker takes."""
    with TokenEndpoint() as tokens:
        yield tokens


@pytest.fixture
def registry() -> Iterator[Registry]:
    """An empty schema registry."""
    with Registry() as server:
        yield server


@pytest.fixture
def broker_factory() -> Iterator[Callable[..., Broker]]:
    """Start brokers, with extra settings, for tests that stop or break them."""
    with ExitStack() as brokers:
        yield lambda **settings: brokers.enter_context(Broker(settings))


@pytest.fixture(scope="module")
def wire() -> Iterator[Wire]:
    """A sender and the device that it sends to."""
    with namespace() as here, namespace() as there, veth_pair(here, there) as ends:
        yield ends


@pytest.fixture
def pairs() -> Iterator[list[tuple[Interface, Interface]]]:
    """Two senders, each with the device that it sends to."""
    with ExitStack() as stack:
        here, there = stack.enter_context(namespace()), stack.enter_context(namespace())
        yield [
            stack.enter_context(veth_pair(here, there, names=(f"near{n}", f"far{n}")))
            for n in range(2)
        ]


@pytest.fixture
def bpffs(tmp_path: Path) -> Iterator[Path]:
    """A BPF file system that is empty."""
    with mounted(tmp_path / "bpf") as where:
        yield where


@pytest.fixture(scope="session")
def office(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A recording in MessagePack, for all tests that only read it."""
    path = tmp_path_factory.mktemp("recorded") / "office"
    asyncio.run(publish(f"file:{path}", "msgpack", Published("msgpack")))
    return path


@pytest.fixture
def recording_url(tmp_path: Path) -> str:
    """URL of a recording that does not exist yet."""
    return f"file:{tmp_path}/recording"
