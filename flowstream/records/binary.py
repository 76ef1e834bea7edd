"""Forms whose libraries are an extra: imported only for such values."""

from __future__ import annotations

from functools import cache
from typing import Any

from flowstream.extras import requires


@cache
def binary_form(record_format: str) -> Any:
    """Module of ``protobuf`` or ``avro``, with read, write and extras.

    Raises MissingExtraError without its library.
    """
    with requires("readers", record_format):
        if record_format == "avro":
            from flowstream.records import avro_form  # noqa: PLC0415

            return avro_form
        from flowstream.records import protobuf_form  # noqa: PLC0415

    return protobuf_form
