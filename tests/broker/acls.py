"""Access rules of a broker: who may do what with a topic."""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Final

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
    from collections.abc import Iterable, Iterator

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
    _add(broker, (_rule(user, topic, pattern, each, AclPermissionType.ALLOW) for each in rights))


def deny(broker: Broker, user: str, topic: str, *rights: str) -> None:
    """Forbid a user to do this, whatever else allows it."""
    _add(broker, _denials(user, topic, rights))


@contextmanager
def denied(broker: Broker, user: str, topic: str, *rights: str) -> Iterator[None]:
    """Forbid a user to do this as long as the block lasts."""
    deny(broker, user, topic, *rights)
    try:
        yield
    finally:
        _remove(broker, _denials(user, topic, rights))


def forget(broker: Broker, user: str) -> None:
    """Remove all rules of topics for a user."""
    any_name = any_host = None
    rules = (
        *(ResourceType.TOPIC, any_name, ResourcePatternType.ANY, f"User:{user}"),
        *(any_host, AclOperation.ANY, AclPermissionType.ANY),
    )
    _remove(broker, [rules])


_Rule = tuple[Any, ...]
"""Arguments of AclBinding and AclBindingFilter."""


def _rule(
    user: str, topic: str, pattern: ResourcePatternType, right: str, permission: AclPermissionType
) -> _Rule:
    who = f"User:{user}"
    return ResourceType.TOPIC, topic, pattern, who, "*", AclOperation[right], permission


def _denials(user: str, topic: str, rights: Iterable[str]) -> list[_Rule]:
    literal, deny = ResourcePatternType.LITERAL, AclPermissionType.DENY
    return [_rule(user, topic, literal, right, deny) for right in rights]


def _add(broker: Broker, rules: Iterable[_Rule]) -> None:
    admin = AdminClient({"bootstrap.servers": broker.address})
    bindings = [AclBinding(*each) for each in rules]
    for done in admin.create_acls(bindings, request_timeout=30).values():
        done.result()


def _remove(broker: Broker, rules: Iterable[_Rule]) -> None:
    admin = AdminClient({"bootstrap.servers": broker.address})
    filters = [AclBindingFilter(*each) for each in rules]
    for done in admin.delete_acls(filters, request_timeout=30).values():
        done.result()
