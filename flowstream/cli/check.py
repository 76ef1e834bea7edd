"""``flowstream check``: what this host has and lacks, with the remedies."""

from __future__ import annotations

from typing import TYPE_CHECKING

from flowstream.cli.options import Commands, add_options
from flowstream.config.run import OPTIONS, parse_option

if TYPE_CHECKING:
    import argparse

_EXAMPLES = """\
examples:
  sudo flowstream check -i eth0
  sudo flowstream check -i eth0 --sink kafka://10.0.0.1:9092

A line each: ok, warn (it works, less well) or fail (it does not work). The exit
status is 1 when a line says fail. Nothing is attached, created or changed.
"""


def add(commands: Commands) -> None:
    """Add the command and its options."""
    parser = commands.add_parser(
        "check",
        help="say what this host, its interfaces and the sink lack",
        description="Say what this host, its interfaces and the sink lack.",
        epilog=_EXAMPLES,
    )
    add_options(parser, ("interfaces",))
    add_options(parser, ("sink", "topic_prefix"), sink=None)
    parser.set_defaults(command=execute)


def execute(args: argparse.Namespace) -> int:
    """Print the findings as they come; 1 when one of them is a failure."""
    interfaces = () if args.interfaces is None else parse_option("interfaces", args.interfaces)
    prefix = OPTIONS["topic_prefix"].default
    if args.topic_prefix is not None:
        prefix = parse_option("topic_prefix", args.topic_prefix)
    # Heavy, and --help must not wait for it.
    from flowstream.check import Status, check  # noqa: PLC0415

    failed = False
    for finding in check(interfaces, args.sink, prefix):
        remedy = f" -> {finding.remedy}" if finding.remedy else ""
        print(f"{finding.status:4}  {finding.subject}: {finding.text}{remedy}", flush=True)
        failed = failed or finding.status is Status.FAIL
    return 1 if failed else 0
