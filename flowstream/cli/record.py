"""``flowstream record``: copy topics into a recording."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Final

from flowstream.cli.kafka import add_kafka, client_for
from flowstream.cli.messages import warn
from flowstream.cli.selecting import WHERE_HELP, add_selection, add_topics, selection
from flowstream.errors import UsageError
from flowstream.extras import requires
from flowstream.urls import ARCHIVE_SUFFIX, SOURCE_FORMS, KafkaUrl, parse_url_or_directory
from flowstream.wording import counted

if TYPE_CHECKING:
    import argparse
    from collections.abc import Callable

    from flowstream.cli.options import Commands
    from flowstream.messages import Message

_SECRET_OCTETS: Final = 16

_EXAMPLES = f"""\
examples:
  flowstream record kafka://10.0.0.1:9092 --topic flowstream.flows --to office
  flowstream record kafka://10.0.0.1:9092 --topic a --topic b --to ab.fsrec
  flowstream record office --to dns.fsrec --where 'dst_port == 53' --anonymise

Copies the messages that the topics hold now: key, headers, timestamp, value,
partition and order; offsets are assigned anew. Messages of aborted transactions
are copied too, as consumers read them by default (read_uncommitted). A
recording is a directory of Kafka log segments, readable by flowstream audit,
cat, replay and Kafka's own tools; with the suffix .fsrec it is one file, a zip
archive of that directory. Any topic can be recorded, not only those of
flowstream. What is left out by --where, --max and times is missing in an audit,
which then does not hold. A condition on fields that only flow records have, as
dst_port, leaves all counters out; a second command with --topic
flowstream.counters adds them to the same directory.
SIGTERM and SIGINT end it in order, with status 143 or 130: a directory has all
messages up to there, a file is not made.

--anonymise changes the values of flowstream's topics and their keys: addresses
by Crypto-PAn, which keeps common prefixes, MAC addresses, host ids, names of
hosts and interfaces by a keyed hash. Ports, times and amounts stay. Without
--anonymise-key the key is random.
It requires: pip install 'flowstream[anonymise]'.

{WHERE_HELP}"""


def add(commands: Commands) -> None:
    """Add the command and its options."""
    parser = commands.add_parser(
        "record",
        help="copy topics into a directory or file",
        description="Copy topics, of a cluster or a recording, into a directory or file.",
        epilog=_EXAMPLES,
    )
    parser.add_argument("url", metavar="URL", help=SOURCE_FORMS)
    add_topics(parser, "topic to record (default all of a recording)")
    parser.add_argument(
        "--to",
        metavar="PATH",
        required=True,
        help="directory that does not hold these topics yet, or a new FILE.fsrec",
    )
    add_selection(parser)
    add_kafka(parser)
    parser.add_argument("--anonymise", action="store_true", help="anonymise; see below")
    parser.add_argument(
        "--anonymise-key",
        metavar="FILE",
        help=f"file with a secret of {_SECRET_OCTETS} octets or more, which gives the same names",
    )
    parser.set_defaults(command=execute, extra="kafka")


def execute(args: argparse.Namespace) -> int:
    """Record and print the number of messages."""
    from flowstream import log, recording  # noqa: PLC0415
    from flowstream.cli.loop import run_loop  # noqa: PLC0415

    # The command's own error says what failed.
    log.configure("error")
    if not args.topics and isinstance(parse_url_or_directory(args.url), KafkaUrl):
        raise UsageError("the following arguments are required: --topic, for a cluster")
    client = client_for(args.url, args)
    topics, to = tuple(dict.fromkeys(args.topics)), recording.recording_path(args.to)
    selected, change = selection(args), _change(args)
    is_archive = to.suffix == ARCHIVE_SUFFIX
    left = f"{to} was not made" if is_archive else f"{to} has the messages up to there"
    count = run_loop(
        recording.record(
            args.url, topics, to, selection=selected, change=change, warn=warn, client=client
        ),
        left,
    )
    copied = counted(count, "message")
    print(f"{copied} of {', '.join(topics) or args.url} recorded in {to}")
    return 0


def _change(args: argparse.Namespace) -> Callable[[Message], Message]:
    if args.anonymise_key and not args.anonymise:
        raise UsageError("--anonymise-key: needs --anonymise")
    if not args.anonymise:
        return lambda message: message
    secret = os.urandom(2 * _SECRET_OCTETS)
    if args.anonymise_key:
        secret = _secret(args.anonymise_key)
    with requires("anonymise", "--anonymise"):
        from flowstream.recording.anonymise import Anonymiser  # noqa: PLC0415

    return Anonymiser(secret).message


def _secret(name: str) -> bytes:
    try:
        secret = Path(name).read_bytes()
    except OSError as err:
        raise UsageError(f"--anonymise-key {name}: {err.strerror}") from err
    if len(secret) < _SECRET_OCTETS:
        raise UsageError(
            f"--anonymise-key {name}: {len(secret)} octets are too few; write a secret by "
            f"head -c 32 /dev/urandom > {name}"
        )
    return secret
