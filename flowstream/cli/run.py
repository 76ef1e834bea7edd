"""``flowstream run``: the agent."""

from __future__ import annotations

import contextlib
import os
import sys
from typing import TYPE_CHECKING

from flowstream.cli.options import Commands, add_options
from flowstream.config.run import OPTIONS, load

if TYPE_CHECKING:
    import argparse
    from collections.abc import Iterator

_EXAMPLES = """\
examples:
  flowstream run -i eth0
      record into ./flowstream-recording, which needs no broker
  flowstream run -i eth0 -i eth1 --sink kafka://10.0.0.1:9092 --format msgpack
  flowstream run --config /etc/flowstream.toml --duration 60

The file is TOML and its keys are the options' names, for example
  interface = ["eth0", "eth1"]
  sink = "kafka://10.0.0.1:9092"
  interval = 5
  max-flows = 65536
An option on the command line is stronger than the file. SIGTERM and SIGINT
end the run: everything seen is published, then the final counters.
"""


def add(commands: Commands) -> None:
    """Add the command and its options."""
    parser = commands.add_parser(
        "run",
        help="attach to interfaces and publish their flows",
        description="Attach to interfaces and publish their flows until told to stop.",
        epilog=_EXAMPLES,
    )
    add_options(parser, OPTIONS)
    parser.add_argument("--config", metavar="FILE", help="TOML file with the same names as here")
    parser.set_defaults(command=execute)


def execute(args: argparse.Namespace) -> int:
    """Run the agent to its end and give its exit status."""
    config = load(vars(args), args.config)
    # numpy would start a thread per CPU for linear algebra, which nothing here uses;
    # and privileges must be given up while there is one thread only.
    os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
    # structlog imports rich where it can, for tracebacks that flowstream.log does
    # not use: a fifth of the time until the agent is attached, and 5 MB.
    with _hidden("rich"):
        from flowstream.agent.run import run  # noqa: PLC0415 - heavy, and --help must not wait for it

    return run(config)


@contextlib.contextmanager
def _hidden(package: str) -> Iterator[None]:
    """Keep a package that is not imported yet from being imported inside the block."""
    if package in sys.modules:
        yield
        return
    # The import system's documented way of saying that there is none.
    sys.modules[package] = None  # type: ignore[assignment]
    try:
        yield
    finally:
        del sys.modules[package]
