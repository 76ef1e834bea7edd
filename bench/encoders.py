"""Cost of encoding a record in every format, with all names and options: µs CPU.

This cost depends on the values more than that of any other stage. So these are the
records of a simulated host: they differ in most columns, and a fifth is IPv6.
"""

from __future__ import annotations

from functools import cache
from typing import TYPE_CHECKING, Any, Final

from support.registry import Registry

from bench.fleet.hosts import Fleet
from bench.measure import Row, Table, interleave
from bench.records import IDENTITY, RECORDS, in_parts
from flowstream.encode import PROFILES, make_encoder, stamp
from flowstream.host.privileges import find_user
from flowstream.registry.encoder import prefixes_of

if TYPE_CHECKING:
    from collections.abc import Iterator

    from flowstream.encode import Encoder, Prefixes

PER_S: Final = {"json": 150_000, "msgpack": 600_000, "protobuf": 150_000, "avro": 150_000}
"""Targets, records per second and core."""
BASE: Final = "json, names goflow2"


def measure() -> Iterator[Table]:
    """Every format, over JSON with its usual names."""
    fleet = Fleet(hosts=2, flows=RECORDS, intervals=1, seed=7)
    run = next(fleet.runs())
    records = fleet.records(run, 0)
    stamp(records, run.identity, 0)
    encoders = _encoders()
    samples = interleave(
        {
            name: lambda encode=encoder.encode: in_parts(records, encode)  # type: ignore[misc]
            for name, encoder in encoders.items()
        }
    )
    rows = []
    for name, taken in samples.items():
        target_us = 1e6 / PER_S[name.partition(",")[0]]
        unit = f"{1e6 / taken.fastest:,.0f} records/s per core,"
        rows.append(Row(name, taken, samples[BASE], target_us, unit=unit))
    notes = ["the caches of IPv6 texts (JSON, Avro) are kept from sample to sample"]
    yield Table(f"Encoders, {RECORDS:,} records a sample", "µs CPU per record", BASE, rows, notes)


def new_encoder(record_format: str, **options: Any) -> Encoder:
    """Return an encoder with empty caches; options as of ``make_encoder``."""
    return make_encoder(record_format, IDENTITY, prefixes=prefixes(record_format), **options)


@cache
def prefixes(record_format: str) -> Prefixes | None:
    """The prefixes of a schema registry for the formats that have one."""
    if record_format in ("json", "msgpack"):
        return None
    with Registry() as server:
        return prefixes_of(server.url, record_format, "bench", find_user("nobody"))


def _encoders() -> dict[str, Encoder]:
    encoders = {f"json, names {names}": new_encoder("json", names=names) for names in PROFILES}
    for name in ("msgpack", "protobuf", "avro"):
        encoders[name] = new_encoder(name)
    for name in ("json", "protobuf", "avro"):
        encoders[f"{name}, community id"] = new_encoder(name, community_id=True)
    return encoders
