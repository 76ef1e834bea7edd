"""Answers of processes without privileges, which hostile input may have taken over."""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING

from flowstream.errors import FlowstreamError
from flowstream.host import unprivileged

if TYPE_CHECKING:
    from collections.abc import Sequence


def seeds() -> Sequence[bytes]:
    """Return values of several types, an error, and what no such process writes."""
    return [
        b'{"value":[1,2,2147483647],"error":"","kind":""}',
        b'{"value":"text","error":"","kind":""}',
        b'{"value":null,"error":"the registry is away","kind":"SinkError"}',
        b'{"error":"\xff"}',
        b'{"value":' + b"[" * 20_000 + b"]" * 20_000 + b"}",
    ]


def target(data: bytes) -> None:
    """Read an answer as a list of numbers and as a text."""
    with contextlib.suppress(FlowstreamError):
        assert all(isinstance(each, int) for each in unprivileged.result(data, list[int]))
    with contextlib.suppress(FlowstreamError):
        assert isinstance(unprivileged.result(data, str), str)
