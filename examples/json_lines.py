"""JSON lines of a topic, from a recording or a cluster, for tools that read such files.

::

    python json_lines.py file:flowstream-recording flowstream.flows > flows.jsonl
    python json_lines.py kafka://127.0.0.1:9092 flowstream.flows > flows.jsonl
"""

from __future__ import annotations

import argparse
import asyncio
import sys
from contextlib import aclosing

from flowstream.errors import DecodeError, FlowstreamError
from flowstream.source import open_source


async def main(url: str, topic: str) -> None:
    """Write every value as a line, as it is."""
    async with aclosing(open_source(url, [topic]).batches()) as batches:
        async for batch in batches:
            for message in batch:
                if not message.value.startswith(b"{"):
                    place = f"{topic}, partition {message.partition}, offset {message.offset}"
                    raise DecodeError(
                        f"{place}: not JSON; flowstream.records.decode reads all formats"
                    )
                sys.stdout.buffer.write(message.value + b"\n")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description="Print a topic of JSON values as lines.")
    parser.add_argument("url", help="file:DIR or kafka://HOST:PORT")
    parser.add_argument("topic", help="for example flowstream.flows")
    arguments = parser.parse_args()
    try:
        asyncio.run(main(arguments.url, arguments.topic))
    except FlowstreamError as err:
        sys.exit(str(err))
