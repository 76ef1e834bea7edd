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
from flowstream.agent.chain import Chain
from flowstream.agent.credentials import require_readable
from flowstream.agent.lifecycle import Agent
from flowstream.agent.pipeline import Publisher
from flowstream.agent.predecessors import Means
from flowstream.agent.reloading import warn_if_unreadable
from flowstream.agent.signals import Signals
from flowstream.agent.sinks import sink_of
from flowstream.agent.state import Run
from flowstream.attacher.client import Attacher
from flowstream.errors import KernelError
from flowstream.files import shown
from flowstream.host import identity as host
from flowstream.host import limits, privileges
from flowstream.host.link_types import Framing
from flowstream.host.links import LinkMonitor
from flowstream.host.namespaces import open_all
from flowstream.host.selection import Selection
from flowstream.kafka.credentials import exposed
from flowstream.kernel.counter import CounterProbe
from flowstream.kernel.flow import FlowProbe
from flowstream.kernel.link import Mode
from flowstream.kernel.target import Target
from flowstream.registry.encoder import encoder_of
from flowstream.streams import Stream
from flowstream.urls import DirectoryUrl, parse_url

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from flowstream.agent.probe import Attachment, Probe
    from flowstream.agent.taking_over import Attaches
    from flowstream.attacher.process import Process
    from flowstream.config.run import RunConfig
    from flowstream.config.source import ConfigSource
    from flowstream.host.links import LinkFacts
    from flowstream.host.namespaces import Namespace
    from flowstream.host.privileges import User

log = structlog.get_logger()

PROBES: Final[dict[str, Callable[..., Probe]]] = {
    "flow": FlowProbe,
    "counter": CounterProbe,
}
THREADS: Final = 3
"""The sink's or the spool's thread, one that drains tables, and one that reads a configuration."""
_INDEX_BITS: Final = 24
"""Bits of an interface index in the records of a run with several namespaces."""
_DESCRIPTORS: Final = {"flow": (8, 3), "counter": (0, 5)}
"""Descriptors of a probe's maps, and of each attachment: maps, program and link."""
_PIN_DESCRIPTORS: Final = (16, 1)
"""Directories and maps of this run and the one before, and of each attachment its former link."""


def run(config: RunConfig, process: Process, source: ConfigSource | None = None) -> int:
    """Run the agent to its end; return the exit status: 0, or 1 after a fault.

    ``process`` is the attacher's, which stays the caller's. With the ``source`` of the
    configuration SIGHUP reads it again. Raises ``FlowstreamError`` for whatever keeps the
    agent from starting.
    """
    logs.configure(config.log_level, config.log_format)
    name = privileges.user_name(config.user)
    user = privileges.find_user(name)
    limits.require_descriptors()
    namespaces = open_all(config.netns)
    chosen = _chosen(config, namespaces)
    limits.require_descriptors(_descriptors(config, len(chosen)))
    this = Run(_identity(config))
    _warn(config, user, name, source)
    # Before the sink creates anything: a registry may refuse.
    encoder = encoder_of(config, this.identity, user)
    ledgers = Ledgers(this.identity.agent_epoch, this.ledger)
    signals = Signals(reloads=source is not None)
    with ExitStack() as stack:
        chain = stack.enter_context(Chain(config, config.pin, user, this)) if config.pin else None
        topics = [f"{config.topic_prefix}.{stream}" for stream in Stream]
        if chain:
            chain.join(ledgers)
            topics = [*dict.fromkeys([*topics, *chain.topics])]
        sinks = sink_of(config, this, ledgers, encoder, user)
        sink = sinks.sink
        sink.prepare(topics)
        probe = _probe(config, chain)
        stack.callback(probe.close)
        signals.catch()
        attacher: Attaches = Attacher(process, probe, user, netns=bool(config.netns))
        if chain:
            attacher = chain.taking_over(attacher)
        attached: list[tuple[Attachment, str]] = []
        for namespace, link in chosen:
            if signals.received:
                break
            target = _target(config, namespace, link)
            attachment = _attach(attacher, target, namespace)
            stack.callback(attachment.close)
            attached.append((attachment, namespace.label))
        for namespace in namespaces:
            namespace.close()
        # Before: the user that the agent becomes may not be allowed to read its installation.
        sink.load()
        privileges.give_up(user)
        # Another one empties what earlier runs left.
        limits.require_threads(THREADS + (chain is not None))
        if os.geteuid() == 0:
            log.warning("still root by name, without any capability", user=name)
        publisher = Publisher(sink, encoder, this, config.topic_prefix, sinks.on_counters)
        agent = Agent(config, probe, sink, publisher, this, signals, sinks.spool_state, source)
        agent.depend_on(process)
        if chain:
            agent.succeed(chain, Means(*sinks, encoder), ledgers)
        for attachment, netns in attached:
            agent.add(attachment, netns)
        return uvloop.run(agent.run(topics))


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


def _probe(config: RunConfig, chain: Chain | None) -> Probe:
    if chain:
        return FlowProbe(max_flows=config.max_flows, pins=chain.generation)
    return PROBES[config.program](max_flows=config.max_flows)


def _identity(config: RunConfig) -> Identity:
    return Identity(
        epoch_at(time.time_ns()),
        host.host_id(),
        host.host_name(),
        host.agent_address(config.agent_address),
    )


def _chosen(
    config: RunConfig, namespaces: Sequence[Namespace]
) -> list[tuple[Namespace, LinkFacts]]:
    """Return the interfaces to attach to, those with names of their own first."""
    selection = Selection(config.interfaces, config.interface_kinds)
    found: list[tuple[Namespace, LinkFacts]] = []
    for namespace in namespaces:
        with LinkMonitor(namespace) as monitor:
            found += ((namespace, link) for link in monitor.links().values())
    there: dict[str, list[LinkFacts]] = {namespace.label: [] for namespace in namespaces}
    for namespace, link in found:
        there[namespace.label].append(link)
    selection.require_named(there)

    def order(each: tuple[Namespace, LinkFacts]) -> int:
        names = selection.named(each[1])
        return selection.exact_names.index(names[0]) if names else len(selection.exact_names)

    chosen = sorted((each for each in found if selection.chooses(each[1])), key=order)
    if not chosen:
        log.warning("no_interface_matches", remedy="flowstream check lists the interfaces")
    return chosen


def _target(config: RunConfig, namespace: Namespace, link: LinkFacts) -> Target:
    framing, reason = link.reading
    if framing is None:
        raise KernelError(f"interface {link.name}: {reason}; leave it out by -i '!{link.name}'")
    record_index = link.index
    if len(config.netns) > 1:
        if link.index >> _INDEX_BITS:
            raise KernelError(
                f"interface {link.name} has index {link.index}: with several --netns, records "
                f"have room for {_INDEX_BITS} bits; observe its namespace by an agent of its own"
            )
        record_index |= namespace.number << _INDEX_BITS
    return Target(
        *(link.name, link.index, record_index, Mode(config.mode), config.sampling),
        raw=framing is Framing.RAW_IP,
        netns_fd=namespace.fd,
    )


def _attach(attacher: Attaches, target: Target, namespace: Namespace) -> Attachment:
    attachment = attacher.attach(target)
    place = {"netns": namespace.label} if namespace.label else {}
    log.info(
        "attached",
        interface=target.interface,
        **place,
        mode=str(attachment.mode),
        program=attachment.program.name,
        program_id=attachment.program.id,
    )
    return attachment


def _descriptors(config: RunConfig, interfaces: int) -> int:
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
    return limits.DESCRIPTORS + shared + each * interfaces + files
