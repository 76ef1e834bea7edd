"""Audits a Kafka cluster or a recording."""

from __future__ import annotations

import functools
from typing import TYPE_CHECKING

import msgspec

from flowstream.audit.accounts import Audit
from flowstream.errors import MissingTopicError, SourceError
from flowstream.kafka.settings import DEFAULT_CLIENT
from flowstream.source import open_source
from flowstream.streams import Stream

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from flowstream.audit.accounts import Observer
    from flowstream.audit.result import Result
    from flowstream.kafka.settings import ClientSettings
    from flowstream.messages import Message
    from flowstream.source import Source


async def audit(
    url: str,
    topic_prefix: str = "flowstream",
    *,
    progressed: Callable[[int, int], object] | None = None,
    client: ClientSettings = DEFAULT_CLIENT,
    observer: Observer | None = None,
) -> Result:
    """Audit the present contents of the topics ``PREFIX.*``.

    A topic of announcements (``new_flows``) may be missing, which is a note: they carry
    no packets. ``url`` is ``kafka://HOST:PORT[,HOST:PORT...]``, ``file:DIR`` or a directory.
    Where records repeat a ``seq`` the topics are read a second time, to compare them.
    ``progressed`` is called with the number of messages read and their total, which
    is an estimate until the end of each reading. ``client`` are the settings for a cluster,
    an ``observer`` gets every record once.
    Raises SourceError when the topics cannot be read or hold no records, DecodeError naming
    the place of a value that is not a record, UsageError for a wrong URL.
    """
    accounts = Audit(topic_prefix, observer=observer)
    read = functools.partial(_read, url, client=client, progressed=progressed)
    try:
        source = await read(accounts.topics, accounts.add)
    except MissingTopicError as err:
        if err.topics != (f"{topic_prefix}.{Stream.NEW_FLOWS}",):
            raise
        accounts = Audit(topic_prefix, without_announcements=True, observer=observer)
        source = await read(accounts.topics, accounts.add)
    if accounts.repeats:
        await read(accounts.topics, accounts.compare)
    result = accounts.result()
    warnings = [*source.warnings, *result.warnings]
    result = msgspec.structs.replace(result, warnings=warnings)
    if not result.runs:
        raise SourceError(f"{url}: no records in {', '.join(accounts.topics)}")
    return result


async def _read(
    url: str,
    topics: Sequence[str],
    take: Callable[[list[Message]], None],
    *,
    client: ClientSettings,
    progressed: Callable[[int, int], object] | None,
) -> Source:
    """Pass all messages on; a missing topic is known before any of them."""
    source = open_source(url, topics, client=client)
    total = sum(map(sum, (await source.sizes()).values())) if progressed else 0
    done = 0
    async for messages in source.batches():
        take(messages)
        done += len(messages)
        if progressed:
            progressed(done, total)
    if progressed:
        progressed(done, done)
    return source
