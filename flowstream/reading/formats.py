"""Writing records for people and programs: JSON lines, CSV, Parquet."""

from __future__ import annotations

import csv
import io
from typing import TYPE_CHECKING, Any, BinaryIO, Final

import msgspec

from flowstream.extras import requires
from flowstream.reading.rows import OneKind, extras
from flowstream.reading.selection import decoded
from flowstream.records.decoding import format_of
from flowstream.records.describe import named_fields
from flowstream.records.encoding import to_json

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from flowstream.messages import Message
    from flowstream.reading.rows import Read, Writer
    from flowstream.records import CountersRecord, FlowRecord

FORMATS: Final = ("json", "csv", "parquet")
_MSGPACK: Final = 0xDC


def open_writer(name: str, file: BinaryIO, topics: Sequence[str]) -> Writer:
    """Return the writer of a format, one of ``FORMATS``, for records of ``topics``.

    Raises MissingExtraError if Parquet's library is missing.
    """
    if name == "json":
        return JsonLines(file)
    if name == "csv":
        return Csv(file, topics)
    with requires("parquet", "--format parquet"):
        from flowstream.reading.parquet import Parquet  # noqa: PLC0415 - an extra

    return Parquet(file, topics)


class JsonLines:
    """A line for each record, as a topic of JSON values has it."""

    def __init__(self, file: BinaryIO) -> None:
        self._file = file
        self._columnar = _columnar()

    def write(self, batch: Sequence[Read]) -> None:
        """See ``Writer``."""
        self._write([_line(*each) for each in batch])

    def write_undecoded(self, messages: Sequence[Message]) -> bool:
        """Write MessagePack flows by columns, in half the time."""
        if self._columnar is None or not messages:
            return False
        lines = self._columnar([message.value for message in messages])
        if lines is None:
            return False
        self._write(lines)
        return True

    def _write(self, lines: Sequence[bytes]) -> None:
        if lines:
            self._file.write(b"\n".join(lines) + b"\n")
            self._file.flush()

    def close(self) -> None:
        """Do nothing: every line is whole."""


def _columnar() -> Callable[[Sequence[bytes]], list[bytes] | None] | None:
    try:
        from flowstream.reading.columnar import json_values  # noqa: PLC0415
    except ModuleNotFoundError:  # numpy is part of an extra
        return None
    return json_values


def json_line(message: Message) -> bytes:
    """Return a message as a line without its end; DecodeError if it is not a record."""
    return _line(message, decoded(message))


def _line(message: Message, record: FlowRecord | CountersRecord) -> bytes:
    value = message.value
    if value[0] == _MSGPACK:
        return to_json(record)
    # A JSON value stays as it is, with what a newer agent added.
    if format_of(value) == "json":
        return value if b"\n" not in value else msgspec.json.format(value, indent=-1)
    return to_json(record, *extras(message, record))


class Csv:
    """A header with the names and a line for each record; maps are JSON text.

    Without a record there is the header; ``topics`` choose its names.
    """

    def __init__(self, file: BinaryIO, topics: Sequence[str]) -> None:
        self._file = file
        self._kind = OneKind("CSV", topics)
        self._has_header = False

    def write(self, batch: Sequence[Read]) -> None:
        """See ``Writer``."""
        rows = self._kind.rows(batch)
        if self._kind.record is not None:
            self._write(rows, self._kind.record)

    def _write(
        self, rows: Sequence[dict[str, Any]], record: type[FlowRecord | CountersRecord]
    ) -> None:
        names = [field.name for field in named_fields(record)]
        lines = io.StringIO()
        writer = csv.writer(lines, lineterminator="\n")
        if not self._has_header:
            writer.writerow(names)
            self._has_header = True
        writer.writerows([_cell(row[name]) for name in names] for row in rows)
        self._file.write(lines.getvalue().encode())
        self._file.flush()

    def write_undecoded(self, messages: Sequence[Message]) -> bool:  # noqa: ARG002
        """Return False."""
        return False

    def close(self) -> None:
        """Write the header if there was no record; every line is whole."""
        if not self._has_header:
            self._write([], self._kind.presumed)


def _cell(value: Any) -> Any:
    if isinstance(value, dict):
        return msgspec.json.encode(value).decode()
    return str(value).lower() if isinstance(value, bool) else value
