"""Counters records with sensible values, as records, as published values and as messages."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from flowstream import __version__
from flowstream.accounting import terms
from flowstream.accounting.attachment_key import EGRESS, INGRESS, AttachmentKey
from flowstream.records import SCHEMA_VERSION, CountersRecord, RecordType
from flowstream.records.counters import EMPTY_SPOOL, Amount, Loss, SpoolCounts, StageCounts
from flowstream.testing import encoding
from flowstream.testing.fields import FIRST_NS, HOST_ID, SAMPLER, checked

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from msgspec import Struct

    from flowstream.messages import Message
    from flowstream.records import FlowRecord

_PERIOD_NS = 1_000_000_000
_PROGRAMS: Final = {
    INGRESS: {"program_name": "xdp_flow", "attach_mode": "native"},
    EGRESS: {"program_name": "tc_flow", "attach_mode": "tcx"},
}
"""What an agent has by default, by ``flow_direction``."""
_AMOUNTS: Final[dict[str, type[Struct]]] = {"no_flow": Amount, "losses": Loss, "in_doubt": Loss}


class CountersFactory:
    """Makes counters records of the run and interface that FlowFactory's records have.

    ``seq`` counts up, and each record is one second after the last.
    """

    def __init__(self, host: str = "test-host") -> None:
        self.host = host
        self._seq = 0

    def __call__(self, flows: Iterable[FlowRecord] = (), **overrides: Any) -> CountersRecord:
        """Make a record that accounts for ``flows``, with some fields as given.

        ``flows`` are all flow records and announcements that one interface has
        published so far in one direction: ``if_index``, ``if_name`` and ``flow_direction`` are
        theirs. Records ``in_doubt`` and in the ``spool`` are others, of the
        stream flows, that are not published. The maps ``no_flow``, ``losses`` and
        ``in_doubt`` may be given in part; other known keys, and numbers of an amount that
        are left out, are 0. ``seen_packets``, ``seen_l2_bytes`` and ``stages`` follow, so the
        loss equation holds unless they are given. Raises TypeError for an unknown field,
        ValueError for a value that its field cannot have, and for ``flows`` of several
        interfaces or directions: they have a record each.
        """
        in_full = {name: _in_full(name, value) for name, value in overrides.items()}
        given = checked(CountersRecord, in_full)
        flows = list(flows)
        place, if_name = _place(flows)
        direction = given.get("flow_direction", place.flow_direction)
        given["no_flow"] = _whole(terms.NO_FLOW, given.get("no_flow", {}), Amount(0, 0))
        for name, known in (("losses", terms.LOSSES), ("in_doubt", terms.IN_DOUBT)):
            given[name] = _whole(known, given.get(name, {}), Loss(0, 0, 0))
        spool = given.setdefault("spool", EMPTY_SPOOL)
        unanswered = [*given["in_doubt"].values(), spool]
        counted = [*flows, *given["no_flow"].values(), *given["losses"].values(), *unanswered]
        elapsed_ns = (self._seq + 1) * _PERIOD_NS
        values: dict[str, Any] = {
            "record_type": RecordType.COUNTERS,
            "schema_version": SCHEMA_VERSION,
            "agent_epoch": FIRST_NS,
            "host_id": HOST_ID,
            "sampler_address": SAMPLER,
            "seq": self._seq,
            "host": self.host,
            "agent_version": __version__,
            "if_index": place.if_index,
            "if_name": if_name,
            "flow_direction": direction,
            "program_id": 7,
            **_PROGRAMS[direction],
            "time_unix_ns": FIRST_NS + elapsed_ns,
            "time_boot_ns": 3_600 * _PERIOD_NS + elapsed_ns,
            "interval_ns": 10 * _PERIOD_NS,
            "counters_period_ns": _PERIOD_NS,
            "seen_packets": sum(amount.packets for amount in counted),
            "seen_l2_bytes": sum(amount.l2_bytes for amount in counted),
            "stages": {
                "flows": _stages(
                    sum(flow.record_type == RecordType.FLOW for flow in flows),
                    sum(each.records for each in unanswered),
                    spool.records,
                ),
                "new_flows": _stages(
                    sum(flow.record_type == RecordType.NEW_FLOW for flow in flows)
                ),
            },
            "table_entries": 0,
            "table_capacity": 131_072,
            "table_swaps": 0,
            "final": False,
        }
        self._seq += 1
        return CountersRecord(**(values | given))

    def values(
        self,
        records: Iterable[CountersRecord],
        record_format: str = "json",
        *,
        names: str = "goflow2",
    ) -> list[bytes]:
        """Encode as the agent does, with the same code; see ``FlowFactory.values``."""
        encoder = encoding.encoder(record_format, self.host, names)
        return [encoder.encode_counters(record) for record in records]

    def messages(
        self,
        records: Iterable[CountersRecord],
        record_format: str = "json",
        *,
        topic: str = "flowstream.counters",
        partition_count: int = 6,
    ) -> list[Message]:
        """Messages with keys and partitions as the agent chooses them."""
        records = list(records)
        values = self.values(records, record_format)
        return encoding.counters_messages(values, records, topic, partition_count)


def _place(flows: list[FlowRecord]) -> tuple[AttachmentKey, str]:
    """Interface and direction of ``flows``, and the interface's name."""
    places = {(AttachmentKey(each.if_index, each.flow_direction), each.if_name) for each in flows}
    if len(places) > 1:
        names = ", ".join(f"{if_name} {key.direction}" for key, if_name in sorted(places))
        raise ValueError(f"flows: of {names}; an interface and direction has its own counters")
    return places.pop() if places else (AttachmentKey(2), "eth0")


def _in_full(name: str, value: Any) -> Any:
    """Return a map of amounts, or the spool, with 0 for the numbers that are left out."""
    if name == "spool":
        return _amount(name, SpoolCounts, value)
    if name not in _AMOUNTS or not isinstance(value, dict):
        return value
    return {key: _amount(f"{name}: {key}", _AMOUNTS[name], part) for key, part in value.items()}


def _amount(name: str, kind: type[Struct], part: Any) -> Any:
    numbers = dict.fromkeys(kind.__struct_fields__, 0)
    if isinstance(part, kind):
        return part
    if not isinstance(part, dict) or part.keys() - numbers:
        raise ValueError(f"{name}: {part!r} is not an amount of {', '.join(numbers)}")
    return numbers | part


def _whole(known: Iterable[str], given: Mapping[str, Any], none: Any) -> dict[str, Any]:
    """Return the amounts with every known key."""
    return {**dict.fromkeys(known, none), **given}


def _stages(published: int, unanswered: int = 0, spooled: int = 0) -> StageCounts:
    made = published + unanswered
    return StageCounts(
        drained=made,
        encoded=made,
        queued=made,
        acknowledged=published,
        spooled=spooled,
        failed=0,
        aggregated=0,
    )
