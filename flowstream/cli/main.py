"""The command ``flowstream``: parsing, exit status, and errors as one line."""

from __future__ import annotations

import errno
import logging
import os
import sys
from typing import TYPE_CHECKING, Final

import flowstream
from flowstream.cli import audit, check, demo, pcap, record, replay, run, schema
from flowstream.cli.messages import complain
from flowstream.cli.options import Parser
from flowstream.errors import FlowstreamError

if TYPE_CHECKING:
    from collections.abc import Sequence

FAILED: Final = 1
# As a shell shows the signals that end other programs here: 128 + SIGINT, 128 + SIGPIPE.
INTERRUPTED: Final = 130
PIPE_CLOSED: Final = 141

# What a write to standard output can meet; such an error names no file.
_DISK_FAULTS: Final = (errno.ENOSPC, errno.EDQUOT, errno.EIO)

_EPILOG = """\
examples:
  sudo flowstream demo
  sudo flowstream run -i eth0 --sink kafka://10.0.0.1:9092
  flowstream audit kafka://10.0.0.1:9092

exit status:
  0    done, and what was asked for holds
  1    it failed, or what was checked does not hold
  2    a mistake in the command line or the configuration file
  130  interrupted
"""


def _parser() -> Parser:
    parser = Parser(
        prog="flowstream",
        description="Flow records of every packet that a host receives, to Apache Kafka.",
        epilog=_EPILOG,
    )
    parser.add_argument(
        "--version", action="version", version=f"%(prog)s {flowstream.__version__}"
    )
    commands = parser.add_subparsers(metavar="COMMAND", required=True)
    for command in (run, demo, pcap, audit, check, record, replay, schema):
        command.add(commands)
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command and return the exit status (``sys.argv`` when ``argv`` is None).

    Errors that flowstream raises on purpose become one line on standard error;
    others are bugs and keep their traceback.
    """
    # A command that logs sets logging up; in the others libraries are silent,
    # and what they raise is told as this program's own errors.
    logging.getLogger("aiokafka").addHandler(logging.NullHandler())
    try:
        status = _execute(argv)
        # While it can still become an exit status.
        sys.stdout.flush()
    except FlowstreamError as err:
        complain(str(err))
        return err.exit_status
    except KeyboardInterrupt:
        return INTERRUPTED
    except BrokenPipeError:  # the reader went away, as head does
        _discard_output()
        return PIPE_CLOSED
    except OSError as err:
        if err.errno not in _DISK_FAULTS or err.filename is not None:
            raise
        _discard_output()
        complain(f"standard output: {err.strerror}")
        return FAILED
    return status


def _discard_output() -> None:
    """Keep the interpreter from complaining at its end of what cannot be written."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _execute(argv: Sequence[str] | None) -> int:
    try:
        args = _parser().parse_args(argv)
    except SystemExit as end:  # --help and --version, once printed
        return int(end.code or 0)
    status: int = args.command(args)
    return status


if __name__ == "__main__":
    sys.exit(main())
