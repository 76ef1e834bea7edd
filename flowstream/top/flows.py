"""Flow records as the columns that the live table needs, out of messages of any format."""

from __future__ import annotations

from operator import attrgetter
from typing import TYPE_CHECKING, Final

import numpy as np

from flowstream.encode.fixed_layout import published_flows
from flowstream.errors import DecodeError
from flowstream.layouts.flow import FLOW_RECORD
from flowstream.reading.selection import decoded
from flowstream.records import FlowRecord

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from flowstream.messages import Message
    from flowstream.reading.where import Condition

_NUMBERS: Final = {
    "record_type": np.uint8,
    "etype": np.uint16,
    "proto": np.uint8,
    "src_net": np.uint8,
    "dst_net": np.uint8,
    "src_port": np.uint16,
    "dst_port": np.uint16,
    "flow_direction": np.uint8,
    "sampling_rate": np.uint32,
    "packets": np.uint64,
    "l2_bytes": np.uint64,
    "time_received_ns": np.uint64,
    "time_flow_start_ns": np.uint64,
    "time_flow_end_ns": np.uint64,
}
_ADDRESSES: Final = ("src_addr", "dst_addr")
FLOW: Final = np.dtype([*_NUMBERS.items(), *((name, "V16") for name in _ADDRESSES)])
"""Columns of a flow record; addresses are 16 octets, IPv4 v4-mapped."""
_row: Final = attrgetter(*FLOW.names or ())


class Decoder:
    """Makes columns of messages; counts and leaves out values that are not flow records.

    ``where`` is a condition on the records. ``first_bad`` names the place of the first
    value that was left out.
    """

    def __init__(self, where: Condition | None = None) -> None:
        self._where = where
        self.bad = 0
        self.first_bad = ""

    def __call__(self, messages: Sequence[Message]) -> NDArray[np.void]:
        """Columns of the records for which the condition holds, dtype FLOW."""
        if self._where is None and messages:
            values = [message.value for message in messages]
            whole = all(len(value) == FLOW_RECORD.itemsize for value in values)
            records = published_flows(values) if whole else None
            if records is not None:
                return _of_layout(records)
        return self._one_by_one(messages)

    def _one_by_one(self, messages: Sequence[Message]) -> NDArray[np.void]:
        rows = []
        for message in messages:
            try:
                record = decoded(message)
            except DecodeError as err:
                self._leave_out(str(err))
                continue
            if not isinstance(record, FlowRecord):
                self._leave_out(f"{message.place}: not a flow record")
            elif self._where is None or self._where.matches(record):
                rows.append(_row(record))
        return np.array(rows, FLOW)

    def _leave_out(self, why: str) -> None:
        self.bad += 1
        self.first_bad = self.first_bad or why


def _of_layout(records: NDArray[np.void]) -> NDArray[np.void]:
    flows = np.empty(len(records), FLOW)
    for name in _NUMBERS:
        flows[name] = records[name]
    for name in _ADDRESSES:
        flows[name] = np.ascontiguousarray(records[name]).view("V16").ravel()
    return flows
