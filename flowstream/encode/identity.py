"""Who publishes, and the columns of a record that say so."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

import numpy as np

from flowstream.records.text import utf8_text

if TYPE_CHECKING:
    from collections.abc import Mapping

    from numpy.typing import NDArray

_NAME_BYTES: Final = 15


@dataclass(frozen=True, slots=True)
class Identity:
    """What is the same in every record of a run.

    ``agent_epoch`` in Unix ns, ``host_id`` 16 bytes, ``host`` the host's name,
    ``interfaces`` names by interface index. The mapping may be the caller's live
    one: an interface that is renamed gets its new name from the next batch on.
    """

    agent_epoch: int
    host_id: bytes
    host: str
    interfaces: Mapping[int, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        object.__setattr__(self, "host", utf8_text(self.host))
        if len(self.host_id) != 16:
            raise ValueError(f"host_id has {len(self.host_id)} bytes, not 16")


def stamp(records: NDArray[np.void], identity: Identity, first_seq: int) -> None:
    """Write run, host, sequence and interface names into records, in place.

    ``records`` has shape (n,) and dtype FLOW_RECORD; they get ``seq`` from
    ``first_seq`` to ``first_seq + n - 1``. An interface without a name in
    ``identity`` gets the empty one.
    """
    records["agent_epoch"] = identity.agent_epoch
    records["host_id"] = np.frombuffer(identity.host_id, np.uint8)
    records["seq"] = np.arange(first_seq, first_seq + len(records), dtype=np.uint64)
    records["in_if_name"] = 0
    in_if = records["in_if"].astype(np.uint32)
    for index, name in identity.interfaces.items():
        records["in_if_name"][in_if == index] = _padded(name)


def _padded(name: str) -> NDArray[np.uint8]:
    # The kernel allows any byte in a name and at most 15 of them; "?" is no longer
    # than the byte that it stands for.
    return np.frombuffer(utf8_text(name).encode().ljust(_NAME_BYTES, b"\0"), np.uint8)
