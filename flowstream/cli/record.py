"""``flowstream record``: topics of a Kafka cluster into a recording."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import argparse

    from flowstream.cli.options import Commands

_EXAMPLES = """\
examples:
  flowstream record kafka://10.0.0.1:9092 --topic flowstream.flows --to office
  flowstream record kafka://10.0.0.1:9092 --topic a --topic b --to ab

Everything that the topics hold now is copied: key, headers, timestamp, value,
partition and order; offsets are given anew. Messages of transactions that were
aborted are copied too, as a consumer reads them by default (read_uncommitted).
A recording is a directory of Kafka log segments, which flowstream audit,
flowstream replay and Kafka's own tools read. Any topic can be recorded, not
only those of flowstream.
"""


def add(commands: Commands) -> None:
    """Add the command and its options."""
    parser = commands.add_parser(
        "record",
        help="copy topics into a directory",
        description="Copy what topics hold into a directory of Kafka log segments.",
        epilog=_EXAMPLES,
    )
    parser.add_argument("url", metavar="URL", help="kafka://HOST:PORT[,HOST:PORT...]")
    parser.add_argument(
        "--topic",
        metavar="TOPIC",
        dest="topics",
        action="append",
        required=True,
        help="topic to record; give it again for more",
    )
    parser.add_argument(
        "--to", metavar="DIR", required=True, help="directory, without these topics yet"
    )
    parser.set_defaults(command=execute)


def execute(args: argparse.Namespace) -> int:
    """Record and say how much."""
    # Heavy, and --help must not wait for them.
    import uvloop  # noqa: PLC0415

    from flowstream import log, recording  # noqa: PLC0415

    # What fails is the error that it ends with.
    log.configure("error")
    topics, directory = tuple(dict.fromkeys(args.topics)), recording.recording_path(args.to)
    count = uvloop.run(recording.record(args.url, topics, directory))
    print(f"{count:,} messages of {', '.join(topics)} recorded in {directory}")
    return 0
