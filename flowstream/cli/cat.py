"""``flowstream cat``: print the records of topics and recordings."""

from __future__ import annotations

import sys
from contextlib import AbstractContextManager, ExitStack, nullcontext
from typing import TYPE_CHECKING, BinaryIO

from flowstream.cli.kafka import add_kafka, client_for
from flowstream.cli.messages import warn
from flowstream.cli.options import Commands, add_options, values
from flowstream.cli.selecting import WHERE_HELP, add_selection, add_topics, selection
from flowstream.errors import SinkError, UsageError
from flowstream.streams import Stream
from flowstream.urls import SOURCE_FORMS

if TYPE_CHECKING:
    import argparse

    from flowstream.reading import Reader

# flowstream.reading.formats.FORMATS, which is too heavy to import for --help.
_FORMATS = ("json", "csv", "parquet")

_EXAMPLES = f"""\
examples:
  flowstream cat kafka://10.0.0.1:9092 --since 10m --max 5
  flowstream cat kafka://10.0.0.1:9092 --follow --since 0s --where 'packets > 9'
  flowstream cat recorded --topic flowstream.counters | jq .seen_packets
  flowstream cat office.fsrec --format parquet --output office.parquet

Values may be JSON, MessagePack, Protobuf or Avro. JSON lines have the names and
text of a topic of JSON values; those that are JSON are printed as they are. CSV
and Parquet hold flows or counters, not both. host is empty if a value has none,
as in MessagePack. Records are ordered within a partition only. A value that is
not a record ends cat with an error, unless --skip-bad is given. Parquet
requires: pip install 'flowstream[parquet]'.

{WHERE_HELP}"""


def add(commands: Commands) -> None:
    """Add the command and its options."""
    parser = commands.add_parser(
        "cat",
        help="print records as JSON lines, CSV or Parquet",
        description="Print the records of topics or of a recording.",
        epilog=_EXAMPLES,
    )
    parser.add_argument("url", metavar="URL", help=SOURCE_FORMS)
    add_topics(parser, "topic to read (default PREFIX.flows)")
    add_options(parser, ("topic_prefix",))
    add_selection(parser)
    add_kafka(parser)
    parser.add_argument("--follow", action="store_true", help="continue with later records")
    parser.add_argument(
        "--format",
        dest="output_format",
        metavar="FORMAT",
        choices=_FORMATS,
        default=_FORMATS[0],
        help=f"{', '.join(_FORMATS)} (default {_FORMATS[0]})",
    )
    parser.add_argument(
        "--output", metavar="FILE", default="-", help="file to write, - for standard output"
    )
    parser.add_argument(
        "--skip-bad",
        action="store_true",
        help="leave out values that are not records; counts them",
    )
    parser.set_defaults(command=execute, extra="kafka")


def execute(args: argparse.Namespace) -> int:
    """Print the records."""
    prefix = values(args, ("topic_prefix",))["topic_prefix"]
    client = client_for(args.url, args)
    if args.follow and args.until:
        raise UsageError("--until: --follow has no end; use one of them")
    is_terminal = args.output == "-" and sys.stdout.isatty()
    if is_terminal and args.output_format == "parquet":
        raise UsageError("--format parquet is not for a terminal; use --output FILE")
    from flowstream.reading import Reader  # noqa: PLC0415
    from flowstream.reading.formats import open_writer  # noqa: PLC0415

    topics = tuple(dict.fromkeys(args.topics or [f"{prefix}.{Stream.FLOWS}"]))
    reader = Reader(
        args.url,
        topics,
        selection(args),
        skip_bad=args.skip_bad,
        client=client,
    )
    with ExitStack() as stack:
        if not is_terminal and not args.follow and sys.stderr.isatty():
            _show_progress(reader, stack)
        reader.write_to(
            lambda: open_writer(
                args.output_format, stack.enter_context(_output(args.output)), topics
            ),
            follow=args.follow,
        )
    for line in reader.warnings:
        warn(line)
    return 0


def _output(name: str) -> AbstractContextManager[BinaryIO]:
    if name == "-":
        return nullcontext(sys.stdout.buffer)
    try:
        return open(name, "wb")  # noqa: PTH123
    except OSError as err:
        raise SinkError(f"{name}: {err.strerror}; use a file that can be written") from err


def _show_progress(reader: Reader, stack: ExitStack) -> None:
    from flowstream.progress import progress_bars  # noqa: PLC0415

    bars = stack.enter_context(progress_bars())
    bar = bars.add_task("reading", total=reader.total())
    reader.progressed = lambda count: bars.advance(bar, count)
