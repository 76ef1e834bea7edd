"""Access rules of a broker: who may do what with a topic."""

from __future__ import annotations

from typing import TYPE_CHECKING

from aiokafka.admin import AIOKafkaAdminClient
from aiokafka.protocol.api import Request, RequestStruct, Response
from aiokafka.protocol.types import Array, Int8, Int16, Int32, Schema, String

if TYPE_CHECKING:
    from broker import Broker

# Kafka's numbers of the operations in an access rule (AclOperation.java).
ALL, WRITE, CREATE = 2, 4, 5
# Of the kinds of rules (AclPermissionType.java).
DENY, ALLOW = 2, 3
AUTHORIZING = {
    "authorizer.class.name": "org.apache.kafka.metadata.authorizer.StandardAuthorizer",
    "allow.everyone.if.no.acl.found": "true",
}


class CreateAclsResponse(Response):  # type: ignore[misc]
    API_KEY, API_VERSION = 30, 1
    SCHEMA = Schema(
        ("throttle_time_ms", Int32),
        ("results", Array(("error_code", Int16), ("error_message", String("utf-8")))),
    )


class CreateAclsRequestV1(RequestStruct):  # type: ignore[misc]
    API_KEY, API_VERSION, RESPONSE_TYPE = 30, 1, CreateAclsResponse
    SCHEMA = Schema(
        (
            "creations",
            Array(
                ("resource_type", Int8),
                ("resource_name", String("utf-8")),
                ("pattern_type", Int8),
                ("principal", String("utf-8")),
                ("host", String("utf-8")),
                ("operation", Int8),
                ("permission_type", Int8),
            ),
        ),
    )


class CreateAclsRequest(Request[CreateAclsRequestV1]):  # type: ignore[misc]
    API_KEY = 30

    def __init__(self, *creations: tuple[object, ...]) -> None:
        self._creations = list(creations)

    def build(self, request_struct_class: type[CreateAclsRequestV1]) -> CreateAclsRequestV1:
        return request_struct_class(self._creations)


async def add_rules(broker: Broker, topic: str, *rules: tuple[int, int]) -> None:
    """Add rules of (permission, operation) on this topic, for everybody."""
    admin = AIOKafkaAdminClient(bootstrap_servers=broker.address)
    await admin.start()
    try:
        # Resource type 2: topic; pattern 3: literal.
        creations = [
            (2, topic, 3, "User:ANONYMOUS", "*", operation, permission)
            for permission, operation in rules
        ]
        answer = await admin._send_request(CreateAclsRequest(*creations))
        assert [code for code, _ in answer.results] == [0] * len(rules)
    finally:
        await admin.close()
