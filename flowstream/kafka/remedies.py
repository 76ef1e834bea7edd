"""What a user can do about records that brokers refuse for good, by cause."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from flowstream.accounting import terms

if TYPE_CHECKING:
    from collections.abc import Mapping

REMEDIES: Final[Mapping[str, str]] = {
    terms.INVALID_TIMESTAMP: "set the clocks of this host and of the brokers, or raise the "
    "topics' message.timestamp.after.max.ms and message.timestamp.before.max.ms",
    terms.MESSAGE_TOO_LARGE: "raise the topics' max.message.bytes",
    terms.INVALID_RECORD: "see the brokers' logs and the topics' settings, such as cleanup.policy",
    terms.NOT_AUTHORISED: "give this client the right to write the topics, and to create them "
    "where they are missing",
    terms.POLICY_VIOLATION: "adapt the cluster's policy, or compression.type and the topics",
    terms.UNKNOWN_TOPIC: "create the topic by hand",
    terms.UNSUPPORTED_FORMAT: "set compression.type to one that the brokers support, or update "
    "the brokers",
}
