"""Tally of a batch: attachment, packets and octets of each record."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from flowstream.accounting.amounts import RecordAmount
from flowstream.accounting.attachment_key import AttachmentKey

if TYPE_CHECKING:
    from collections.abc import Iterator

    from numpy.typing import NDArray


def attachment_codes(if_index: NDArray[Any], flow_direction: NDArray[Any]) -> NDArray[np.uint64]:
    """Code of each attachment: ``2 * if_index + flow_direction``. All have shape (n,)."""
    codes = if_index.astype(np.uint64)
    codes <<= np.uint64(1)
    codes |= flow_direction.astype(np.uint64)
    return codes


@dataclass(frozen=True, slots=True)
class Tally:
    """Attachment, packets and octets of each record, to account for any part of a batch.

    Three arrays of shape (n,): attachments (``attachment_codes``), packets, frame
    octets. Records of new_flows and counters stand for no packets: zeros. ``ends_ns``, where
    it is known, has the time of each record's last packet, Unix ns.
    """

    attachments: NDArray[np.uint64]
    packets: NDArray[np.uint64]
    l2_bytes: NDArray[np.uint64]
    ends_ns: NDArray[np.uint64] | None = None

    def __len__(self) -> int:
        return len(self.attachments)

    def __getitem__(self, part: slice | NDArray[Any]) -> Tally:
        ends_ns = None if self.ends_ns is None else self.ends_ns[part]
        return Tally(self.attachments[part], self.packets[part], self.l2_bytes[part], ends_ns)

    @classmethod
    def empty(cls, n: int = 0) -> Tally:
        """Tally of ``n`` records that belong to no interface and carry no packets."""
        zeros = np.zeros(n, np.uint64)
        return cls(zeros, zeros, zeros)

    @classmethod
    def of_flows(cls, records: NDArray[np.void]) -> Tally:
        """Tally of records of shape (n,) and dtype FLOW_RECORD."""
        return cls(
            attachment_codes(records["if_index"], records["flow_direction"]),
            records["packets"].astype(np.uint64),
            records["l2_bytes"].astype(np.uint64),
            records["time_flow_end_ns"].astype(np.uint64),
        )

    def sums(self) -> Iterator[tuple[AttachmentKey, RecordAmount]]:
        """Sums per attachment that occurs."""
        codes = self.attachments
        if len(codes) and (codes == codes[0]).all():
            # A batch of one interface is the usual case: half the time.
            yield AttachmentKey.of_code(int(codes[0])), _sum(self)
            return
        if not len(codes):
            return
        # np.unique would import numpy.ma, which an unprivileged agent may not be able to.
        order = np.argsort(codes, kind="stable")
        codes = codes[order]
        starts = np.flatnonzero(np.concatenate(([True], codes[1:] != codes[:-1])))
        for code, *sums in zip(
            codes[starts].tolist(),
            np.diff(np.append(starts, len(codes))).tolist(),
            np.add.reduceat(self.packets[order], starts).tolist(),
            np.add.reduceat(self.l2_bytes[order], starts).tolist(),
            strict=True,
        ):
            yield AttachmentKey.of_code(code), RecordAmount(*sums)


def _sum(tally: Tally) -> RecordAmount:
    return RecordAmount(len(tally), int(tally.packets.sum()), int(tally.l2_bytes.sum()))
