"""The package's configuration file, from the options and properties themselves.

    python -m tools.configuration    # prints it

Every option is there as a comment with its default, or with an example where it has none; what
the package itself chooses is in force.
"""

from __future__ import annotations

import json
import textwrap
from typing import TYPE_CHECKING, Any, Final

from flowstream.config.agent import AgentConfig
from flowstream.config.options import options_of
from flowstream.config.publish import PublishConfig
from flowstream.config.run import RunConfig
from flowstream.config.spool import SpoolConfig
from flowstream.kafka.properties import PROPERTIES

if TYPE_CHECKING:
    from collections.abc import Iterator

_WIDTH: Final = 99
_HEAD: Final = """\
Configuration of flowstream.service. Options are explained in flowstream-run(1), properties of
Kafka clients in the documents. Lines that begin with # and a name show defaults, or examples
where there is no default.

  flowstream check --config /etc/flowstream/flowstream.toml    what would not work
  systemctl reload flowstream                                  most options take effect at once
  systemctl restart flowstream                                 all do, without missing a packet

Another agent with a configuration of its own: /etc/flowstream/NAME.toml, with
pin = "/sys/fs/bpf/flowstream-NAME", and systemctl enable --now flowstream@NAME."""
_GROUPS: Final = {
    "What is observed": RunConfig,
    "What is published, and where": PublishConfig,
    "The spool: records that the Kafka cluster does not take wait on disk": SpoolConfig,
    "The agent": AgentConfig,
}
CHOSEN: Final[dict[str, Any]] = {"pin": "/sys/fs/bpf/flowstream"}
"""Options that the package sets: a restart, as for an upgrade, misses no packet."""
EXAMPLES: Final[dict[str, Any]] = {
    "interface": ["eth0", "ens*", "!ens7"],
    "interface-kind": ["physical", "veth"],
    "netns": ["blue", "/run/netns/red", "pid:4711"],
    "sink": "kafka://kafka1.example:9092,kafka2.example:9092",
    "registry": "https://registry.example:8081",
    "filter": "net 10.0.0.0/8 and not port 22",
    "user": "flowstream",
    "spool": "/var/lib/flowstream/spool",
    "spool-rate": 50_000,
    "agent-address": "192.0.2.1",
    "metrics": "127.0.0.1:9435",
    "duration": 3600,
}
"""Values of options that have no default, and of the one whose default suits few."""
PROPERTY_EXAMPLES: Final[dict[str, str | int]] = {
    "security.protocol": "SASL_SSL",
    "ssl.ca.location": "/etc/flowstream/ca.pem",
    "ssl.certificate.location": "/etc/flowstream/client.pem",
    "ssl.key.location": "/etc/flowstream/client.key",
    "ssl.key.password": "file:/etc/flowstream/key-password",
    "ssl.endpoint.identification.algorithm": "https",
    "sasl.mechanism": "SCRAM-SHA-256",
    "sasl.username": "agent",
    "sasl.password": "file:${CREDENTIALS_DIRECTORY}/kafka-password",
    "sasl.oauthbearer.token.endpoint.url": "https://login.example/token",
    "sasl.oauthbearer.client.id": "agent",
    "sasl.oauthbearer.client.secret": "file:/etc/flowstream/client-secret",
    "sasl.oauthbearer.scope": "kafka",
    "sasl.oauthbearer.extensions": "logicalCluster=lkc-1",
    "https.ca.location": "/etc/flowstream/ca.pem",
    "client.id": "flowstream",
    "client.rack": "rack-a",
    "compression.type": "zstd",
    "batch.size": 524_288,
    "request.timeout.ms": 10_000,
    "delivery.timeout.ms": 30_000,
    "metadata.max.age.ms": 60_000,
}


def text() -> str:
    """Return the content of the file."""
    options = options_of(RunConfig)
    lines = [*_comment(_HEAD)]
    shown: set[str] = set()
    for title, kind in _GROUPS.items():
        lines += ["", f"## {title}"]
        for field in _own_fields(kind):
            option = options[field]
            shown.add(field)
            value = CHOSEN.get(option.name, EXAMPLES.get(option.name, option.default))
            if value is None or value == ():
                raise ValueError(f"{option.name} has no default: add an example of it")
            default = f"; default {option.default}" if option.name == "sink" else ""
            lines += ["", *_comment(_sentence(option.meaning + default))]
            mark = "" if option.name in CHOSEN else "#"
            lines.append(f"{mark}{option.name} = {_toml(value)}")
    lines += ["", "## Kafka clients", "#[kafka]"]
    for name, each in PROPERTIES.items():
        lines += ["", *_comment(_sentence(f"{each.meaning}; {each.allowed}"))]
        lines.append(f"#{name} = {_toml(PROPERTY_EXAMPLES[name])}")
    missing = options.keys() - shown
    if missing:
        raise ValueError(f"options of no group: {', '.join(sorted(missing))}")
    return "\n".join(lines) + "\n"


def _own_fields(kind: type[Any]) -> list[str]:
    """Return the fields of the options that a Struct adds to those it inherits."""
    inherited = {
        field for base in kind.__bases__ if base in _GROUPS.values() for field in options_of(base)
    }
    return [field for field in options_of(kind) if field not in inherited]


def _comment(paragraphs: str) -> Iterator[str]:
    for line in paragraphs.splitlines():
        yield from textwrap.wrap(
            line,
            _WIDTH,
            initial_indent="# ",
            subsequent_indent="# ",
            break_on_hyphens=False,
            drop_whitespace=not line.startswith(" "),
        ) or ["#"]


def _sentence(meaning: str) -> str:
    return f"{meaning[0].upper()}{meaning[1:]}."


def _toml(value: Any) -> str:
    """Write a value as TOML; of text and lists of text JSON's form is one."""
    return json.dumps(value)


if __name__ == "__main__":
    print(text(), end="")
