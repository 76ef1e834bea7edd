"""Identity of the publisher, and the columns of a record that carry it."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

import numpy as np

from flowstream.records.text import utf8_text

if TYPE_CHECKING:
    from collections.abc import Mapping

    from numpy.typing import NDArray

_NAME_BYTES: Final = 15
EPOCH_STEP_NS: Final = 1_024
"""``agent_epoch`` is a multiple of it: JavaScript's numbers have 53 bits."""


@dataclass(frozen=True, slots=True)
class Identity:
    """Values that are the same in every record of a run.

    ``agent_epoch`` in Unix ns, a multiple of 1,024 (so that a double holds it);
    ``host_id`` 16 bytes; ``host`` the host's name; ``sampler_address`` the
    agent's own address, 16 bytes (IPv4 v4-mapped, RFC 4291);
    ``interfaces`` names by interface index. The mapping may be the caller's live
    one: an interface that is renamed gets its new name from the next batch on.
    """

    agent_epoch: int
    host_id: bytes
    host: str
    sampler_address: bytes
    interfaces: Mapping[int, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        object.__setattr__(self, "host", utf8_text(self.host))
        for name in ("host_id", "sampler_address"):
            if len(getattr(self, name)) != 16:
                raise ValueError(f"{name} has {len(getattr(self, name))} bytes, not 16")
        if self.agent_epoch % EPOCH_STEP_NS:
            raise ValueError(
                f"agent_epoch {self.agent_epoch} is not a multiple of {EPOCH_STEP_NS}"
            )


def stamp(records: NDArray[np.void], identity: Identity, first_seq: int) -> None:
    """Write run, host, agent address, sequence and interface names into records, in place.

    ``records`` has shape (n,) and dtype FLOW_RECORD; they get ``seq`` from
    ``first_seq`` to ``first_seq + n - 1``. An interface without a name in
    ``identity`` gets the empty one.
    """
    records["agent_epoch"] = identity.agent_epoch
    records["host_id"] = np.frombuffer(identity.host_id, np.uint8)
    records["sampler_address"] = np.frombuffer(identity.sampler_address, np.uint8)
    records["seq"] = np.arange(first_seq, first_seq + len(records), dtype=np.uint64)
    records["if_name"] = 0
    if_index = records["if_index"].astype(np.uint32)
    for index, name in identity.interfaces.items():
        records["if_name"][if_index == index] = _padded(name)


def _padded(name: str) -> NDArray[np.uint8]:
    # The kernel allows any byte in a name and at most 15 of them; "?" is no longer
    # than the byte that it stands for.
    return np.frombuffer(utf8_text(name).encode().ljust(_NAME_BYTES, b"\0"), np.uint8)
