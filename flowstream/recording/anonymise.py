"""Anonymises messages of flowstream's topics; importing this needs the extra ``anonymise``.

Addresses by Crypto-PAn (Xu, Fan, Ammar, Moon: "Prefix-Preserving IP Address
Anonymization", ICNP 2002): two addresses share as many leading bits afterwards as
before. MAC addresses, host ids and names by a keyed hash. Equal inputs stay equal, so
sums, joins and the audit hold as before. Ports, times and amounts stay as they are.
"""

from __future__ import annotations

from functools import lru_cache
from hashlib import blake2b, sha256
from typing import TYPE_CHECKING, Any, Final

import msgspec
import numpy as np
from yacryptopan import CryptoPAn

from flowstream.encode import counters_key, partition_keys
from flowstream.layouts.flow import FLOW_RECORD
from flowstream.reading import decoded
from flowstream.records import CountersRecord, FlowRecord, community_id, encode
from flowstream.records.decoding import flow_extras, format_of, prefix_of
from flowstream.records.text import ETYPE_IPV4, V4_MAPPED

if TYPE_CHECKING:
    from flowstream.messages import Message

_CACHED: Final = 131_072


class Anonymiser:
    """Anonymises messages with a secret; the same one gives the same names again."""

    def __init__(self, secret: bytes) -> None:
        self._key = sha256(secret).digest()
        pan = CryptoPAn(self._key)

        # 32 or 128 rounds of AES for each address.
        @lru_cache(_CACHED)
        def encrypted(octets: bytes, version: int) -> bytes:
            number = pan.anonymize_bin(int.from_bytes(octets), version)
            return int(number).to_bytes(len(octets))

        self._encrypted = encrypted

    def message(self, message: Message) -> Message:
        """Return the message with an anonymised value and key, and without headers.

        Raises DecodeError, naming the place, for a value that is not a record.
        """
        record = decoded(message)
        if isinstance(record, CountersRecord):
            changed: FlowRecord | CountersRecord = self._counters(record)
            extras = {}
        else:
            changed = self._flow(record)
            host, known_id = flow_extras(message.value)
            extras = {
                "host": self._name("host-", host),
                "community_id": community_id(changed) if known_id else "",
            }
        value = encode(
            changed, format_of(message.value) or "json", prefix=prefix_of(message.value), **extras
        )
        key = None if message.key is None else _key(changed)
        return message._replace(value=value, key=key, headers=())

    def _flow(self, record: FlowRecord) -> FlowRecord:
        return msgspec.structs.replace(
            record,
            **self._identity(record),
            src_addr=self._address(record.src_addr, record.etype, record.src_net),
            dst_addr=self._address(record.dst_addr, record.etype, record.dst_net),
            src_mac=self._mac(record.src_mac),
            dst_mac=self._mac(record.dst_mac),
        )

    def _counters(self, record: CountersRecord) -> CountersRecord:
        return msgspec.structs.replace(
            record,
            **self._identity(record),
            host=self._name("host-", record.host),
            netns=self._name("netns-", record.netns),
        )

    def _identity(self, record: FlowRecord | CountersRecord) -> dict[str, Any]:
        return {
            "host_id": self._hash(b"id", record.host_id, 16),
            "sampler_address": self._address(record.sampler_address, ETYPE_IPV4, 128),
            "if_name": self._name("if-", record.if_name),
        }

    def _address(self, address: bytes, etype: int, length: int) -> bytes:
        """Anonymise an address that stands for the first ``length`` bits."""
        if etype == ETYPE_IPV4 and address.startswith(V4_MAPPED):
            return V4_MAPPED + _masked(self._encrypted(address[12:], 4), length)
        return _masked(self._encrypted(address, 6), length)

    def _mac(self, mac: bytes) -> bytes:
        if not any(mac):
            return mac
        # Locally administered; a group address stays one.
        first, *rest = self._hash(b"mac", mac, 6)
        return bytes([first & 0xFC | 0x02 | mac[0] & 0x01, *rest])

    def _name(self, prefix: str, name: str) -> str:
        return prefix + self._hash(prefix.encode(), name.encode(), 4).hex() if name else ""

    def _hash(self, purpose: bytes, value: bytes, size: int) -> bytes:
        return blake2b(value, digest_size=size, key=self._key, person=purpose).digest()


def _masked(octets: bytes, length: int) -> bytes:
    shift = max(8 * len(octets) - length, 0)
    return (int.from_bytes(octets) >> shift << shift).to_bytes(len(octets))


def _key(record: FlowRecord | CountersRecord) -> bytes:
    """Message key of a record: the old one would tell the addresses."""
    if isinstance(record, CountersRecord):
        return counters_key(record)
    columns = np.frombuffer(encode(record, "msgpack"), FLOW_RECORD)
    return bytes(partition_keys(columns)[0])
