"""``flowstream audit``: check from the topics that every packet is accounted for."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

from flowstream.cli.kafka import add_kafka, client_for
from flowstream.cli.options import Commands, add_options, values
from flowstream.urls import SOURCE_FORMS

if TYPE_CHECKING:
    import argparse

_EXAMPLES = """\
examples:
  flowstream audit file:flowstream-recording
  flowstream audit kafka://10.0.0.1:9092 --json

For every run, interface and direction, in packets and in frame octets:
  seen = packets in no flow, whatever the reason
       + packets of the published flow records
       + packets of every counted loss
and the sequence of each run and topic has no more gaps than records counted as
lost. Where records are in doubt (sent and never answered) or wait in the spool
of their host, the difference may be up to their sum, with as many more gaps.
Runs that took over each other's links (--pin) are shown as chains, with their
sums by interface: a chain holds when each of its runs does and none is missing.
The exit status is 0 when that holds and 1 when it does not. A run that has not
ended, or was killed, has no final counters and does not hold; with --pin the
next run closes it.
"""


def add(commands: Commands) -> None:
    """Add the command and its options."""
    parser = commands.add_parser(
        "audit",
        help="check from the topics that every packet is accounted for",
        description="Check from the topics alone that every packet is accounted for.",
        epilog=_EXAMPLES,
    )
    parser.add_argument("url", metavar="URL", help=SOURCE_FORMS)
    add_options(parser, ("topic_prefix",))
    add_kafka(parser)
    parser.add_argument("--json", action="store_true", help="print one JSON document")
    parser.set_defaults(command=execute, extra="audit")


def execute(args: argparse.Namespace) -> int:
    """Print the result; return 0 when everything holds, else 1."""
    prefix = values(args, ("topic_prefix",))["topic_prefix"]
    client = client_for(args.url, args)
    import asyncio  # noqa: PLC0415

    import msgspec  # noqa: PLC0415

    from flowstream.audit import audit, tables  # noqa: PLC0415
    from flowstream.progress import progress_bars  # noqa: PLC0415

    with progress_bars() as bars:
        bar = bars.add_task("auditing", total=None)

        def progressed(done: int, total: int) -> None:
            bars.update(bar, completed=done, total=total)

        # The total takes a second connection: only where the bar is shown.
        result = asyncio.run(
            audit(
                args.url,
                prefix,
                progressed=None if bars.disable else progressed,
                client=client,
            )
        )
    if args.json:
        print(msgspec.json.format(msgspec.json.encode(result)).decode())
    else:
        tables.show(result, sys.stdout)
    return 0 if result.holds else 1
