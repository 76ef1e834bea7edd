"""``flowstream pcap``: captures through the kernel program."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING

from flowstream.cli.messages import warn
from flowstream.cli.options import Commands, add_options
from flowstream.config.run import OPTIONS, check_format, check_sink, parse_option

if TYPE_CHECKING:
    import argparse

_FIELDS = (
    "sink", "format", "names", "community_id", "registry", "interval_s", "max_flows",
    "sampling", "partitions", "topic_prefix",
)  # fmt: skip
_EXAMPLES = """\
examples:
  flowstream pcap trace.pcap
  flowstream pcap a.pcap b.pcapng --sink kafka://127.0.0.1:9092 --interval 60
  flowstream pcap trace.pcap --sink stdout: --names ecs --community-id
  flowstream pcap trace.pcap --format avro --registry http://10.0.0.2:8081

The frames of pcap and pcapng files (Ethernet, raw IP, Linux cooked) run
through the program that also watches interfaces, with the capture's times:
--interval is capture time, each file is an interface of its own, and the same
files always give the same records, but for --sampling. Needs root or CAP_BPF
and CAP_NET_ADMIN, but no interface. A damaged file is published up to the
damage; the exit status is then 1. Files that are no captures, or whose first
packet cannot be read, are refused before anything is published.

Consumers tell runs apart by host_id and agent_epoch: here a digest of the files
and of --interval, --max-flows and --sampling, and the time of the first packet.
"""


def add(commands: Commands) -> None:
    """Add the command and its options."""
    parser = commands.add_parser(
        "pcap",
        help="publish the flows of capture files",
        description="Publish the flows of capture files, read by the kernel program itself.",
        epilog=_EXAMPLES,
    )
    parser.add_argument("files", metavar="FILE", nargs="+", type=Path, help="pcap or pcapng file")
    add_options(parser, _FIELDS)
    parser.set_defaults(command=execute)


def execute(args: argparse.Namespace) -> int:
    """Publish the captures and give the exit status."""
    given = {}
    for field in _FIELDS:
        text = getattr(args, field)
        given[field] = OPTIONS[field].default if text is None else parse_option(field, text)
    check_sink(given["sink"], given["format"])
    check_format(given["format"], given["names"], given["registry"])
    # Heavy, and --help must not wait for them.
    from flowstream import log, pcap  # noqa: PLC0415
    from flowstream.config.pcap import CaptureConfig  # noqa: PLC0415

    log.configure("warning")
    done = pcap.run(CaptureConfig(files=tuple(args.files), **given))
    for line in done.warnings:
        warn(line)
    lost = f"; {done.failed:,} could not be written" if done.failed else ""
    # Standard output may be the sink.
    print(
        f"{done.packets:,} packets of {len(args.files):,} files in {done.stored:,} flow records "
        f"-> {given['sink']}{lost}",
        file=sys.stderr,
    )
    return 1 if done.failed else 0
