"""Turns what the kernel hands over into published records, column by column."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from flowstream.layouts import flow as layout
from flowstream.layouts.constants import (
    FLOW_RECORD_FIELDS,
    SCHEMA_VERSION,
    EtherType,
    MsgpackTag,
    RecordType,
)

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from flowstream.accounting.attachment_key import AttachmentKey
    from flowstream.accounting.snapshot import Moment

_TAGS = {1: MsgpackTag.U8, 2: MsgpackTag.U16, 4: MsgpackTag.U32, 8: MsgpackTag.U64}


def _template() -> NDArray[np.void]:
    """Build a record of zeros with every MessagePack tag in place, shape (1,)."""
    record = np.zeros(1, layout.FLOW_RECORD)
    names = layout.FLOW_RECORD.names or ()
    values = [name for name in names if not name.startswith(("tag_", "size_"))]
    for name in values[1:]:
        base, shape = layout.FLOW_RECORD[name].subdtype or (layout.FLOW_RECORD[name], ())
        if not shape:
            record[f"tag_{name}"] = _TAGS[base.itemsize]
        elif f"size_{name}" in names:
            record[f"tag_{name}"], record[f"size_{name}"] = MsgpackTag.BIN8, shape[0]
        else:
            record[f"tag_{name}"] = MsgpackTag.STR15
    record["tag_array"], record["array_fields"] = MsgpackTag.ARRAY16, FLOW_RECORD_FIELDS
    record["schema_version"] = SCHEMA_VERSION
    return record


TEMPLATE = _template()
"""A record of zeros whose octets are valid MessagePack; shape (1,)."""


def _blank(count: int) -> NDArray[np.void]:
    # numpy copies void items by memcpy, structures field by field.
    octets = np.repeat(TEMPLATE.view((np.void, TEMPLATE.itemsize)), count)
    return octets.view(layout.FLOW_RECORD)


_ETYPE_IPV4 = EtherType.IPV4.value
_SAME = (
    *("src_port", "dst_port", "vlan_id", "etype", "proto", "icmp_type", "icmp_code"),
    *("if_index", "flow_direction"),
)
_VALUES = ("packets", "bytes", "l2_bytes", "ip_tos", "ip_ttl", "src_mac", "dst_mac")


def from_table(
    keys: NDArray[np.void],
    values: NDArray[np.void],
    end_reason: int,
    sampling: int | NDArray[np.uint32],
    now: Moment,
) -> NDArray[np.void]:
    """Flow records of drained entries: keys FLOW_KEY, values FLOW_VALUE, both of shape (n,).

    ``sampling`` is the rate of all, or that of each, shape (n,).
    """
    records = _blank(len(keys))
    records["record_type"] = RecordType.FLOW
    # Addresses keep the order of their octets.
    for name in ("src_addr", "dst_addr"):
        records[name] = np.ascontiguousarray(keys[name]).view(np.uint8)
    for name in _SAME:
        records[name] = keys[name]
    records["src_net"] = records["dst_net"] = np.where(keys["etype"] == _ETYPE_IPV4, 32, 128)
    for name in _VALUES:
        records[name] = values[name]
    records["flow_count"] = 1
    records["tcp_flags"] = np.packbits(values["flag_seen"], axis=1, bitorder="little")[:, 0]
    records["sampling_rate"] = sampling
    records["end_reason"] = end_reason
    records["time_flow_start_ns"] = values["time_start_ns"] + np.uint64(now.offset_ns)
    records["time_flow_end_ns"] = values["time_end_ns"] + np.uint64(now.offset_ns)
    records["time_received_ns"] = now.unix_ns
    return records


def with_unix_times(records: NDArray[np.void], now: Moment) -> NDArray[np.void]:
    """Make boot times Unix times, in place, in records as they left a ring buffer."""
    for name in ("time_flow_start_ns", "time_flow_end_ns"):
        records[name] += np.uint64(now.offset_ns)
    records["time_received_ns"] = now.unix_ns
    return records


def from_sources(
    sources: NDArray[np.uint32], now: Moment, *, key: AttachmentKey, sampling: int
) -> NDArray[np.void]:
    """New-flow records with only the attachment and the IPv4 source set.

    ``sources`` are in network byte order, shape (n,).
    """
    records = _blank(len(sources))
    records["record_type"] = RecordType.NEW_FLOW
    records["etype"] = _ETYPE_IPV4
    records["src_net"] = 32  # dst_net 0: any destination
    records["flow_count"] = 1
    # The destination is unknown: 0.0.0.0.
    for name in ("src_addr", "dst_addr"):
        records[name][:, 10:12] = 0xFF
    records["src_addr"][:, 12:] = sources.view(np.uint8).reshape(-1, 4)
    records["if_index"], records["flow_direction"] = key
    records["sampling_rate"] = sampling
    for name in ("time_flow_start_ns", "time_flow_end_ns", "time_received_ns"):
        records[name] = now.unix_ns
    return records
