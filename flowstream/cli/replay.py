"""``flowstream replay``: send a recording to topics of a Kafka cluster."""

from __future__ import annotations

import argparse
import re
import sys
from typing import TYPE_CHECKING

from flowstream.cli.kafka import add_kafka, client_for
from flowstream.cli.messages import warn
from flowstream.cli.selecting import add_topics
from flowstream.urls import SINK_FORMS
from flowstream.wording import counted

if TYPE_CHECKING:
    from flowstream.cli.options import Commands

_EXAMPLES = """\
examples:
  flowstream replay office --to kafka://127.0.0.1:9092
  flowstream replay office --to kafka://127.0.0.1:9092 --speed 1 --topic a
  flowstream replay a.fsrec --to kafka://127.0.0.1:9092 --rename flowstream=test
  flowstream replay office --to stdout: --speed 1 --topic flowstream.flows

PATH is a recording made by flowstream run, pcap or record, or a copy of a
broker's log directory. Key, headers, timestamp, value, partition and order are
kept. Missing topics are created with the recording's partitions and without a
time limit (retention.ms=-1); a topic with too few partitions is refused before
anything is sent. Warnings name missing offsets (compacted or cut out), a
truncated last batch, and messages older than the retention of their topic.
SIGTERM and SIGINT end it in order: what was taken until then is sent. The exit
status is then 143 or 130, and 141 when the reader of stdout: went away.
"""


def add(commands: Commands) -> None:
    """Add the command and its options."""
    parser = commands.add_parser(
        "replay",
        help="send a recording to topics",
        description="Send a recording to a Kafka cluster, another recording or a pipe.",
        epilog=_EXAMPLES,
    )
    parser.add_argument("directory", metavar="PATH", help="recording")
    parser.add_argument(
        "--to", metavar="URL", required=True, help=f"{SINK_FORMS}, which gets lines of JSON"
    )
    add_topics(parser, "topic to send (default all of the recording)")
    parser.add_argument(
        "--rename",
        metavar="OLD=NEW",
        type=_renaming,
        action="append",
        default=[],
        help="send topic OLD, or topics OLD.*, to NEW or NEW.*; may be repeated",
    )
    parser.add_argument(
        "--speed",
        metavar="SPEED",
        type=_speed,
        default=None,
        help="1 = as recorded, by the timestamps; 10 = ten times faster; max (default max)",
    )
    parser.add_argument(
        "--loop", metavar="N", type=_loop, default=1, help="send it N times (default 1)"
    )
    add_kafka(parser)
    parser.set_defaults(command=execute, extra="kafka")


def _renaming(text: str) -> tuple[str, str]:
    old, equals, new = text.partition("=")
    if not (old and equals and re.fullmatch(r"[A-Za-z0-9._-]{1,249}", new)):
        raise argparse.ArgumentTypeError(f"{text!r} is not OLD=NEW, two names of topics")
    return old, new


def _speed(text: str) -> float | None:
    if text == "max":
        return None
    try:
        speed = float(text)
    except ValueError:
        speed = 0.0
    if not 0.001 <= speed <= 1_000_000:
        raise argparse.ArgumentTypeError(
            f"{text!r} is neither max nor a number from 0.001 to 1000000"
        )
    return speed


def _loop(text: str) -> int:
    if not text.isdecimal() or not 1 <= int(text) <= 1_000_000:
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number from 1 to 1000000")
    return int(text)


def execute(args: argparse.Namespace) -> int:
    """Replay and print the number of messages."""
    from flowstream import log, recording  # noqa: PLC0415
    from flowstream.cli.loop import run_loop  # noqa: PLC0415

    # The command's own error says what failed.
    log.configure("error")
    client = client_for(args.to, args)
    topics, directory = tuple(dict.fromkeys(args.topics)), recording.recording_path(args.directory)
    counts = run_loop(
        recording.replay(
            directory,
            args.to,
            topics,
            speed=args.speed,
            loop=args.loop,
            rename=dict(args.rename),
            warn=warn,
            client=client,
        ),
        "the rest was not sent",
    )
    # Standard output may be where the records go.
    out = sys.stderr if args.to.startswith("stdout:") else sys.stdout
    sent = counted(sum(counts.values()), "message")
    print(f"{sent} of {', '.join(counts)} sent to {args.to}", file=out)
    return 0
