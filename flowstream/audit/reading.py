"""From a Kafka cluster or a recording to the accounts."""

from __future__ import annotations

from typing import TYPE_CHECKING

import msgspec

from flowstream.audit.accounts import Audit
from flowstream.errors import SourceError
from flowstream.source import open_source

if TYPE_CHECKING:
    from flowstream.audit.result import Result


async def audit(url: str, topic_prefix: str = "flowstream") -> Result:
    """Audit what the topics ``PREFIX.*`` hold at this moment.

    ``url`` is ``kafka://HOST:PORT[,HOST:PORT...]``, ``file:DIR`` or a directory.
    Raises SourceError when it cannot be read or holds no records, DecodeError
    naming the place of a value that is no record, UsageError for a wrong URL.
    """
    accounts = Audit(topic_prefix)
    source = open_source(url, accounts.topics)
    async for messages in source.batches():
        accounts.add(messages)
    result = msgspec.structs.replace(accounts.result(), warnings=list(source.warnings))
    if not result.runs:
        raise SourceError(f"{url}: no records in {', '.join(accounts.topics)}")
    return result
