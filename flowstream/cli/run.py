"""``flowstream run``: the agent."""

from __future__ import annotations

import contextlib
import importlib.abc
import signal
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from flowstream.cli.kafka import add_kafka
from flowstream.cli.options import Commands, add_options, single_threaded
from flowstream.config.options import options_of
from flowstream.config.publish import PublishConfig
from flowstream.config.run import OPTIONS, load
from flowstream.config.source import ConfigSource
from flowstream.config.spool import SPOOL_OPTIONS
from flowstream.host.service_manager import ServiceManager

if TYPE_CHECKING:
    import argparse
    from collections.abc import Iterator

    from flowstream.attacher.process import Process
    from flowstream.config.run import RunConfig

_EXAMPLES = """\
examples:
  sudo flowstream run
      record from all physical interfaces into ./flowstream-recording
  sudo flowstream run -i eth0 -i eth1 --sink kafka://10.0.0.1:9092
  sudo flowstream run -i 'ens*' -i '!ens7' --netns blue --netns pid:4711
  sudo flowstream run -i eth0 --direction both
      what eth0 receives, and what it sends
  sudo flowstream run --filter 'net 10.0.0.0/8 and not port 22'
      what tcpdump would show with that expression
  sudo flowstream run --config /etc/flowstream/flowstream.toml --duration 60
  sudo flowstream run --sink kafka://10.0.0.1:9092 --pin /sys/fs/bpf/flowstream
      programs stay when the agent ends; the next run goes on without a gap

The keys of the TOML file are the names of the options, for example
  interface = ["eth0", "eth1"]
  sink = "kafka://10.0.0.1:9092"
  interval = 5
  max-flows = 65536
  [kafka]
  security.protocol = "SASL_SSL"
  sasl.mechanism = "SCRAM-SHA-256"
  sasl.username = "agent"
  sasl.password = "file:/etc/flowstream/password"
The command line takes precedence over the file. SIGTERM, SIGINT and SIGQUIT end
the run: everything observed is published, then the final counters, which with
--pin the next run publishes. SIGHUP makes the agent read the file again;
without --config it ends the run too.
"""


def add(commands: Commands) -> None:
    """Add the command and its options."""
    parser = commands.add_parser(
        "run",
        help="attach to interfaces and publish their flows",
        description="Attach to interfaces and publish their flows until a signal or --duration.",
        epilog=_EXAMPLES,
    )
    shared = options_of(PublishConfig)
    apart = shared.keys() | SPOOL_OPTIONS.keys()
    add_options(parser, (field for field in OPTIONS if field not in apart))
    parser.add_argument("--config", metavar="FILE", help="TOML file with the same names as keys")
    add_kafka(parser)
    add_options(parser.add_argument_group("records"), shared)
    add_options(parser.add_argument_group("spool"), SPOOL_OPTIONS)
    parser.set_defaults(command=execute, extra="agent")


def execute(args: argparse.Namespace) -> int:
    """Run the agent to its end and return its exit status."""
    # SIGHUP would end the process until the agent can act on it, however early it comes.
    with (
        # Before a child process inherits its variables.
        ServiceManager.of_environment() as manager,
        _held_back(signal.SIGHUP) if args.config is not None else contextlib.nullcontext(),
    ):
        from flowstream.attacher.process import Process  # noqa: PLC0415

        # Before the configuration is read: the attacher has none of the secrets in it.
        with Process() as process:
            if args.config is None:
                return _run(process, manager, load(vars(args)))
            source = ConfigSource(vars(args), Path(args.config))
            return _run(process, manager, source.config, source)


def _run(
    process: Process,
    manager: ServiceManager,
    config: RunConfig,
    source: ConfigSource | None = None,
) -> int:
    # As long as it is permitted: the agent gives up its privileges.
    manager.open()
    single_threaded()
    with _without_rich():
        import structlog  # noqa: F401, PLC0415
    from flowstream.agent.run import run  # noqa: PLC0415

    return run(config, process, source, manager)


@contextlib.contextmanager
def _held_back(number: signal.Signals) -> Iterator[None]:
    before = signal.pthread_sigmask(signal.SIG_BLOCK, (number,))
    try:
        yield
    except BaseException:
        # A signal that came meanwhile is forgotten, so that the error is told.
        handler = signal.signal(number, signal.SIG_IGN)
        signal.signal(number, handler)
        raise
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


class _NoRich(importlib.abc.MetaPathFinder):
    """Import hook that reports rich as not installed."""

    def find_spec(self, fullname: str, *_: object) -> None:
        if fullname == "rich":
            raise ModuleNotFoundError(f"No module named {fullname!r}", name=fullname)


@contextlib.contextmanager
def _without_rich() -> Iterator[None]:
    """Import structlog without rich, which it imports where that is installed.

    It needs rich for tracebacks that flowstream.log does not use: 30 ms, a seventh of
    the time until the agent is attached, and 5 MB of its memory. Other commands
    import rich themselves.
    """
    hook = _NoRich()
    sys.meta_path.insert(0, hook)
    try:
        yield
    finally:
        sys.meta_path.remove(hook)
