"""``flowstream check``: diagnose host, interfaces and sink."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from flowstream.cli.kafka import add_kafka, client_for
from flowstream.cli.options import Commands, add_options, values
from flowstream.config.hooks import attach_modes, check_hook
from flowstream.config.run import read
from flowstream.host.selection import Selection
from flowstream.wording import printable

if TYPE_CHECKING:
    import argparse

_FIELDS = (
    *("interfaces", "interface_kinds", "mode", "direction", "hook", "netns", "pin", "sink"),
    *("topic_prefix", "filter"),
)
_EXAMPLES = """\
examples:
  sudo flowstream check
  sudo flowstream check -i 'eth*' -i '!eth7' --sink kafka://10.0.0.1:9092
  sudo flowstream check --config /etc/flowstream/flowstream.toml

Interfaces are chosen as by flowstream run: without any option the physical
ones. Prints a line per finding: ok, warn (works with restrictions) or fail
(does not work), with the remedy. The exit status is 1 after a fail. Nothing is
attached, created or changed.
"""


def add(commands: Commands) -> None:
    """Add the command and its options."""
    parser = commands.add_parser(
        "check",
        help="check the requirements of host, interfaces and sink",
        description="Check the requirements of host, interfaces and sink.",
        epilog=_EXAMPLES,
    )
    add_options(parser, _FIELDS, sink=None)
    parser.add_argument(
        "--config",
        metavar="FILE",
        help="the agent's TOML file: interface, interface-kind, mode, direction, hook, netns, "
        "pin, sink, topic-prefix, filter and [kafka] are taken from it",
    )
    add_kafka(parser)
    parser.set_defaults(command=execute, extra="agent")


def execute(args: argparse.Namespace) -> int:
    """Print the findings one by one; return 1 when one of them is a failure."""
    known, table = read(Path(args.config)) if args.config else ({}, {})
    given = values(args, _FIELDS, **{"sink": None, "pin": None} | known)
    client = client_for(given["sink"] or "", args, table)
    selection = Selection(given["interfaces"], given["interface_kinds"])
    hooks = [given[field] for field in ("direction", "hook", "mode")]
    check_hook(*hooks)
    modes = attach_modes(*hooks)
    from flowstream.check import Status, check  # noqa: PLC0415

    failed = False
    findings = check(
        selection,
        given["netns"],
        given["sink"],
        given["topic_prefix"],
        client,
        pin=given["pin"],
        modes=modes,
        expression=given["filter"],
    )
    for finding in findings:
        remedy = f" -> {finding.remedy}" if finding.remedy else ""
        # Names of interfaces are any octets, and others may have chosen them.
        line = printable(f"{finding.subject}: {finding.text}{remedy}")
        print(f"{finding.status:4}  {line}", flush=True)
        failed = failed or finding.status is Status.FAIL
    return 1 if failed else 0
