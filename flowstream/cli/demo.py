"""``flowstream demo``: real traffic between two namespaces, and its audit."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from flowstream.cli.kafka import add_kafka, client_for, given_options
from flowstream.cli.options import Commands, add_options, values
from flowstream.config.publish import check_sink
from flowstream.errors import UsageError
from flowstream.urls import StdoutUrl, parse_url

if TYPE_CHECKING:
    import argparse

DURATION_S: Final = 6.0
_FIELDS: Final = ("duration_s", "sink", "format")
_READABLE: Final = ("json", "msgpack", "protobuf")

_EXAMPLES = """\
examples:
  sudo flowstream demo
  sudo flowstream demo --duration 20 --sink kafka://127.0.0.1:9092

Makes two network namespaces with a veth pair, sends ping, TCP, UDP, IPv6 and
VLAN traffic through it, shows the flows and ends with their audit. It reads its
records back, so it takes neither stdout: nor Avro. The
namespaces are removed at the end, also after an interrupt, and those of a
killed demo by the next one. Needs root.
"""


def add(commands: Commands) -> None:
    """Add the command and its options."""
    parser = commands.add_parser(
        "demo",
        help="show the flows of real traffic between two network namespaces",
        description="Show the flows of real traffic between two network namespaces.",
        epilog=_EXAMPLES,
    )
    add_options(parser, _FIELDS, duration_s=f"{DURATION_S:g}", sink="a new directory")
    add_kafka(parser)
    parser.set_defaults(command=execute, extra="agent")


def execute(args: argparse.Namespace) -> int:
    """Run the demonstration and return its exit status."""
    given = values(args, _FIELDS, duration_s=DURATION_S, sink=None)
    if given["format"] not in _READABLE:
        raise UsageError(
            f"--format: {given['format']} is not supported by the demo; "
            f"use {', '.join(_READABLE[:-1])} or {_READABLE[-1]}"
        )
    if given["sink"] is not None:
        check_sink(given["sink"], given["format"])
        if isinstance(parse_url(given["sink"]), StdoutUrl):
            raise UsageError(
                "--sink: stdout: is not supported by the demo; use a recording or Kafka"
            )
    client = client_for(given["sink"] or "file:", args)
    from flowstream import demo  # noqa: PLC0415

    return demo.run(
        given["duration_s"], given["sink"], given["format"], client, given_options(args)
    )
