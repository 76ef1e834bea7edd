"""The command ``flowstream``: parsing, exit status, and one line per error."""

from __future__ import annotations

import errno
import logging
import os
import sys
from contextlib import nullcontext
from typing import TYPE_CHECKING, Final

import flowstream
from flowstream.cli import (
    audit,
    cat,
    check,
    demo,
    detach,
    health,
    pcap,
    record,
    replay,
    report,
    run,
    schema,
    top,
)
from flowstream.cli.messages import complain
from flowstream.cli.options import Parser
from flowstream.cli.streams import buffer_output, open_closed_streams
from flowstream.errors import FlowstreamError
from flowstream.extras import requires
from flowstream.host.limits import require_descriptors

if TYPE_CHECKING:
    from collections.abc import Sequence

FAILED: Final = 1
# As shells report the signals: 128 + SIGINT, 128 + SIGPIPE.
INTERRUPTED: Final = 130
PIPE_CLOSED: Final = 141

# Errors of writing to standard output; they carry no file name.
_OUTPUT_FAULTS: Final = (errno.ENOSPC, errno.EDQUOT, errno.EIO, errno.EBADF)

_EPILOG = """\
examples:
  sudo flowstream demo
  sudo flowstream run -i eth0 --sink kafka://10.0.0.1:9092
  flowstream audit kafka://10.0.0.1:9092
  flowstream cat kafka://10.0.0.1:9092 --since 10m --where 'dst_port == 443'

exit status:
  0    success; what was checked holds
  1    failure, or what was checked does not hold
  2    mistake in the command line or the configuration file
  130  interrupted; 143 ended by SIGTERM
  141  the reader closed the output
"""


def make_parser() -> Parser:
    """Return the parser of the command line, with all commands."""
    parser = Parser(
        prog="flowstream",
        description="Publish flow records of the packets of a host's interfaces to Apache Kafka.",
        epilog=_EPILOG,
    )
    parser.add_argument(
        "--version", action="version", version=f"%(prog)s {flowstream.__version__}"
    )
    commands = parser.add_subparsers(dest="name", metavar="COMMAND", required=True)
    for command in (
        *(run, demo, pcap, audit, cat, top, report),
        *(check, health, detach, record, replay, schema),
    ):
        command.add(commands)
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command and return the exit status (``sys.argv`` when ``argv`` is None).

    A ``FlowstreamError`` becomes its lines on standard error, mostly one; other exceptions are
    bugs and keep their traceback.
    """
    # Commands that log configure logging; in the others libraries stay silent,
    # and their exceptions become errors of this program.
    logging.getLogger("aiokafka").addHandler(logging.NullHandler())
    open_closed_streams()
    buffer_output()
    try:
        require_descriptors()
        status = _execute(argv)
        # A failure here can still become the exit status.
        sys.stdout.flush()
    except FlowstreamError as err:
        complain(*err.lines)
        return err.exit_status
    except KeyboardInterrupt:
        return INTERRUPTED
    except BrokenPipeError:  # the reader closed the pipe, as head does
        _discard_output()
        return PIPE_CLOSED
    except OSError as err:
        if err.errno in (errno.EMFILE, errno.ENFILE):
            complain("too many open files: raise the limit, by ulimit -Hn or LimitNOFILE=")
            return FAILED
        if err.errno not in _OUTPUT_FAULTS or err.filename is not None:
            raise
        _discard_output()
        closed = err.errno == errno.EBADF
        complain(f"standard output{' is closed' if closed else f': {err.strerror}'}")
        return FAILED
    finally:
        _flush_messages()
    return status


def _flush_messages() -> None:
    """Messages to a terminal that is gone are lost, which is no failure of the command."""
    try:
        sys.stderr.flush()
    except OSError:
        # Otherwise the interpreter's own flush at its exit would make the status 120.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stderr.fileno())


def _discard_output() -> None:
    """Keep the interpreter from reporting, at its exit, that it cannot flush."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _execute(argv: Sequence[str] | None) -> int:
    try:
        args = make_parser().parse_args(argv)
    except SystemExit as end:  # --help and --version, once printed
        return int(end.code or 0)
    # Every command has the extra with its libraries, "" where it needs none.
    with requires(args.extra, args.name) if args.extra else nullcontext():
        status: int = args.command(args)
    return status


if __name__ == "__main__":
    sys.exit(main())
