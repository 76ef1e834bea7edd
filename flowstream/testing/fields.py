"""Fields of records, as tests write them."""

from __future__ import annotations

import ipaddress
from functools import cache
from typing import TYPE_CHECKING, Any, Final, get_type_hints

import msgspec

from flowstream.records.text import address_bytes, host_id_bytes, mac_bytes
from flowstream.wording import did_you_mean

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

FIRST_NS: Final = 1_700_000_000_000_000_000
"""Unix time of the first record, and the run's epoch (a multiple of 1,024)."""
STEP_NS: Final = 1_000_000
HOST_ID: Final = bytes(range(16))
SAMPLER: Final = address_bytes("192.0.2.1")


@cache
def field_types(record: type[msgspec.Struct]) -> dict[str, Any]:
    """Return the types of a record's fields, with their bounds."""
    return get_type_hints(record, include_extras=True)


def checked(record: type[msgspec.Struct], fields: Mapping[str, Any]) -> dict[str, Any]:
    """Return ``fields`` with the types that the record has.

    Addresses, MAC addresses and ``host_id`` may be text, addresses those of
    ``ipaddress`` too. Raises TypeError for an unknown field, ValueError for a value
    that its field cannot have.
    """
    types = field_types(record)
    found = {}
    for name, value in fields.items():
        if name not in types:
            raise TypeError(f"{record.__name__} has no field {name!r}{did_you_mean(name, types)}")
        try:
            if name in _FROM_TEXT and not isinstance(value, bytes):
                value = _FROM_TEXT[name](str(value))  # noqa: PLW2901
            found[name] = msgspec.convert(value, types[name])
        except ValueError as err:  # msgspec's errors too
            raise ValueError(f"{name}: {err}") from err
    return found


def _address(text: str) -> bytes:
    return address_bytes(str(ipaddress.ip_address(text)))


_FROM_TEXT: Final[dict[str, Callable[[str], bytes]]] = {
    "sampler_address": _address,
    "src_addr": _address,
    "dst_addr": _address,
    "src_mac": mac_bytes,
    "dst_mac": mac_bytes,
    "host_id": host_id_bytes,
}
