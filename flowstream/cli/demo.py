"""``flowstream demo``: real traffic between two namespaces, and the proof of the count."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from flowstream.cli.options import Commands, add_options
from flowstream.config.run import OPTIONS, check_sink, parse_option
from flowstream.errors import UsageError

if TYPE_CHECKING:
    import argparse

DURATION_S: Final = 6.0
_READABLE: Final = ("json", "msgpack", "protobuf")

_EXAMPLES = """\
examples:
  sudo flowstream demo
  sudo flowstream demo --duration 20 --sink kafka://127.0.0.1:9092

Makes two network namespaces with a veth pair, sends ping, TCP, UDP, IPv6 and
VLAN traffic through it, shows the flows and ends with the loss equation. What
it made is removed again, also when it is interrupted. Needs root.
"""


def add(commands: Commands) -> None:
    """Add the command and its options."""
    parser = commands.add_parser(
        "demo",
        help="show flows of real traffic in namespaces of its own",
        description="Show the flows of real traffic between two network namespaces.",
        epilog=_EXAMPLES,
    )
    add_options(
        parser,
        ("duration_s", "sink", "format"),
        duration_s=f"{DURATION_S:g}",
        sink="a new directory",
    )
    parser.set_defaults(command=execute)


def execute(args: argparse.Namespace) -> int:
    """Run the demonstration and give its exit status."""
    duration = DURATION_S
    if args.duration_s is not None:
        duration = parse_option("duration_s", args.duration_s)
    record_format = parse_option("format", args.format or OPTIONS["format"].default)
    if record_format not in _READABLE:
        raise UsageError(f"--format: the demo reads what it shows; use {', '.join(_READABLE)}")
    if args.sink is not None:
        check_sink(args.sink, record_format)
    from flowstream import demo  # noqa: PLC0415 - heavy, and --help must not wait for it

    return demo.run(duration, args.sink, record_format)
