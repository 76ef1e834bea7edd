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


def _bound_decoders() -> None:
    # The compiled module, or the one in Python where there is none.
    module = sys.modules[DefaultRecordBatch.__module__]
    for name in CODECS.keys() - {"none"}:
        decoder = f"{name}_decode"
        setattr(module, decoder, partial(_unpacked, name, getattr(module, decoder)))


_bound_decoders()
