"""Parquet by pyarrow; importing this needs the extra ``parquet``."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, BinaryIO, Final

import pyarrow as pa
import pyarrow.parquet as pq

from flowstream.reading.rows import OneKind
from flowstream.records.describe import fields, named_fields
from flowstream.records.fields import Kind

if TYPE_CHECKING:
    from collections.abc import Sequence

    from msgspec import Struct

    from flowstream.messages import Message
    from flowstream.reading.rows import Read
    from flowstream.records.describe import Field

_GROUP_ROWS: Final = 65_536
# Signed, as many engines read no others; all values of the records fit.
_TYPES: Final = {
    Kind.U8: pa.int16(),
    Kind.U16: pa.int32(),
    Kind.U32: pa.int64(),
    Kind.U64: pa.int64(),
    Kind.BOOL: pa.bool_(),
}


class Parquet:
    """One table, zstd-compressed; see ``flowstream.reading.rows.Writer``.

    Records are kept until they fill a row group; ``close`` writes the rest and the
    file's end. Without a record the table has no rows; ``topics`` choose its columns.
    """

    def __init__(self, file: BinaryIO, topics: Sequence[str]) -> None:
        self._file = file
        self._kind = OneKind("Parquet", topics)
        self._rows: list[dict[str, Any]] = []
        self._writer: pq.ParquetWriter | None = None

    def write(self, batch: Sequence[Read]) -> None:
        """Keep records, and write those that fill a row group."""
        for row in self._kind.rows(batch):
            # pyarrow takes a map as pairs.
            self._rows.append(
                {n: list(v.items()) if isinstance(v, dict) else v for n, v in row.items()}
            )
        if len(self._rows) >= _GROUP_ROWS:
            self._write_group()

    def write_undecoded(self, messages: Sequence[Message]) -> bool:  # noqa: ARG002
        """Return False."""
        return False

    def close(self) -> None:
        """Write the last row group and the end; without it the file cannot be read."""
        if self._rows or self._writer is None:
            self._write_group()
        if self._writer is not None:
            self._writer.close()
            self._file.flush()

    def _write_group(self) -> None:
        schema = _schema(self._kind.record or self._kind.presumed)
        if self._writer is None:
            self._writer = pq.ParquetWriter(self._file, schema, compression="zstd")
        self._writer.write_table(pa.Table.from_pylist(self._rows, schema))
        self._rows = []


def _schema(record: type[Struct]) -> pa.Schema:
    return pa.schema([_field(field) for field in named_fields(record)])


def _field(field: Field) -> pa.Field:
    kind = _TYPES.get(field.kind, pa.string())
    if field.record is not None:
        part = pa.struct([_field(each) for each in fields(field.record)])
        kind = part if field.kind is Kind.PART else pa.map_(pa.string(), part)
    return pa.field(field.name, kind, nullable=False, metadata={"description": field.description})
