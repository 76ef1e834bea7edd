"""Chains of runs: each took over the link of the one before, without a gap. Pure.

Per host, interface and direction every run names at most one run before it. So runs that
name each other make trees, which are chains where every run is named once at most, and
circles, which no agent makes. All of them are followed without recursion, and in time
that grows with the runs and no more.
"""

from __future__ import annotations

from collections import defaultdict
from typing import TYPE_CHECKING, Final, NamedTuple

from flowstream.audit.result import Chain, ChainRun, Terms
from flowstream.audit.texts import run_text, runs_text
from flowstream.wording import counted

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from flowstream.audit.result import Interface, Run

    Members = dict[int, "_Member"]

_RUNS_NAME: Final = ("run names itself", "runs name each other")


class _Member(NamedTuple):
    """A run, and its part on the interface of the chain."""

    run: Run
    interface: Interface

    @property
    def key(self) -> tuple[str, int, int]:
        """Host, interface and direction."""
        return self.run.host_id, self.interface.if_index, self.interface.flow_direction


class _Links(NamedTuple):
    """Runs by epoch: the one before each, those that follow on each."""

    before: Mapping[int, int]
    after: Mapping[int, Sequence[int]]


class _Place(NamedTuple):
    """A chain's runs by epoch in order, and those of them that name each other in a circle."""

    epochs: Sequence[int]
    circle: Mapping[int, None]


def chains(runs: Sequence[Run], *, trimmed: bool) -> list[Chain]:
    """Return the chains of these runs, by host, interface and direction.

    ``trimmed``: the topic of counters has lost its first records to retention, and with
    them perhaps the begin of a chain.
    """
    members = [_Member(run, interface) for run in runs for interface in run.interfaces]
    linked = {each.key for each in members if each.interface.previous_epochs}
    groups: dict[tuple[str, int, int], Members] = defaultdict(dict)
    for each in members:
        if each.key in linked:
            groups[each.key][each.run.agent_epoch] = each
    return [
        _chain(place, group, links, trimmed=trimmed)
        for _, group in sorted(groups.items())
        for links in [_links(group)]
        for place in _places(links)
    ]


def _links(members: Members) -> _Links:
    before, after = {}, defaultdict(list)
    for epoch, member in sorted(members.items()):
        if member.interface.previous_epochs:
            before[epoch] = member.interface.previous_epochs[-1]
            after[before[epoch]].append(epoch)
    return _Links(before, after)


def _places(links: _Links) -> Iterator[_Place]:
    """Yield every chain once."""
    found: set[int] = set()
    for first in sorted(links.after.keys() - links.before.keys()):
        epochs = _following(first, links)
        found.update(epochs)
        yield _Place(epochs, {})
    for epoch in sorted(links.before):
        if epoch not in found:
            circle = _circle(epoch, links)
            epochs = _following(circle[0], links)
            found.update(epochs)
            yield _Place(epochs, dict.fromkeys(circle))


def _following(first: int, links: _Links) -> list[int]:
    """Return a run and all that follow on it, each once."""
    order = {first: None}
    waiting = [first]
    for epoch in waiting:
        new = [each for each in links.after.get(epoch, ()) if each not in order]
        order.update(dict.fromkeys(new))
        waiting += new
    return list(order)


def _circle(epoch: int, links: _Links) -> list[int]:
    """Return the circle to which the runs before a run lead, from its earliest on."""
    passed: dict[int, None] = {}
    while epoch not in passed:
        passed[epoch] = None
        epoch = links.before[epoch]
    whole = list(passed)
    circle = whole[whole.index(epoch) :][::-1]
    start = circle.index(min(circle))
    return circle[start:] + circle[:start]


def _chain(place: _Place, members: Members, links: _Links, *, trimmed: bool) -> Chain:
    present = [members[epoch] for epoch in place.epochs if epoch in members]
    last = next((each for each in reversed(present) if each.interface.counters), present[-1])
    # A run without counters names none before it: it can only be the first.
    first = place.epochs[0]
    missing = [] if _has_counters(first, members) else [first]
    return Chain(
        host_id=last.run.host_id,
        host=last.run.host,
        if_index=last.interface.if_index,
        label=last.interface.label,
        flow_direction=last.interface.flow_direction,
        runs=[_chain_run(epoch, place, members, links) for epoch in place.epochs],
        terms=Terms.total(each.interface.terms for each in present),
        problems=[
            *_circles(place),
            *_forks(place, links),
            *(_missing(epoch) for epoch in missing if not trimmed),
            *_broken([each.run for each in present]),
        ],
        notes=[_deleted(epoch) for epoch in missing if trimmed],
    )


def _chain_run(epoch: int, place: _Place, members: Members, links: _Links) -> ChainRun:
    if epoch not in members:
        return ChainRun(
            agent_epoch=epoch,
            previous_epochs=[],
            counters=False,
            final=False,
            gapless=None,
            holds=False,
            terms=Terms.total([]),
        )
    run, interface = members[epoch]
    return ChainRun(
        agent_epoch=epoch,
        previous_epochs=interface.previous_epochs,
        counters=interface.counters,
        final=interface.final,
        gapless=_gapless(epoch, place, members, links) if epoch in links.before else None,
        holds=not run.problems,
        terms=interface.terms,
    )


def _gapless(epoch: int, place: _Place, members: Members, links: _Links) -> bool:
    before = links.before[epoch]
    return (
        _has_counters(before, members)
        and members[before].interface.final
        and len(links.after[before]) == 1
        and len(members[epoch].interface.previous_epochs) == 1
        and epoch not in place.circle
    )


def _has_counters(epoch: int, members: Members) -> bool:
    return epoch in members and members[epoch].interface.counters


def _circles(place: _Place) -> Iterator[str]:
    if place.circle:
        yield (
            f"{counted(len(place.circle), *_RUNS_NAME)} in a circle as the one before, which "
            f"no agent does: {runs_text(list(place.circle))}"
        )


def _forks(place: _Place, links: _Links) -> Iterator[str]:
    for epoch in place.epochs:
        following = links.after.get(epoch, ())
        if len(following) > 1:
            yield (
                f"{len(following):,} runs say that they took over from the {run_text(epoch)}: "
                f"{runs_text(following)}; a link has one successor: another agent of the same "
                "identity, or records that none made"
            )


def _missing(epoch: int) -> str:
    return (
        f"the {run_text(epoch)} is missing, whose link the next one took over: the topics "
        "have no counters of it on this interface"
    )


def _deleted(epoch: int) -> str:
    return (
        f"the chain began before what the topics still have: retention deleted the "
        f"{run_text(epoch)}"
    )


def _broken(runs: Sequence[Run]) -> Iterator[str]:
    broken = [run.agent_epoch for run in runs if run.problems]
    if broken:
        yield (
            f"{counted(len(broken), 'run does', 'runs do')} not hold, out of {len(runs):,}: "
            f"{runs_text(broken)}"
        )
