"""``flowstream pcap``: publish the flows of capture files."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING

from flowstream.cli.kafka import add_kafka, client_for
from flowstream.cli.messages import warn
from flowstream.cli.options import Commands, add_options, single_threaded, values
from flowstream.config.options import options_of
from flowstream.config.pcap import CaptureConfig
from flowstream.wording import counted

if TYPE_CHECKING:
    import argparse

_FIELDS = tuple(options_of(CaptureConfig))
_EXAMPLES = """\
examples:
  flowstream pcap trace.pcap
  flowstream pcap a.pcap b.pcapng --sink kafka://127.0.0.1:9092 --interval 60
  flowstream pcap trace.pcap --filter 'net 10.0.0.0/8 and not port 22'
  flowstream pcap trace.pcap --sink stdout: --names ecs --community-id
  flowstream pcap trace.pcap --format avro --registry http://10.0.0.2:8081

The packets of pcap and pcapng files (Ethernet, raw IP, Linux cooked) run
through the program that also observes interfaces, with the times of the
capture: --interval is capture time, each file is an interface of its own, and
the same files always give the same records, except with --sampling. Needs root,
or CAP_BPF, CAP_NET_ADMIN and CAP_PERFMON, but no interface; privileges are
given up before a capture is read. A damaged file is published up to the damage;
the exit status is then 1. Files that are not captures, or whose first packet
cannot be read, are refused before anything is published. Packets may be in any
order of time: an interval begins when one leaves the present one.

Consumers tell runs apart by host_id, here a digest of the files and of
--interval, --max-flows, --sampling and --filter, and by agent_epoch, here the
time of the first packet.
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
    add_kafka(parser)
    parser.set_defaults(command=execute, extra="agent")


def execute(args: argparse.Namespace) -> int:
    """Publish the captures and return the exit status."""
    given = values(args, _FIELDS)
    kafka = client_for(given["sink"], args)
    config = CaptureConfig(files=tuple(args.files), kafka=kafka, **given)
    single_threaded()
    from flowstream import log, pcap  # noqa: PLC0415

    log.configure("warning")
    done = pcap.run(config, warn)
    lost = f"; {done.failed:,} could not be written" if done.failed else ""
    # Standard output may be the sink.
    print(
        f"{counted(done.packets, 'packet')} of {counted(len(args.files), 'file')} in "
        f"{counted(done.stored, 'flow record')} -> {config.sink}{lost}",
        file=sys.stderr,
    )
    return 1 if done.failed else 0
