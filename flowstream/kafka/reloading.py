"""Secrets as their files have them now."""

from __future__ import annotations

from typing import TYPE_CHECKING

import structlog

from flowstream.files import shown

if TYPE_CHECKING:
    from flowstream.kafka.secrets import Secret

log = structlog.get_logger(__name__)


def revealed(secret: Secret) -> str:
    """Return the secret as its file has it now or, if that cannot be used, as it had it."""
    before = secret.fault
    if secret.refresh() and secret.file is not None:
        log.info("kafka_credentials_reloaded", files=[shown(secret.file)])
    elif secret.fault != before:
        log.warning("kafka_credentials_not_reloaded", error=secret.fault)
    return secret.reveal()
