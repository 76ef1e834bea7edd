"""librdkafka's mock cluster, out of confluent-kafka's wheel: brokers that answer as told.

It stores no errors' records: a batch that it answers with an error is not appended.
Sources: src/rdkafka_mock.h of librdkafka.
"""

from __future__ import annotations

import ctypes
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

import confluent_kafka

from flowstream.kafka.settings import ClientSettings

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

_PRODUCER = 0
_ERROR_OCTETS = 512
_PACKAGE = Path(confluent_kafka.__file__).parent
(_PATH,) = (_PACKAGE.parent / "confluent_kafka.libs").glob("librdkafka-*.so*")
_LIBRARY = ctypes.CDLL(str(_PATH))

# API keys (ApiKeys.java).
PRODUCE, METADATA, API_VERSIONS, INIT_PRODUCER_ID = 0, 3, 18, 22


def _function(name: str, result: object, *arguments: object) -> Callable[..., Any]:
    function = getattr(_LIBRARY, f"rd_kafka_{name}")
    function.restype, function.argtypes = result, arguments
    return function  # type: ignore[no-any-return]


_POINTER, _TEXT, _INT = ctypes.c_void_p, ctypes.c_char_p, ctypes.c_int32
_conf_new = _function("conf_new", _POINTER)
_conf_set = _function("conf_set", ctypes.c_int, _POINTER, _TEXT, _TEXT, _TEXT, ctypes.c_size_t)
_new = _function("new", _POINTER, ctypes.c_int, _POINTER, _TEXT, ctypes.c_size_t)
_destroy = _function("destroy", None, _POINTER)
_cluster_new = _function("mock_cluster_new", _POINTER, _POINTER, ctypes.c_int)
_cluster_destroy = _function("mock_cluster_destroy", None, _POINTER)
_bootstraps = _function("mock_cluster_bootstraps", _TEXT, _POINTER)
_topic_create = _function("mock_topic_create", ctypes.c_int, _POINTER, _TEXT, _INT, _INT)
_set_leader = _function("mock_partition_set_leader", ctypes.c_int, _POINTER, _TEXT, _INT, _INT)
_push_errors = _function(
    "mock_push_request_errors_array",
    None, _POINTER, ctypes.c_int16, ctypes.c_size_t, ctypes.POINTER(ctypes.c_int),
)  # fmt: skip
_set_versions = _function(
    "mock_set_apiversion",
    ctypes.c_int, _POINTER, ctypes.c_int16, ctypes.c_int16, ctypes.c_int16,
)  # fmt: skip
_start_tracking = _function("mock_start_request_tracking", None, _POINTER)
_get_requests = _function(
    "mock_get_requests",
    ctypes.POINTER(_POINTER), _POINTER, ctypes.POINTER(ctypes.c_size_t),
)  # fmt: skip
_api_key = _function("mock_request_api_key", ctypes.c_int16, _POINTER)
_destroy_requests = _function(
    "mock_request_destroy_array", None, ctypes.POINTER(_POINTER), ctypes.c_size_t
)


class MockCluster:
    """Brokers 1 to ``brokers`` on ports of their own, as long as the block lasts."""

    def __init__(self, brokers: int = 1) -> None:
        error = ctypes.create_string_buffer(_ERROR_OCTETS)
        configuration = _conf_new()
        # Nothing but the cluster is used of this client.
        _conf_set(configuration, b"log_level", b"0", error, len(error))
        self._client = _new(_PRODUCER, configuration, error, len(error))
        assert self._client, error.value
        self._cluster = _cluster_new(self._client, brokers)
        _start_tracking(self._cluster)
        addresses = tuple(_bootstraps(self._cluster).decode().split(","))
        self.settings = ClientSettings(addresses)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        _cluster_destroy(self._cluster)
        _destroy(self._client)

    def create_topic(self, topic: str, partitions: int, replicas: int = 1) -> None:
        """Create a topic; topics asked for by name are created too."""
        _check(_topic_create(self._cluster, topic.encode(), partitions, replicas))

    def set_leader(self, topic: str, partition: int, broker: int | None) -> None:
        """Change the leader in the metadata; None: there is none."""
        leader = -1 if broker is None else broker
        _check(_set_leader(self._cluster, topic.encode(), partition, leader))

    def answer(self, api_key: int, errors: Iterable[int]) -> None:
        """Answer the next requests of this kind with these error codes, 0 for none."""
        codes = list(errors)
        _push_errors(self._cluster, api_key, len(codes), (ctypes.c_int * len(codes))(*codes))

    def unsupported(self, api_key: int) -> None:
        """Serve no request of this kind."""
        _check(_set_versions(self._cluster, api_key, -1, -1))

    def requests(self) -> Counter[int]:
        """Count the requests so far by API key."""
        number = ctypes.c_size_t()
        found = _get_requests(self._cluster, ctypes.byref(number))
        try:
            return Counter(_api_key(found[n]) for n in range(number.value))
        finally:
            _destroy_requests(found, number.value)


def _check(code: object) -> None:
    assert code == 0, f"librdkafka's error {code}"
