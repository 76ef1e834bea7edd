"""Options that select records of topics."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from flowstream.reading import Selection

WHERE_HELP = """\
A condition names fields (flowstream schema json lists them), which == != < <= >
>= and in compare, and + - * / % & | calculate with; and, or, not join:
  dst_port == 443 and packets > 10
  proto == "udp" and "10.0.0.0/8" in (src_addr, dst_addr)
  src_addr in ("192.0.2.7", "2001:db8::/32") or src_mac == "02:00:00:00:00:01"
  tcp_flags & SYN and not tcp_flags & ACK
  packets and bytes / packets > 1000
A record that lacks a named field, as counters lack ports, does not match.
"""


def add_topics(parser: argparse.ArgumentParser, use: str) -> None:
    """Add --topic; ``use`` is its help, for example "topic to read"."""
    parser.add_argument(
        "--topic",
        metavar="TOPIC",
        dest="topics",
        action="append",
        default=[],
        help=f"{use}; may be repeated",
    )


def add_selection(parser: argparse.ArgumentParser) -> None:
    """Add --since, --until, --where and --max."""
    add_condition(parser)
    parser.add_argument(
        "--max", metavar="N", type=_count, dest="limit", help="stop after N records"
    )


def add_condition(parser: argparse.ArgumentParser) -> None:
    """Add --since, --until and --where."""
    parser.add_argument(
        "--since",
        metavar="TIME",
        help="first time of the messages: RFC 3339 (local time unless it ends with Z or an "
        "offset), Unix seconds, or how long ago (90s, 10m, 2h, 7d)",
    )
    parser.add_argument("--until", metavar="TIME", help="end of the time, exclusive, as --since")
    add_where(parser)


def add_where(parser: argparse.ArgumentParser) -> None:
    """Add --where; ``WHERE_HELP`` explains it."""
    parser.add_argument(
        "--where", metavar="CONDITION", help="only records for which it holds; see below"
    )


def selection(args: argparse.Namespace) -> Selection:
    """Return what the options select; UsageError names a mistake."""
    from flowstream.reading import selected  # noqa: PLC0415

    return selected(since=args.since, until=args.until, limit=args.limit, where=args.where)


def _count(text: str) -> int:
    if not text.isdecimal() or not 1 <= int(text) < 10**18:
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number from 1 on")
    return int(text)
