"""Addresses and identifiers: their bytes, and the text that JSON and Avro carry.

The functions that read text raise ValueError on anything that is not exactly such text.
"""

from __future__ import annotations

import unicodedata
from functools import lru_cache
from ipaddress import IPv4Address, IPv6Address
from socket import AF_INET, AF_INET6, inet_ntop, inet_pton
from typing import Final

from flowstream.layouts.constants import EtherType

ETYPE_IPV4: Final = EtherType.IPV4.value
ETYPE_IPV6: Final = EtherType.IPV6.value
V4_MAPPED: Final = bytes(10) + b"\xff\xff"
"""The 12 bytes before the IPv4 address in a v4-mapped one (RFC 4291, 2.5.5.2)."""


NAME_BYTES: Final = 15
"""Longest name of an interface (IFNAMSIZ, without the NUL)."""


def utf8_text(text: str) -> str:
    """``text`` with "?" for every byte that was not UTF-8 (Python has surrogates for them)."""
    return text.encode("utf-8", "replace").decode()


def interface_name(text: str) -> str:
    """``text`` as the name of an interface, cut to 15 bytes of whole characters.

    "?" stands for every control character and every byte that was not UTF-8.
    """
    printable = "".join("?" if unicodedata.category(each) == "Cc" else each for each in text)
    return utf8_text(printable).encode()[:NAME_BYTES].decode(errors="ignore")


def address_text(address: bytes, etype: int = ETYPE_IPV4) -> str:
    """Text of 16 address bytes, IPv4 dotted.

    ``etype`` is the packet's: a v4-mapped address of an IPv6 packet stays IPv6,
    "::ffff:10.0.0.1". An address that belongs to no packet (the agent's own) needs no ``etype``.
    """
    if etype == ETYPE_IPV4 and address.startswith(V4_MAPPED):
        return inet_ntop(AF_INET, address[12:])
    return inet_ntop(AF_INET6, address)


def network_text(address: bytes, length: int, etype: int = ETYPE_IPV4) -> str:
    """Text of an address, with its prefix length where that leaves bits out: "10.0.0.0/8".

    ``etype`` as for ``address_text``.
    """
    text = address_text(address, etype)
    return text if length >= (128 if ":" in text else 32) else f"{text}/{length}"


@lru_cache(maxsize=16_384)
def address_bytes(text: str) -> bytes:
    """16 bytes of an IPv4 (then v4-mapped) or IPv6 address."""
    try:
        if ":" in text:
            return inet_pton(AF_INET6, text)
        return V4_MAPPED + inet_pton(AF_INET, text)
    except OSError as err:
        raise ValueError(f"{text!r} is not an IP address") from err


def ip_address(address: bytes, etype: int = ETYPE_IPV4) -> IPv4Address | IPv6Address:
    """Address object of 16 bytes; ``etype`` as for ``address_text``."""
    if etype == ETYPE_IPV4 and address.startswith(V4_MAPPED):
        return IPv4Address(address[12:])
    return IPv6Address(address)


def mac_text(mac: bytes) -> str:
    """Text of 6 bytes: "02:00:00:00:00:01"."""
    return mac.hex(":")


@lru_cache(maxsize=16_384)
def mac_bytes(text: str) -> bytes:
    """6 bytes of "02:00:00:00:00:01"."""
    mac = bytes.fromhex(text.replace(":", ""))
    if mac.hex(":") != text.lower():
        raise ValueError(f"{text!r} is not a MAC address")
    return _of_length(mac, 6, text)


@lru_cache(maxsize=1_024)
def host_id_bytes(text: str) -> bytes:
    """16 bytes of 32 hex digits."""
    host_id = bytes.fromhex(text)
    if host_id.hex() != text.lower():
        raise ValueError(f"{text!r} is not 32 hex digits")
    return _of_length(host_id, 16, text)


def _of_length(value: bytes, length: int, text: str) -> bytes:
    if len(value) != length:
        raise ValueError(f"{text!r} is {len(value)} bytes, not {length}")
    return value
