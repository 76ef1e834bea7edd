"""``flowstream record``: copy topics of a Kafka cluster into a recording."""

from __future__ import annotations

from typing import TYPE_CHECKING

from flowstream.urls import KAFKA_FORM

if TYPE_CHECKING:
    import argparse

    from flowstream.cli.options import Commands

_EXAMPLES = """\
examples:
  flowstream record kafka://10.0.0.1:9092 --topic flowstream.flows --to office
  flowstream record kafka://10.0.0.1:9092 --topic a --topic b --to ab

Copies all messages that the topics hold now: key, headers, timestamp, value,
partition and order; offsets are assigned anew. Messages of aborted transactions
are copied too, as consumers read them by default (read_uncommitted). A
recording is a directory of Kafka log segments, readable by flowstream audit,
flowstream replay and Kafka's own tools. Any topic can be recorded, not only
those of flowstream.
"""


def add(commands: Commands) -> None:
    """Add the command and its options."""
    parser = commands.add_parser(
        "record",
        help="copy topics into a directory",
        description="Copy topics into a directory of Kafka log segments.",
        epilog=_EXAMPLES,
    )
    parser.add_argument("url", metavar="URL", help=KAFKA_FORM)
    parser.add_argument(
        "--topic",
        metavar="TOPIC",
        dest="topics",
        action="append",
        required=True,
        help="topic to record; may be repeated",
    )
    parser.add_argument(
        "--to", metavar="DIR", required=True, help="directory that does not hold these topics yet"
    )
    parser.set_defaults(command=execute, extra="kafka")


def execute(args: argparse.Namespace) -> int:
    """Record and print the number of messages."""
    from flowstream import log, recording  # noqa: PLC0415
    from flowstream.cli.loop import run_loop  # noqa: PLC0415

    # The command's own error says what failed.
    log.configure("error")
    topics, directory = tuple(dict.fromkeys(args.topics)), recording.recording_path(args.to)
    count = run_loop(recording.record(args.url, topics, directory))
    print(f"{count:,} messages of {', '.join(topics)} recorded in {directory}")
    return 0
