"""Access rules of a broker: who may do what with a topic."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from confluent_kafka.admin import (
    AclBinding,
    AclBindingFilter,
    AclOperation,
    AclPermissionType,
    AdminClient,
    ResourcePatternType,
    ResourceType,
)

if TYPE_CHECKING:
    from broker import Broker

AUTHORIZING: Final = {
    "authorizer.class.name": "org.apache.kafka.metadata.authorizer.StandardAuthorizer",
    "allow.everyone.if.no.acl.found": "true",
}
"""Settings of a broker that permits everything but what rules deny."""
ANYBODY: Final = "ANONYMOUS"
"""User of everyone who has not logged in."""


def allow(broker: Broker, user: str, topic: str, *rights: str, prefixed: bool = False) -> None:
    """Let a user do this; ``topic`` is a name, ``prefixed`` a prefix, ``*`` every topic."""
    pattern = ResourcePatternType.PREFIXED if prefixed else ResourcePatternType.LITERAL
    _add(broker, user, topic, rights, pattern, AclPermissionType.ALLOW)


def deny(broker: Broker, user: str, topic: str, *rights: str) -> None:
    """Forbid a user to do this, whatever else allows it."""
    _add(broker, user, topic, rights, ResourcePatternType.LITERAL, AclPermissionType.DENY)


def forget(broker: Broker, user: str) -> None:
    """Remove all rules of topics for a user."""
    admin = AdminClient({"bootstrap.servers": broker.address})
    rules = AclBindingFilter(
        ResourceType.TOPIC,
        None,  # type: ignore[arg-type]  # any topic
        ResourcePatternType.ANY,
        f"User:{user}",
        None,  # type: ignore[arg-type]  # any host
        AclOperation.ANY,
        AclPermissionType.ANY,
    )
    for done in admin.delete_acls([rules], request_timeout=30).values():
        done.result()


def _add(
    broker: Broker,
    user: str,
    topic: str,
    rights: tuple[str, ...],
    pattern: ResourcePatternType,
    permission: AclPermissionType,
) -> None:
    admin = AdminClient({"bootstrap.servers": broker.address})
    bindings = [
        AclBinding(
            ResourceType.TOPIC,
            topic,
            pattern,
            f"User:{user}",
            "*",
            AclOperation[right],
            permission,
        )
        for right in rights
    ]
    for done in admin.create_acls(bindings, request_timeout=30).values():
        done.result()
