"""Options of publishing that ``flowstream run`` and ``flowstream pcap`` share."""

from __future__ import annotations

from typing import Annotated, Literal

import msgspec

from flowstream.config.options import described, option_name
from flowstream.errors import UsageError
from flowstream.kafka.settings import DEFAULT_CLIENT, ClientSettings
from flowstream.streams import PREFIX
from flowstream.urls import REGISTRY_FORMS, SINK_FORMS, StdoutUrl, parse_registry, parse_url


class PublishConfig(msgspec.Struct, frozen=True, kw_only=True, rename=option_name):
    """The records to make and the sink to publish them to. Names ending in ``_s`` are seconds.

    The constructor checks that fields agree with each other (``UsageError``);
    ``Option.parse`` checks the limits of a single field.
    """

    sink: Annotated[
        str,
        described(
            "URL",
            f"destination of the records: {SINK_FORMS}",
            title=SINK_FORMS,
            min_length=1,
        ),
    ] = "file:flowstream-recording"
    format: Annotated[
        Literal["json", "msgpack", "protobuf", "avro"],
        described("FORMAT", "format of the records; avro requires a registry"),
    ] = "json"
    names: Annotated[
        Literal["goflow2", "ecs", "netobserv"],
        described("NAMES", "field names in JSON; only goflow2 can be audited"),
    ] = "goflow2"
    community_id: Annotated[bool, described("", "add the Community ID of each flow")] = False
    registry: (
        Annotated[
            str,
            described(
                "URL",
                "schema registry (Confluent's API) for protobuf and avro",
                title=REGISTRY_FORMS,
                pattern=r"\Ahttps?://[^\s,]+\Z",
            ),
        ]
        | None
    ) = None
    interval_s: Annotated[
        float,
        described("SECONDS", "time between two records of a lasting flow", ge=0.1, le=3600),
    ] = 5.0
    max_flows: Annotated[
        int,
        described("N", "capacity of the flow table, for all interfaces", ge=16, le=16_777_216),
    ] = 131_072
    sampling: Annotated[
        int, described("N", "observe one packet in N, chosen at random", ge=1, le=2**32 - 1)
    ] = 1
    filter: (
        Annotated[
            str,
            described(
                "EXPR",
                "observe only the packets that a filter in the language of tcpdump accepts",
                title="an expression of pcap-filter(7), such as 'net 10.0.0.0/8 and not port 22'",
                pattern=r"\A(?=\s*\S)[^\0\ud800-\udfff]{1,65536}\Z",
            ),
        ]
        | None
    ) = None
    partitions: Annotated[
        int,
        described("N", "partitions of topics that have to be created", ge=1, le=10_000),
    ] = 6
    topic_prefix: Annotated[
        str,
        described(
            "PREFIX",
            "the topics are PREFIX.flows, PREFIX.new_flows and PREFIX.counters",
            title="1 to 239 of the characters a-z A-Z 0-9 . _ -",
            pattern=PREFIX,
        ),
    ] = "flowstream"

    user: (
        Annotated[
            str,
            described(
                "USER",
                "the user to become once nothing more needs privileges; by default flowstream "
                "where that user exists, else nobody",
                title="a name or number, in TOML as text",
                pattern=r"\A[^\s:\0]{1,256}\Z",
            ),
        ]
        | None
    ) = None

    kafka: ClientSettings = DEFAULT_CLIENT
    """Settings of the clients of a cluster; its addresses are the sink's."""

    def __post_init__(self) -> None:
        check_sink(self.sink, self.format)
        _check_format(self.format, self.names, self.registry)
        if self.registry is not None:
            parse_registry(self.registry)
        if self.community_id and self.format == "msgpack":
            raise UsageError(
                "community-id: msgpack has a fixed layout without it; leave it out "
                "or use another format"
            )


def check_sink(sink: str, record_format: str) -> None:
    """Raise ``UsageError`` when the URL names no sink or that sink cannot take the format."""
    if isinstance(parse_url(sink), StdoutUrl) and record_format != "json":
        raise UsageError(
            f"format: {record_format} is binary and the sink stdout: takes lines of text; "
            "use format json or another sink"
        )


def _check_format(record_format: str, names: str, registry: str | None) -> None:
    if record_format == "avro" and registry is None:
        raise UsageError("format: avro can only be read with its schema; name a registry too")
    if record_format in ("json", "msgpack") and registry is not None:
        raise UsageError(
            f"registry: {record_format} needs none; leave it out or use format protobuf or avro"
        )
    if record_format != "json" and names != "goflow2":
        raise UsageError(f"names: {names} are names in JSON and the format is {record_format}")
