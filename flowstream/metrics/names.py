"""The metrics: their only list, with type, unit, labels and meaning of each.

Names, units and labels never change: dashboards and alerts depend on them. docs/reference/
metrics.md is generated from this list.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, Literal, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Mapping

Kind = Literal["counter", "gauge", "histogram", "info"]


class Metric(NamedTuple):
    """A metric; ``name`` is that of its samples in Prometheus' text format.

    Of a histogram it is what comes before ``_bucket``, ``_sum`` and ``_count``.
    """

    name: str
    kind: Kind
    help: str
    labels: tuple[str, ...] = ()
    unit: str = ""

    @property
    def family(self) -> str:
        """Name of the family in OpenMetrics."""
        suffix = {"counter": "_total", "info": "_info"}.get(self.kind, "")
        return self.name.removesuffix(suffix)


ATTACHMENT: Final = ("interface", "direction", "netns")
"""Labels of what is counted per attachment: see docs/reference/metrics.md."""
_REASON: Final = (*ATTACHMENT, "reason")
_CAUSE: Final = (*ATTACHMENT, "cause")
_STREAM: Final = (*ATTACHMENT, "stream")
_ATTACHMENT_INFO: Final = (*ATTACHMENT, "if_index", "hook", "mode", "program_id")


def _counted(name: str, what: str, labels: tuple[str, ...], *units: str) -> tuple[Metric, ...]:
    """Return a counter in each of ``units``."""
    words = {"bytes": "frame octets"}
    return tuple(
        Metric(
            f"flowstream_{name}_{unit}_total",
            "counter",
            what.format(words.get(unit, unit)),
            labels,
            unit,
        )
        for unit in units
    )


_ALL: Final = (
    Metric("flowstream_build_info", "info", "Version of flowstream.", ("version",)),
    Metric(
        "flowstream_run_info",
        "info",
        "The run, as its records name it, and where it publishes.",
        ("host_id", "agent_epoch", "sink", "format"),
    ),
    Metric(
        "flowstream_attachment_info",
        "info",
        "Each attachment: index of the interface, hook, attach mode, number of the program.",
        _ATTACHMENT_INFO,
    ),
    *_counted("seen", "All {} that the program has seen.", ATTACHMENT, "packets", "bytes"),
    *_counted(
        "no_flow", "Seen {} that are in no flow record, by reason.", _REASON, "packets", "bytes"
    ),
    *_counted(
        "encoded",
        "All {} that got a sequence number, by stream: flows or new_flows.",
        _STREAM,
        "records",
    ),
    *_counted(
        "published",
        "All {} that the sink has acknowledged, by stream: flows or new_flows.",
        _STREAM,
        "records",
    ),
    *_counted(
        "published",
        "Seen {} in flow records that the sink has acknowledged.",
        ATTACHMENT,
        "packets",
        "bytes",
    ),
    *_counted("lost", "Lost {}, by cause.", _CAUSE, "records", "packets", "bytes"),
    *_counted(
        "in_doubt",
        "Sent {} without an answer, which may be published or lost, by cause.",
        _CAUSE,
        "records",
        "packets",
        "bytes",
    ),
    Metric(
        "flowstream_waiting_packets",
        "gauge",
        "Seen packets with no outcome so far: in the flow table, on their way, or spooled.",
        ATTACHMENT,
        "packets",
    ),
    Metric(
        "flowstream_waiting_bytes",
        "gauge",
        "Seen frame octets with no outcome so far.",
        ATTACHMENT,
        "bytes",
    ),
    Metric(
        "flowstream_spooled_records",
        "gauge",
        "Records of this run that wait in the spool.",
        ATTACHMENT,
        "records",
    ),
    Metric(
        "flowstream_spooled_packets",
        "gauge",
        "Seen packets in flow records that wait in the spool; they are among the waiting.",
        ATTACHMENT,
        "packets",
    ),
    Metric(
        "flowstream_spooled_bytes",
        "gauge",
        "Seen frame octets in flow records that wait in the spool; they are among the waiting.",
        ATTACHMENT,
        "bytes",
    ),
    Metric(
        "flowstream_spool_bytes",
        "gauge",
        "Size of the whole spool on disk, with what earlier runs left; absent without --spool.",
        unit="bytes",
    ),
    Metric(
        "flowstream_spool_limit_bytes",
        "gauge",
        "Limit of the spool's size, --spool-size; +Inf for unlimited; absent without --spool.",
        unit="bytes",
    ),
    Metric(
        "flowstream_spool_oldest_timestamp_seconds",
        "gauge",
        "Unix time of the oldest record in the spool; absent while it is empty.",
        unit="seconds",
    ),
    Metric(
        "flowstream_flow_table_entries",
        "gauge",
        "Flows in the active table; approximate while packets arrive.",
        unit="entries",
    ),
    Metric(
        "flowstream_flow_table_capacity_entries",
        "gauge",
        "Capacity of a flow table, --max-flows.",
        unit="entries",
    ),
    Metric(
        "flowstream_flow_table_swaps_total",
        "counter",
        "Swaps of the two flow tables, each followed by a drain.",
    ),
    Metric(
        "flowstream_ring_buffer_pending_bytes",
        "gauge",
        "Octets that wait in a ring buffer, of overflow or announcements.",
        ("ring",),
        "bytes",
    ),
    Metric(
        "flowstream_ring_buffer_size_bytes", "gauge", "Size of a ring buffer.", ("ring",), "bytes"
    ),
    Metric(
        "flowstream_queue_batches",
        "gauge",
        "Batches of records in the queue before the encoder.",
        unit="batches",
    ),
    Metric(
        "flowstream_queue_capacity_batches",
        "gauge",
        "Capacity of the queue before the encoder.",
        unit="batches",
    ),
    Metric(
        "flowstream_publish_latency_seconds",
        "histogram",
        "Time from the last packet of a record to its acknowledgement, of records that were not "
        "spooled, by stream: flows or new_flows.",
        ("stream",),
        "seconds",
    ),
    Metric(
        "flowstream_drain_duration_seconds",
        "histogram",
        "Time to swap the flow tables and move the former one into the queue.",
        unit="seconds",
    ),
    Metric(
        "flowstream_encode_duration_seconds",
        "histogram",
        "Time to stamp, encode and partition up to 4,096 records.",
        unit="seconds",
    ),
    Metric(
        "flowstream_sink_up",
        "gauge",
        "1 while records are published as they come; 0 while they are spooled, wait in memory "
        "or cannot be published.",
        ("sink",),
    ),
    Metric(
        "flowstream_interfaces",
        "gauge",
        "Present interfaces that the options choose, attached or not.",
    ),
    Metric(
        "flowstream_attach_failures_total",
        "counter",
        "Failed attempts to attach to an interface.",
    ),
    Metric(
        "flowstream_config_reloads_total",
        "counter",
        "Reloads of the configuration by SIGHUP, by result: success or failure.",
        ("result",),
    ),
    Metric(
        "flowstream_config_last_reload_successful",
        "gauge",
        "1 if the last reading of the configuration succeeded, 0 if it failed.",
    ),
    Metric(
        "flowstream_config_last_reload_success_timestamp_seconds",
        "gauge",
        "Unix time of the last successful reading of the configuration.",
        unit="seconds",
    ),
)

METRICS: Final[Mapping[str, Metric]] = {each.name: each for each in _ALL}
"""Every metric of flowstream's own, by name, in the order of a scrape."""
