"""Options for the clients of a Kafka cluster: those of every command that talks to one."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING, Any

from flowstream.cli.messages import warn
from flowstream.config.kafka import client_of, listed
from flowstream.kafka.credentials import exposed

if TYPE_CHECKING:
    from collections.abc import Mapping

    from flowstream.kafka.configuration import Given
    from flowstream.kafka.settings import ClientSettings


class _Append(argparse.Action):
    """Collects properties; "list" prints those that there are."""

    def __call__(
        self,
        parser: argparse.ArgumentParser,
        namespace: argparse.Namespace,
        values: Any,
        option_string: str | None = None,  # noqa: ARG002 - argparse passes it
    ) -> None:
        if values == "list":
            # Not as exit's message, which goes to standard error.
            print(listed(), end="")
            parser.exit()
        setattr(namespace, self.dest, [*getattr(namespace, self.dest), values])


def add_kafka(parser: argparse._ActionsContainer) -> None:
    """Add -X and --kafka-config."""
    parser.add_argument(
        "-X",
        metavar="KEY=VALUE",
        dest="properties",
        action=_Append,
        default=[],
        help="property of the Kafka clients, such as security.protocol=SASL_SSL; may be "
        "repeated; -X list prints all of them",
    )
    parser.add_argument(
        "--kafka-config",
        metavar="FILE",
        help="TOML file, such as the agent's, whose table [kafka] has these properties",
    )


def client_for(
    url: str, args: argparse.Namespace, table: Mapping[str, Given] | None = None
) -> ClientSettings:
    """Return the settings that the options give for ``url``; warns of exposed secrets.

    ``table`` has the properties of a configuration, which the options precede.
    """
    client = client_of(url, vars(args), table)
    for each in exposed(client):
        warn(f"{each.file}: others may read or change this secret; {each.remedy}")
    if client.tls is not None or client.sasl is not None:
        _configure_log()
    return client


def _configure_log() -> None:
    """Let what is said of reloaded files go to standard error: the default is standard output."""
    import structlog  # noqa: PLC0415

    from flowstream import log  # noqa: PLC0415

    if not structlog.is_configured():
        log.configure("warning")


def given_options(args: argparse.Namespace) -> list[str]:
    """Return these options as they were given, for another command."""
    options = [word for text in args.properties for word in ("-X", text)]
    return [*options, "--kafka-config", args.kafka_config] if args.kafka_config else options
