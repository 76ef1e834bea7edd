"""``flowstream replay``: a recording into topics of a Kafka cluster."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING

from flowstream.cli.messages import warn

if TYPE_CHECKING:
    from flowstream.cli.options import Commands

_EXAMPLES = """\
examples:
  flowstream replay office --to kafka://127.0.0.1:9092
  flowstream replay office --to kafka://127.0.0.1:9092 --speed 1 --topic a

DIR is a recording, of flowstream run, pcap or record, or a copy of a broker's
log directory. Key, headers, timestamp, value, partition and order are kept.
Missing topics are created with the recording's partitions and without a time
limit (retention.ms=-1); a topic without a partition for some message is
refused before anything is sent. What a recording lacks is a warning: offsets
that are missing (compacted, or cut out) and a last batch that is cut short. So
are messages that are older than an existing topic keeps them.
"""


def add(commands: Commands) -> None:
    """Add the command and its options."""
    parser = commands.add_parser(
        "replay",
        help="send a recording to topics",
        description="Send a recording to the topics of a Kafka cluster.",
        epilog=_EXAMPLES,
    )
    parser.add_argument("directory", metavar="DIR", help="recording")
    parser.add_argument(
        "--to", metavar="URL", required=True, help="kafka://HOST:PORT[,HOST:PORT...]"
    )
    parser.add_argument(
        "--topic",
        metavar="TOPIC",
        dest="topics",
        action="append",
        default=[],
        help="only this topic; give it again for more (default all that are recorded)",
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
    parser.set_defaults(command=execute)


def _speed(text: str) -> float | None:
    if text == "max":
        return None
    try:
        speed = float(text)
    except ValueError:
        speed = 0.0
    if not 0.001 <= speed <= 1_000_000:
        raise argparse.ArgumentTypeError(f"{text!r} is neither max nor a number, 0.001 to 1000000")
    return speed


def _loop(text: str) -> int:
    if not text.isdecimal() or not 1 <= int(text) <= 1_000_000:
        raise argparse.ArgumentTypeError(f"{text!r} is not a number, 1 to 1000000")
    return int(text)


def execute(args: argparse.Namespace) -> int:
    """Replay and say how much."""
    # Heavy, and --help must not wait for them.
    import uvloop  # noqa: PLC0415

    from flowstream import log, recording  # noqa: PLC0415

    # What fails is the error that it ends with.
    log.configure("error")
    topics, directory = tuple(dict.fromkeys(args.topics)), recording.recording_path(args.directory)
    counts = uvloop.run(
        recording.replay(directory, args.to, topics, speed=args.speed, loop=args.loop, warn=warn)
    )
    print(f"{sum(counts.values()):,} messages of {', '.join(counts)} sent to {args.to}")
    return 0
