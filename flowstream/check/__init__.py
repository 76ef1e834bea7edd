"""Diagnoses host, interfaces and sink, one line per finding, with remedies.

Nothing is attached, created or changed.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from flowstream.check.filters import check_filter
from flowstream.check.finding import Finding, Status
from flowstream.check.hooks import tc_hook
from flowstream.check.host import check_host
from flowstream.check.interfaces import check_interfaces
from flowstream.check.pins import check_pins, pinned_programs
from flowstream.check.sink import check_sink
from flowstream.config.hooks import DEFAULT
from flowstream.kafka.settings import DEFAULT_CLIENT
from flowstream.urls import parse_url

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from flowstream.config.hooks import AttachModes
    from flowstream.host.selection import Selection
    from flowstream.kafka.settings import ClientSettings

__all__ = ["Finding", "Status", "check"]


def check(
    selection: Selection,
    netns: Sequence[str],
    sink: str | None,
    topic_prefix: str,
    client: ClientSettings = DEFAULT_CLIENT,
    pin: str | None = None,
    modes: AttachModes = DEFAULT,
    expression: str | None = None,
) -> Iterator[Finding]:
    """Check the host, then the interfaces that are chosen, the directory ``pin``, and the sink.

    ``netns`` are labels of network namespaces, without any the process's own one is
    meant. ``client`` are the settings for a cluster. ``modes`` are those with which the agent
    attaches. ``expression`` is a filter. Raises ``UsageError`` when ``sink`` is not the URL of
    a sink.
    """
    url = None if sink is None else parse_url(sink)
    yield from check_host()
    yield tc_hook(modes, pinned=pin is not None)
    not_raw_ip = ""
    if expression is not None:
        finding, not_raw_ip = check_filter(expression)
        yield finding
    pinned = pinned_programs(pin) if pin else ()
    yield from check_interfaces(selection, netns, modes, pinned, not_raw_ip)
    if pin is not None:
        yield from check_pins(pin)
    if url is not None:
        yield from check_sink(url, topic_prefix, client)
