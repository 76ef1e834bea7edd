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
from flowstream.agent.past import Counts, Past, outcomes
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
    past: list[tuple[AttachmentKey, Counts]]
    counters_failed: int


class Run:
    """One run, perhaps continued by several processes.

    ``identity`` refers to ``names``, the names of the interfaces by index, which
    change with the attachments. ``past`` has the counts of attachments that went.
    """

    def __init__(self, identity: Identity, ledger: Ledger | None = None) -> None:
        self.names = dict(identity.interfaces)
        self.identity = dataclasses.replace(identity, interfaces=self.names)
        self.ledger = ledger or Ledger()
        self.past = Past()
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
        sums = outcomes(Account())
        for each in (self.past.sums, *map(outcomes, self.ledger.accounts().values())):
            sums.update(each)
        return dict(sums)

    def close_account(self, key: AttachmentKey, kernel: KernelCounts) -> None:
        """Move an attachment that went to the past; all of its records have an outcome."""
        self.past.keep(key, Counts(self.ledger.close(key), kernel))

    def reopen_account(self, key: AttachmentKey) -> KernelCounts | None:
        """Go on with the account of an attachment that is back; return the kernel's counts."""
        if (counts := self.past.take(key)) is None:
            return None
        self.ledger.reopen(key, counts.account)
        return counts.kernel

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
            past=list(self.past),
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
        for key, counts in state.past:
            run.past.keep(key, counts)
        run._next_seq.update(state.next_seq)
        return run
