"""State of a whole run: identity, sequence numbers and ledger, saved and restored as one."""

from __future__ import annotations

import copy
import dataclasses

import msgspec

# msgspec reads the annotations at run time.
from flowstream.accounting.amounts import KernelCounts  # noqa: TC001
from flowstream.accounting.identity import Identity
from flowstream.accounting.ledger import Account, Ledger
from flowstream.accounting.tally import AttachmentKey  # noqa: TC001
from flowstream.streams import Stream


class RunState(msgspec.Struct, frozen=True):
    """A run's state as plain values, for msgspec to encode; see ``Run``."""

    agent_epoch: int
    host_id: bytes
    host: str
    sampler_address: bytes
    names: dict[int, str]
    next_seq: dict[Stream, int]
    accounts: list[tuple[AttachmentKey, Account]]
    removed: list[tuple[AttachmentKey, KernelCounts]]
    counters_failed: int


class Run:
    """One run, perhaps continued by several processes.

    ``identity`` refers to ``names``, the names of the interfaces by index, which
    change with the attachments. ``removed`` has the kernel's counts of attachments
    that were removed.
    """

    def __init__(self, identity: Identity, ledger: Ledger | None = None) -> None:
        self.names = dict(identity.interfaces)
        self.identity = dataclasses.replace(identity, interfaces=self.names)
        self.ledger = ledger or Ledger()
        self.removed: dict[AttachmentKey, KernelCounts] = {}
        self._next_seq = dict.fromkeys(Stream, 0)

    def next_seq(self, stream: Stream) -> int:
        """Return the number that the next record of a stream gets."""
        return self._next_seq[stream]

    def take_seq(self, stream: Stream, count: int) -> int:
        """Use up ``count`` numbers of a stream; return the first."""
        first = self._next_seq[stream]
        self._next_seq[stream] = first + count
        return first

    def sums(self) -> dict[str, int]:
        """Outcomes of the records so far, over all attachments."""
        accounts = self.ledger.accounts().values()
        return {
            "flow_records": sum(account.flows.acknowledged for account in accounts),
            "new_flow_records": sum(account.new_flows.acknowledged for account in accounts),
            "failed_records": sum(account.flows.failed for account in accounts),
            "in_doubt_records": sum(
                amount.records for account in accounts for amount in account.in_doubt.values()
            ),
            "spooled_records": sum(account.spool.records for account in accounts),
        }

    def state(self) -> RunState:
        """Return a copy of the state.

        Save it when the sink is empty: records without an outcome never get one in the
        process that restores it.
        """
        return RunState(
            agent_epoch=self.identity.agent_epoch,
            host_id=self.identity.host_id,
            host=self.identity.host,
            sampler_address=self.identity.sampler_address,
            names=dict(self.names),
            next_seq=dict(self._next_seq),
            accounts=copy.deepcopy(list(self.ledger.accounts().items())),
            removed=list(self.removed.items()),
            counters_failed=self.ledger.counters_failed,
        )

    @classmethod
    def restore(cls, state: RunState) -> Run:
        """Return a run that continues where ``state`` was saved."""
        run = cls(
            Identity(
                state.agent_epoch, state.host_id, state.host, state.sampler_address, state.names
            ),
            Ledger(dict(state.accounts), state.counters_failed),
        )
        run.removed.update(state.removed)
        run._next_seq.update(state.next_seq)
        return run
