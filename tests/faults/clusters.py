"""The clusters to which faults happen."""

from __future__ import annotations

from contextlib import ExitStack
from typing import TYPE_CHECKING, Any, Self

from broker import Broker
from broker.cluster import Cluster
from broker.secure import SecureBroker
from support.line import line_in_thread, listen
from support.mock_cluster import MockCluster

if TYPE_CHECKING:
    from collections.abc import Callable


class Mock(MockCluster):
    """librdkafka's mock broker, which makes topics by itself."""

    def __init__(self) -> None:
        super().__init__(1)
        self.url = self.settings.url


class Remote:
    """A broker that every client reaches through a line."""

    def __init__(self) -> None:
        self._stack = ExitStack()
        try:
            listener = self._stack.enter_context(listen())
            self.url = f"kafka://127.0.0.1:{listener.getsockname()[1]}"
            address = self.url.removeprefix("kafka://")
            broker = Broker({"advertised.listeners": f"PLAINTEXT://{address}"})
            self._stack.enter_context(broker)
            self.line = self._stack.enter_context(line_in_thread(listener, broker.port))
        except BaseException:
            self._stack.close()
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        self._stack.close()


KINDS: dict[str, Callable[[], Any]] = {
    "broker": Broker,
    "line": Remote,
    "three": Cluster,
    "mock": Mock,
    "secure": SecureBroker,
}


class Running:
    """The cluster of the moment: one of a kind, until one of another kind is asked for."""

    def __init__(self) -> None:
        self._stack = ExitStack()
        self._kind = ""
        self._cluster: Any = None

    def of(self, kind: str) -> Any:
        """Return a cluster of this kind."""
        if kind != self._kind:
            self.close()
            self._cluster = self._stack.enter_context(KINDS[kind]())
            self._kind = kind
        return self._cluster

    def close(self) -> None:
        """End it, as after a fault that may have broken it."""
        self._kind = ""
        self._stack.close()
