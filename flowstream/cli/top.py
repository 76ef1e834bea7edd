"""``flowstream top``: a live table of flows."""

from __future__ import annotations

import argparse
import os
import sys
from typing import Final

from flowstream.cli.kafka import add_kafka, client_for
from flowstream.cli.options import Commands, add_options, single_threaded, values
from flowstream.cli.selecting import WHERE_HELP, add_where
from flowstream.config.run import OPTIONS
from flowstream.errors import UsageError
from flowstream.top.settings import GROUP_NAMES, Settings
from flowstream.urls import ARCHIVE_SUFFIX, SOURCE_FORMS

_OWN: Final = ("interfaces", "interface_kinds", "direction", "hook", "netns", "filter", "user")
"""Options of ``flowstream run`` that the agent of this command gets."""
_MOST_ROWS: Final = 8_192

_EXAMPLES = f"""\
examples:
  sudo flowstream top -i eth0
      what eth0 receives and sends, by an agent that runs as long as top does
  flowstream top kafka://10.0.0.1:9092 --where 'proto == "udp"' --by port
  flowstream top flowstream-recording --from start
      totals of all that was recorded, and then what comes
  flowstream top kafka://10.0.0.1:9092 --once --period 30
      one table, of 30 seconds, as text
  flowstream top kafka://10.0.0.1:9092 --json | jq '.rows[0]'

On the screen rates are averages over --period, and totals begin with top, or
with a new filter. Octets are those of frames, as audit counts them. Keys: q
quits, ? lists the others.

From a topic or a directory top shows what comes from now on; with --from start
all that is there first, with rates that are averages over the records' time.
Rows that are too small to be kept in memory are put together as others. When
records come faster than top can add them up, it leaves out some and shows the
part that it has read.

Without a source top starts an agent (flowstream run) on the interfaces of -i,
by default on all physical ones, which needs root; top itself becomes --user at
once. The agent publishes nowhere else and ends with top. Where an agent already
observes the interface, add --hook tcx.

{WHERE_HELP}"""


def add(commands: Commands) -> None:
    """Add the command and its options."""
    parser = commands.add_parser(
        "top",
        help="show who sends how much, as it happens",
        description="Show a live table of the flows of topics, of a recording, or of interfaces.",
        epilog=_EXAMPLES,
    )
    parser.add_argument("url", metavar="URL", nargs="?", help=SOURCE_FORMS)
    own = parser.add_argument_group("without URL: the interfaces that top observes itself")
    add_options(own, _OWN, direction="both")
    add_options(parser, ("topic_prefix",))
    add_kafka(parser)
    add_where(parser)
    parser.add_argument(
        "--by",
        dest="group",
        metavar="GROUP",
        choices=GROUP_NAMES,
        default=GROUP_NAMES[0],
        help=f"{', '.join(GROUP_NAMES)} (default {GROUP_NAMES[0]})",
    )
    parser.add_argument(
        "--from",
        dest="begin",
        metavar="PLACE",
        choices=("start", "end"),
        help="start or end of the topics (default end; of FILE.fsrec start)",
    )
    parser.add_argument(
        "--period",
        metavar="SECONDS",
        type=_seconds,
        default=10.0,
        help="time over which rates are averaged; of --once and --json the time of a table "
        "(default 10)",
    )
    parser.add_argument("--once", action="store_true", help="print one table as text, and end")
    parser.add_argument(
        "--json",
        action="store_true",
        help="print one JSON document a period, each a line; with --once or --from start only one",
    )
    parser.add_argument(
        "--rows",
        metavar="N",
        type=_count,
        default=20,
        help="rows of --once and --json, the largest (default 20)",
    )
    parser.set_defaults(command=execute, extra="top")


def execute(args: argparse.Namespace) -> int:
    """Show the table until the user quits; return the exit status."""
    if args.url is None:
        return _observe(args)
    if given := [OPTIONS[field].name for field in _OWN if getattr(args, field) is not None]:
        raise UsageError(f"--{given[0]}: is for top without a URL; leave one of them out")
    client = client_for(args.url, args)
    prefix = values(args, ("topic_prefix",))["topic_prefix"]
    settings = _settings(args)
    from flowstream.top.feeds import SourceFeed  # noqa: PLC0415
    from flowstream.top.session import show  # noqa: PLC0415

    ends = settings.whole and (settings.once or args.url.endswith(ARCHIVE_SUFFIX))
    feed = SourceFeed(args.url, prefix, client, from_start=settings.whole, follow=not ends)
    return show(feed, args.url, settings)


def _observe(args: argparse.Namespace) -> int:
    """Show what an agent of this command's own observes."""
    if args.begin is not None:
        raise UsageError("--from: is for a URL; without one there is no earlier record")
    from flowstream.host import privileges  # noqa: PLC0415

    single_threaded()
    config = values(args, _OWN, direction="both")
    user = privileges.find_user(privileges.user_name(config["user"]))
    settings = _settings(args)
    from flowstream.top.own_agent import AgentFeed  # noqa: PLC0415
    from flowstream.top.session import load, show  # noqa: PLC0415

    load(settings)
    feed = AgentFeed(_options(args))
    try:
        # Before anything is read, and before there are threads; everything is imported.
        privileges.give_up(user)
        return show(feed, ", ".join(config["interfaces"]) or "this host", settings)
    finally:
        feed.close()


def _options(args: argparse.Namespace) -> list[str]:
    """Return the options of the agent as they were given."""
    words = [] if args.direction else ["--direction", "both"]
    for field in _OWN:
        given = getattr(args, field)
        for text in given if isinstance(given, list) else [given]:
            words += [] if text is None else [f"--{OPTIONS[field].name}={text}"]
    return words


def _settings(args: argparse.Namespace) -> Settings:
    if not (args.once or args.json):
        _require_terminal()
    from flowstream.reading import Condition  # noqa: PLC0415

    is_archive = (args.url or "").endswith(ARCHIVE_SUFFIX)
    whole = args.begin == "start" or (args.begin is None and is_archive)
    return Settings(
        seconds=args.period,
        group=args.group,
        whole=whole,
        where=args.where and Condition(args.where),
        condition=args.where or "",
        once=args.once or (args.json and whole),
        json=args.json,
        rows=args.rows,
    )


def _require_terminal() -> None:
    """Raise ``UsageError`` where no screen can be shown."""
    if not (sys.stdin.isatty() and sys.stdout.isatty()):
        raise UsageError("top needs a terminal; use --once or --json")
    if os.environ.get("TERM", "") in ("", "dumb", "unknown"):
        raise UsageError("top needs a terminal that can move its cursor (TERM); use --once")


def _seconds(text: str) -> float:
    try:
        seconds = float(text)
    except ValueError:
        seconds = 0
    if not 1 <= seconds <= 3600:
        raise argparse.ArgumentTypeError(f"{text!r} is not a number of seconds from 1 to 3600")
    return seconds


def _count(text: str) -> int:
    if not text.isdecimal() or not 1 <= int(text) <= _MOST_ROWS:
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number from 1 to {_MOST_ROWS}")
    return int(text)
