"""``flowstream report``: a page about traffic, losses and runs."""

from __future__ import annotations

import sys
from contextlib import ExitStack
from typing import TYPE_CHECKING

from flowstream.cli.kafka import add_kafka, client_for
from flowstream.cli.options import Commands, add_options, values
from flowstream.cli.selecting import WHERE_HELP, add_condition, selection
from flowstream.errors import UsageError
from flowstream.urls import SOURCE_FORMS

if TYPE_CHECKING:
    import argparse
    from collections.abc import Callable

_EXAMPLES = f"""\
examples:
  flowstream report flowstream-recording -o report.html
  flowstream report kafka://10.0.0.1:9092 --since 1h -o hour.html
  flowstream report office.fsrec --where 'if_name == "wan"' -o wan.html
  flowstream report office -o - | ssh www 'cat > report.html'

One HTML file of about 5 MB, which needs no network to be opened: traffic over
time by protocol and direction, talkers, conversations, services, sizes and
durations of flows, new flows, the loss equation of flowstream audit, the runs
and their ends. Sums are exact, in some 150 MB of memory however many records
there are; what exceeds it waits in a temporary file (TMPDIR), up to 300 octets
a record. --since, --until and --where select the traffic; loss equation and
runs are of all records, and all are read. A file that exists is replaced once
the page is complete. The exit status is 0 also where the loss equation does
not hold: the page says so.

{WHERE_HELP}"""


def add(commands: Commands) -> None:
    """Add the command and its options."""
    parser = commands.add_parser(
        "report",
        help="make a page about traffic, losses and runs",
        description="Make one HTML page about the traffic, the losses and the runs in topics.",
        epilog=_EXAMPLES,
    )
    parser.add_argument("url", metavar="URL", help=SOURCE_FORMS)
    parser.add_argument(
        "-o",
        "--output",
        metavar="FILE",
        required=True,
        help="file to write, - for standard output",
    )
    add_options(parser, ("topic_prefix",))
    add_condition(parser)
    add_kafka(parser)
    parser.set_defaults(command=execute, extra="report", limit=None)


def execute(args: argparse.Namespace) -> int:
    """Write the page."""
    prefix = values(args, ("topic_prefix",))["topic_prefix"]
    client = client_for(args.url, args)
    if args.output == "-" and sys.stdout.isatty():
        raise UsageError("-o -: a page is not for a terminal; use -o FILE")
    from flowstream.cli.loop import run_loop  # noqa: PLC0415
    from flowstream.report import replacing, report  # noqa: PLC0415

    options = {"--since": args.since, "--until": args.until, "--where": args.where}
    choice = ", ".join(f"{name} {text}" for name, text in options.items() if text)
    with ExitStack() as stack:
        write = stack.enter_context(replacing(args.output))
        page = run_loop(
            report(
                args.url,
                prefix,
                selection=selection(args),
                choice=choice,
                progressed=_progress(stack),
                client=client,
            ),
            f"{args.output} is as it was",
        )
        write(page)
    return 0


def _progress(stack: ExitStack) -> Callable[[str, int, int | None], object] | None:
    """Show bars on a terminal; elsewhere the total is not asked for."""
    if not sys.stderr.isatty():
        return None
    from flowstream.progress import progress_bars  # noqa: PLC0415

    bars = stack.enter_context(progress_bars())
    known = {name: bars.add_task(name, total=None) for name in ("reading", "summing")}
    return lambda name, done, total: bars.update(known[name], completed=done, total=total)
