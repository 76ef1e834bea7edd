"""The composition root: from options to one run of the agent.

sink checked → maps created → programs attached → privileges given up → run (lifecycle)
"""

from __future__ import annotations

import os
import time
from contextlib import ExitStack
from typing import TYPE_CHECKING, Final

import structlog
import uvloop

from flowstream import log as logs
from flowstream.accounting.identity import Identity, epoch_at
from flowstream.accounting.ledgers import Ledgers
from flowstream.accounting.run import Run
from flowstream.agent.credentials import require_readable
from flowstream.agent.latency import Latency
from flowstream.agent.lifecycle import Agent
from flowstream.agent.reloading import warn_if_unreadable
from flowstream.agent.signals import Signals
from flowstream.agent.sinks import means_of
from flowstream.attacher.client import Attacher
from flowstream.chain.chain import Chain
from flowstream.config.hooks import needs_tc_hook
from flowstream.errors import UsageError
from flowstream.files import shown
from flowstream.following.attaching import Attaching
from flowstream.following.follower import Follower
from flowstream.following.places import links_by_label, open_places
from flowstream.host import identity as host
from flowstream.host import limits, privileges
from flowstream.host.selection import Selection
from flowstream.kafka.credentials import exposed
from flowstream.kernel import features
from flowstream.kernel.counter import CounterProbe
from flowstream.kernel.flow import FlowProbe
from flowstream.registry.encoder import encoder_of
from flowstream.streams import Stream
from flowstream.urls import DirectoryUrl, parse_url

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from flowstream.agent.serving import Serving
    from flowstream.attacher.process import Process
    from flowstream.config.run import RunConfig
    from flowstream.config.source import ConfigSource
    from flowstream.following.places import Place
    from flowstream.host.privileges import User
    from flowstream.host.service_manager import ServiceManager
    from flowstream.kernel.packet_filter import PacketFilter
    from flowstream.pipeline.probe import Attaches, Probe

log = structlog.get_logger()

PROBES: Final[dict[str, Callable[..., Probe]]] = {
    "flow": FlowProbe,
    "counter": CounterProbe,
}
THREADS: Final = 4
"""Of the sink or spool, one that drains tables, one that attaches, one that reads options."""
_DESCRIPTORS: Final = {"flow": (8, 3), "counter": (0, 5)}
"""Descriptors of a probe's maps, and of each attachment: maps, program and link."""
_PIN_DESCRIPTORS: Final = (16, 1)
"""Directories and maps of this run and the one before, and of each attachment its former link."""


def run(
    config: RunConfig,
    process: Process,
    source: ConfigSource | None = None,
    manager: ServiceManager | None = None,
) -> int:
    """Run the agent to its end; return the exit status: 0, or 1 after a fault.

    ``process`` is the attacher's, which stays the caller's. With the ``source`` of the
    configuration SIGHUP reads it again. The run's state is reported to the service ``manager``.
    Raises ``FlowstreamError`` for whatever keeps the agent from starting.
    """
    logs.configure(config.log_level, config.log_format)
    name = privileges.user_name(config.user)
    user = privileges.find_user(name)
    limits.require_descriptors()
    selection = Selection(config.interfaces, config.interface_kinds)
    places = _places(config, selection)
    this = Run(_identity(config))
    _warn(config, user, name, source)
    # Before the sink creates anything: a registry may refuse.
    encoder = encoder_of(config, this.identity, user)
    packet_filter = _filter(config, user)
    ledgers = Ledgers(this.identity.agent_epoch, this.ledger)
    signals = Signals(reloads=source is not None, pinned=config.pin is not None)
    with ExitStack() as stack:
        chain = _chain(config, user, this, stack)
        # After the chain: its lock is free once the run before, which had the address, has ended.
        serving = _serving(config, user, stack)
        topics = [f"{config.topic_prefix}.{stream}" for stream in Stream]
        if chain:
            chain.join(ledgers)
            topics = [*dict.fromkeys([*topics, *chain.topics])]
        means = means_of(config, this, ledgers, encoder, user)
        sink = means.sink
        sink.prepare(topics)
        probe = _probe(config, chain, packet_filter)
        stack.callback(probe.close)
        signals.catch()
        attacher: Attaches = Attacher(process, probe, user, _elsewhere(places))
        if chain:
            attacher = chain.taking_over(attacher)
        publisher = means.publisher(this, config.topic_prefix)
        agent = Agent(
            config, probe, sink, publisher, this, signals, means.spool_state, source, manager
        )
        stack.callback(agent.close)
        agent.depend_on(process)
        if chain:
            agent.succeed(chain, means, ledgers)
        attaching = Attaching(
            attacher, config.attach_modes, config.sampling, this.count_failed_attach
        )
        follower = Follower(agent, attaching, places, selection, period_s=config.counters_period_s)
        stack.callback(follower.close)
        follower.begin(lambda: signals.received, lambda: bool(this.previous))
        if chain:
            chain.require_taken_over()
        agent.accompany(follower)
        # Before: the user that the agent becomes may not be allowed to read its installation.
        sink.load()
        # One more empties what earlier runs left, and one makes the texts of metrics.
        threads = THREADS + (chain is not None) + (serving is not None)
        _give_up(user, name, threads)
        if serving is None:
            return uvloop.run(agent.run(topics))
        latency = Latency()
        ledgers.on_acknowledged = latency.acknowledged
        observed = agent.observing(follower.chosen, latency)
        return uvloop.run(serving.during(agent.run(topics), observed))


def _places(config: RunConfig, selection: Selection) -> list[Place]:
    places = open_places(config.netns)
    selection.require_named(links_by_label(places))
    chosen = sum(selection.chooses(link) for place in places for link in place.links().values())
    limits.require_descriptors(_descriptors(config, chosen * len(config.attach_modes)))
    return places


def _give_up(user: User, name: str, threads: int) -> None:
    """Become the user without capabilities, which must be allowed that many threads."""
    privileges.give_up(user)
    features.require_unprivileged()
    limits.require_threads(threads)
    if os.geteuid() == 0:
        log.warning("still root by name, without any capability", user=name)


def _chain(config: RunConfig, user: User, this: Run, stack: ExitStack) -> Chain | None:
    if config.pin is None:
        return None
    if not features.has_tcx() and needs_tc_hook(config.attach_modes):
        raise UsageError(
            "pin: at the TC hook it requires Linux 6.6 or later; leave it out, or observe "
            "received packets by --hook xdp"
        )
    return stack.enter_context(Chain(config, config.pin, user, this))


def _serving(config: RunConfig, user: User, stack: ExitStack) -> Serving | None:
    if config.metrics is None:
        return None
    from flowstream.agent.serving import DESCRIPTORS, Serving  # noqa: PLC0415

    limits.require_descriptors(limits.DESCRIPTORS + DESCRIPTORS)
    return stack.enter_context(Serving(config.metrics, user))


def _warn(config: RunConfig, user: User, name: str, source: ConfigSource | None) -> None:
    """Log what is not right about the files that the run depends on."""
    if config.user is None and name == privileges.SHARED_USER and os.geteuid() == 0:
        log.warning(
            "shared_user",
            user=name,
            reason="other services of this user can send the agent signals",
            remedy=privileges.CREATE_USER,
        )
    require_readable(config.kafka, user, name)
    for each in exposed(config.kafka):
        log.warning(
            "kafka_secret_exposed", file=shown(each.file), mode=oct(each.mode), remedy=each.remedy
        )
    if source:
        warn_if_unreadable(source.file, user, name)


def _elsewhere(places: Iterable[Place]) -> list[int]:
    """Descriptors of the network namespaces other than the agent's own."""
    return [place.namespace.fd for place in places if place.namespace.fd is not None]


def _filter(config: RunConfig, user: User) -> PacketFilter | None:
    if config.filter is None:
        return None
    from flowstream.filtering.compiling import compile_filter  # noqa: PLC0415

    made = compile_filter(config.filter, user)
    log.info("filtering", filter=made.expression, instructions=made.instructions)
    return made


def _probe(config: RunConfig, chain: Chain | None, packet_filter: PacketFilter | None) -> Probe:
    max_flows = config.max_flows
    if chain:
        return FlowProbe(max_flows=max_flows, packet_filter=packet_filter, pins=chain.generation)
    return PROBES[config.program](max_flows=max_flows, packet_filter=packet_filter)


def _identity(config: RunConfig) -> Identity:
    return Identity(
        epoch_at(time.time_ns()),
        host.host_id(),
        host.host_name(),
        host.agent_address(config.agent_address),
    )


def _descriptors(config: RunConfig, attachments: int) -> int:
    """Return the number of descriptors that a run has open, apart from a broker's connections."""
    shared, each = _DESCRIPTORS[config.program]
    if config.pin is not None:
        shared, each = shared + _PIN_DESCRIPTORS[0], each + _PIN_DESCRIPTORS[1]
    files = 0
    if isinstance(parse_url(config.sink), DirectoryUrl):
        # A directory and a segment of each partition; the recording and its lock.
        files = 2 * config.partitions * len(Stream) + 2
    elif config.spool is not None:
        # A directory, a segment and its sidecar of each partition; the spool and its lock.
        files = 3 * config.partitions * len(Stream) + 2
    return limits.DESCRIPTORS + shared + each * attachments + files
