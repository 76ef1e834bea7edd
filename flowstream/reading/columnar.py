"""JSON lines of MessagePack flows by numpy, without decoding single records."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from flowstream.encode.fixed_layout import published_flows
from flowstream.encode.json_encoder import JsonEncoder

if TYPE_CHECKING:
    from collections.abc import Sequence

# MessagePack carries no host.
_ENCODER: Final = JsonEncoder("")


def json_values(values: Sequence[bytes]) -> list[bytes] | None:
    """Return the JSON of values; None unless all of them are flows of the fixed layout."""
    records = published_flows(values)
    return None if records is None else _ENCODER.encode(records)
