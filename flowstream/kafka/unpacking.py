"""Bounds what the batches that aiokafka fetched may unpack to.

aiokafka unpacks a batch whole: a few thousand octets, which anyone who may write to a topic
can send, take gigabytes of memory.
"""

from __future__ import annotations

import contextlib
import sys
from contextvars import ContextVar
from functools import partial
from typing import TYPE_CHECKING, Final

from aiokafka.record.default_records import DefaultRecordBatch
from aiokafka.record.legacy_records import LegacyRecordBatch

from flowstream.compression import CODECS, unpack

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

_is_bounded: Final = ContextVar("is_bounded", default=False)


@contextlib.contextmanager
def bounded_unpacking() -> Iterator[None]:
    """Raise ValueError for larger batches that are taken from a consumer within the block.

    Other users of aiokafka in this process are not affected.
    """
    token = _is_bounded.set(True)
    try:
        yield
    finally:
        _is_bounded.reset(token)


def _unpacked(name: str, decode: Callable[[bytes], bytes], packed: bytes) -> bytes:
    return unpack(CODECS[name], bytes(packed)) if _is_bounded.get() else decode(packed)


def _bound_decoders_of(kind: type) -> None:
    # The compiled module, or the one in Python where there is none.
    module = sys.modules[kind.__module__]
    for name in CODECS:
        decode = getattr(module, f"{name}_decode", None)
        if decode is not None:
            setattr(module, f"{name}_decode", partial(_unpacked, name, decode))


_bound_decoders_of(DefaultRecordBatch)
# Brokers before 4.0 have batches of former versions.
_bound_decoders_of(LegacyRecordBatch)
