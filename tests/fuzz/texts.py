"""URLs of sinks and sources, addresses and identifiers."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from flowstream.errors import UsageError
from flowstream.records.text import (
    address_bytes,
    address_text,
    host_id_bytes,
    ip_address,
    mac_bytes,
    mac_text,
    utf8_text,
)
from flowstream.urls import (
    RegistryUrl,
    parse_registry,
    parse_url,
    parse_url_or_directory,
    without_secret,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence


def seeds() -> Sequence[bytes]:
    """Return a text of each kind."""
    return [
        b"kafka://10.0.0.1:9092,[2001:db8::1]:9093",
        b"kafka://b\xc3\xbccher.example:9092/",
        b"kafka://user:secret@host:9092",
        b"file:recording",
        b"file:///var/lib/recording",
        b"stdout:",
        b"recording",
        b"http://user:secret@[fe80::1%25eth0]:8081/apis/ccompat/v7/",
        b"https://registry.example",
        b"10.0.0.1",
        b"2001:db8::1",
        b"::ffff:10.0.0.1",
        b"fe80::1%eth0",
        b"02:00:00:00:00:01",
        b"000102030405060708090a0b0c0d0e0f",
    ]


def target(data: bytes) -> None:
    """Read it as each kind of text, as the command line and the file system decode octets."""
    text = data.decode(errors="surrogateescape")
    utf8_text(text).encode()
    assert without_secret(without_secret(text)) == without_secret(text)
    for parse in (parse_url, parse_url_or_directory, parse_registry):
        try:
            url = parse(text)
        except UsageError:
            continue
        if isinstance(url, RegistryUrl):
            url = replace(url, login=b"")
        assert parse(str(url)) == url
    address = _read(address_bytes, text)
    if address is not None:
        for etype in (0x0800, 0x86DD):
            assert address_bytes(address_text(address, etype)) == address
            assert ip_address(address, etype)
    mac = _read(mac_bytes, text)
    assert mac is None or mac_text(mac) == text.lower()
    host_id = _read(host_id_bytes, text)
    assert host_id is None or host_id.hex() == text.lower()


def _read(read: Callable[[str], bytes], text: str) -> bytes | None:
    try:
        return read(text)
    except ValueError:
        return None
