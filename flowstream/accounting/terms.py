"""The terms of the loss equation: their only list, with the meaning of each.

Per run, interface and direction, at any quiet moment::

    seen_packets = sum(no_flow) + sum(packets of published flow records) + sum(losses)

and the same for octets. Records ``in_doubt``, and those that wait in the spool, may be
on either side: published, or missing from the topic.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Mapping

NO_FLOW: Final[Mapping[str, str]] = {
    "non_ip": "neither IPv4 nor IPv6; with --program counter: not IPv4",
    "malformed": "cut, or with an impossible header",
    "sampled_out": "passed over by sampling",
    "counted": "counted by the counter program, which makes no flow records",
    "filtered_out": "rejected by --filter",
}
"""Reasons for a packet to be in no flow record (enum no_flow_reason of bpf/parsing.h)."""

OVERFLOW_LOST: Final = "overflow_lost"
ANNOUNCEMENT_LOST: Final = "announcement_lost"
SOURCE_TABLE_FULL: Final = "source_table_full"
ANNOUNCEMENT_LIMITED: Final = "announcement_limited"
DELIVERY_TIMEOUT: Final = "delivery_timeout"
MESSAGE_TOO_LARGE: Final = "message_too_large"
INVALID_TIMESTAMP: Final = "invalid_timestamp"
INVALID_RECORD: Final = "invalid_record"
NOT_AUTHORISED: Final = "not_authorised"
POLICY_VIOLATION: Final = "policy_violation"
UNSUPPORTED_FORMAT: Final = "unsupported_format"
UNKNOWN_TOPIC: Final = "unknown_topic"
SPOOL_FULL: Final = "spool_full"
SPOOL_EXPIRED: Final = "spool_expired"
SPOOL_DAMAGED: Final = "spool_damaged"
IO_ERROR: Final = "io_error"
PIPE_CLOSED: Final = "pipe_closed"
SHUTDOWN: Final = "shutdown"
INTERNAL_ERROR: Final = "internal_error"
AGENT_KILLED: Final = "agent_killed"

LOSSES: Final[Mapping[str, str]] = {
    OVERFLOW_LOST: "packets that found the flow table and its ring buffer full",
    ANNOUNCEMENT_LOST: "announcements that found their ring buffer full; no packets",
    SOURCE_TABLE_FULL: "packets whose source found the table of sources full; their "
    "packets are in no_flow.counted",
    ANNOUNCEMENT_LIMITED: "announcements beyond --max-records; no packets",
    DELIVERY_TIMEOUT: "records that the sink could not store in time",
    MESSAGE_TOO_LARGE: "single records larger than the broker accepts",
    INVALID_TIMESTAMP: "records whose time the broker refuses: its clock and this host's differ",
    INVALID_RECORD: "single records that the broker finds invalid, by the topic's settings",
    NOT_AUTHORISED: "records that the broker does not permit this agent to write",
    POLICY_VIOLATION: "records that a policy of the cluster refuses",
    UNSUPPORTED_FORMAT: "records in a format or compression that the broker does not support",
    UNKNOWN_TOPIC: "records of a topic that is missing and cannot be created",
    SPOOL_FULL: "oldest records of the spool, given up to make room for later ones",
    SPOOL_EXPIRED: "records of the spool that grew older than its limit of age",
    SPOOL_DAMAGED: "records of the spool that could not be read back",
    IO_ERROR: "records that could not be written: a recording's disk, standard output",
    PIPE_CLOSED: "records for standard output after its reader went away",
    SHUTDOWN: "records not published within the time of the run's end",
    INTERNAL_ERROR: "records after a fault in the agent itself, which also ends the run",
}
"""Causes of loss. The first three are counted by the kernel."""

IN_DOUBT: Final[Mapping[str, str]] = {
    DELIVERY_TIMEOUT: "records sent to the broker and not answered in time",
    MESSAGE_TOO_LARGE: "single records that were sent once without an answer and later refused",
    INVALID_TIMESTAMP: "records that were sent once without an answer and later refused",
    INVALID_RECORD: "single records that were sent once without an answer and later refused",
    NOT_AUTHORISED: "records that were sent once without an answer and later refused",
    POLICY_VIOLATION: "records that were sent once without an answer and later refused",
    UNSUPPORTED_FORMAT: "records that were sent once without an answer and later refused",
    UNKNOWN_TOPIC: "records that were sent once without an answer, before their topic was deleted",
    SPOOL_FULL: "records that were sent once without an answer, spooled and given up for room",
    SPOOL_EXPIRED: "records that were sent once without an answer, spooled and too old since",
    SPOOL_DAMAGED: "records that were sent once without an answer, spooled and damaged there",
    SHUTDOWN: "records sent, or being written, when the time of the run's end was over",
    AGENT_KILLED: "what the agent had in its memory when it was killed, with --pin: at least "
    "the records that had a seq, and all packets that it had taken out of the kernel",
}
"""Causes for which a record that was sent has no answer: it may or may not be published.

A record that is sent again, from memory or from the spool, is not in doubt meanwhile: it
waits.
"""
