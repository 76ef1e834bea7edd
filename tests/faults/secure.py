"""Wrong settings of a client, and rights that it lacks: records wait until that is mended."""

from __future__ import annotations

from contextlib import contextmanager
from functools import partial
from typing import TYPE_CHECKING, Any

from broker.acls import denied
from broker.secure import AGENT
from support import kafka_config

from faults.scene import SPOOLING, Fault

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from faults.scene import Scene

USER = ("--user", "root")


def _start(scene: Scene, listener: str, properties: Mapping[str, str], host: str) -> None:
    config = scene.directory / "kafka.toml"
    config.unlink(missing_ok=True)
    kafka_config.write(config, properties)
    url = scene.cluster.url_of(listener, host)
    scene.start("--kafka-config", str(config), sink=url)


@contextmanager
def misconfigured(
    scene: Scene, listener: str, settings_of: str = "", host: str = "127.0.0.1", **wrong: str
) -> Iterator[None]:
    """A run whose settings do not fit the listener; then one with the right settings.

    ``settings_of`` is the listener that they would fit; names in ``wrong`` have _ for dots.
    """
    properties = scene.cluster.settings(settings_of or listener)
    changes = {name.replace("_", "."): value for name, value in wrong.items()}
    foreign = str(scene.cluster.other_authority.certificate)
    changes = {name: value.replace("OTHER", foreign) for name, value in changes.items()}
    _start(scene, listener, properties | changes, host)
    yield
    scene.wait("kafka_unreachable")
    scene.wait(SPOOLING)
    scene.stop()
    _start(scene, "SASL", scene.cluster.settings("SASL"), "127.0.0.1")


@contextmanager
def right_revoked(scene: Scene) -> Iterator[None]:
    """The user may not write the topic of flows for a while."""
    _start(scene, "SASL", scene.cluster.settings("SASL"), "127.0.0.1")
    scene.traffic()
    with denied(scene.cluster, AGENT, scene.flows, "WRITE"):
        yield
        scene.wait(SPOOLING)


def _wrong(name: str, says: str, listener: str, *, in_ci: bool = False, **changes: Any) -> Fault:
    return Fault(
        name, "secure", partial(misconfigured, listener=listener, **changes),
        says=(f"kafka_unreachable.*{says}",), options=USER, at_start=True, in_ci=in_ci,
    )  # fmt: skip


FAULTS = [
    _wrong("wrong password", "or the password", "SASL", sasl_password="wrong", in_ci=True),
    _wrong("untrusted authority", "not trusted here", "SASL", ssl_ca_location="OTHER"),
    _wrong("certificate expired", "has expired", "EXPIRED"),
    _wrong("certificate for another host", "certificate for broker.example", "FOREIGN"),
    _wrong("client's certificate required", "requires a certificate", "MTLS", settings_of="TLS"),
    _wrong("plaintext to a TLS port", "requires TLS", "TLS", settings_of="PLAINTEXT"),
    _wrong("TLS to a plaintext port", "has no TLS", "PLAINTEXT", settings_of="TLS"),
    _wrong("no login", "requires SASL", "SASL", settings_of="TLS"),
    Fault(
        "right to write revoked", "secure", right_revoked,
        says=("not_authorised|not permitted|authoris", "spool_drained"), options=USER,
        at_start=True,
    ),
]  # fmt: skip
