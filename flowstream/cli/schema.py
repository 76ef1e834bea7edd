"""``flowstream schema``: print schemas and table definitions of the topics."""

from __future__ import annotations

from typing import TYPE_CHECKING

from flowstream.streams import Stream

if TYPE_CHECKING:
    import argparse

    from flowstream.cli.options import Commands

# flowstream.schemas.FORMATS, which is too heavy to import for --help.
_FORMATS = (
    *("json", "avro", "protobuf", "layout", "clickhouse", "clickhouse-protobuf"),
    *("spark", "spark-avro", "flink", "flink-avro", "duckdb", "polars"),
)
_TOPICS = tuple(map(str, Stream))

_EXAMPLES = """\
examples:
  flowstream schema json
  flowstream schema protobuf > flows.proto
  flowstream schema clickhouse --topic counters | clickhouse-client --multiquery

json, avro and protobuf describe the values, layout the offsets of flow records
in MessagePack; the others define tables over a topic of JSON values with the
names goflow2, or of the format that their name ends with. duckdb and polars
have types for files of JSON lines. The same texts are in schemas/ of the
source.
"""


def add(commands: Commands) -> None:
    """Add the command and its options."""
    parser = commands.add_parser(
        "schema",
        help="print a topic's schema or table definition",
        description="Print a topic's schema or table definition.",
        epilog=_EXAMPLES,
    )
    parser.add_argument("format", metavar="FORMAT", choices=_FORMATS, help=", ".join(_FORMATS))
    parser.add_argument(
        "--topic",
        metavar="TOPIC",
        choices=_TOPICS,
        default=_TOPICS[0],
        help=f"{', '.join(_TOPICS)} (default {_TOPICS[0]})",
    )
    parser.set_defaults(command=execute, extra="")


def execute(args: argparse.Namespace) -> int:
    """Print the schema or definition."""
    from flowstream import schemas  # noqa: PLC0415

    print(schemas.text(args.format, Stream(args.topic)), end="")
    return 0
