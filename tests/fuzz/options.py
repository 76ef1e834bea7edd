"""Command lines: arguments separated by NUL, up to the point where a command would begin."""

from __future__ import annotations

import contextlib
import io
from typing import TYPE_CHECKING

from flowstream.cli import audit, pcap, record, replay, run
from flowstream.cli.main import make_parser
from flowstream.cli.options import values
from flowstream.config.kafka import client_of
from flowstream.config.options import options_of
from flowstream.config.pcap import CaptureConfig
from flowstream.config.run import OPTIONS, load
from flowstream.errors import UsageError
from flowstream.source import open_source

if TYPE_CHECKING:
    import argparse
    from collections.abc import Sequence

_PARSER = make_parser()


def seeds() -> Sequence[bytes]:
    """Return a command line of every command and option."""
    lines = [
        "run -i eth0 --interface eth1 --sink kafka://10.0.0.1:9092 --duration 60",
        "pcap a.pcap b.pcap --sink stdout: --names ecs --community-id --interval 60",
        "audit kafka://10.0.0.1:9092 --topic-prefix site",
        "record kafka://10.0.0.1:9092 --topic a --topic b --to ab",
        "replay ab --to kafka://10.0.0.1:9092 --speed max --loop 3",
        "check -i eth0 --sink file:recording",
        "demo --sink kafka://10.0.0.1:9092",
        "schema clickhouse --topic counters",
        "run -i eth0 --sink kafka://10.0.0.1:9092 -X compression.type=gzip -X client.id=a=b",
        "audit kafka://10.0.0.1:9092 -X sasl.username=${HOME} -X sasl.password=file:/dev/null",
        "run -i eth0 --sink file:recording -X client.id=a --kafka-config /dev/null",
        "replay ab --to kafka://10.0.0.1:9092 -X sasl.password=secret -X group.id=a",
        "cat kafka://10.0.0.1:9092 -X client.rack=b -X list",
        "run --help",
        "--version",
    ]
    lines += [
        f"run -i eth0 --{option.name}" + ("" if option.is_switch else f" {option.default}")
        for option in OPTIONS.values()
    ]
    return [line.replace(" ", "\0").encode() for line in lines]


def target(data: bytes) -> None:
    """Parse and check the arguments; UsageError, or an end after a help text."""
    arguments = [each.decode(errors="surrogateescape") for each in data.split(b"\0")]
    with contextlib.redirect_stdout(io.StringIO()) as printed:
        try:
            args = _PARSER.parse_args(arguments)
        except UsageError:
            return
        except SystemExit as end:
            assert not end.code
            assert printed.getvalue()
            return
    with contextlib.suppress(UsageError):
        _check(args)


def _check(args: argparse.Namespace) -> None:
    match args.command:
        case run.execute:
            args.config = None
            load(vars(args))
        case pcap.execute:
            fields = tuple(options_of(CaptureConfig))
            CaptureConfig(files=tuple(args.files), **values(args, fields))
        case record.execute:
            client = client_of(args.url, {"properties": args.properties})
            open_source(args.url, args.topics, client=client)
        case audit.execute:
            open_source(args.url, ["t"])
        case replay.execute:
            open_source(args.directory, args.topics or ())
            client_of(args.to, {"properties": args.properties})
