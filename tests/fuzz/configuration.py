"""Configuration files: a checked configuration, or one line that names the mistake."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import msgspec

from flowstream.config.run import OPTIONS, RunConfig, load
from flowstream.config.source import RELOADABLE, ConfigSource
from flowstream.errors import UsageError
from flowstream.kafka.settings import DEFAULT_CLIENT
from fuzz.files import scratch

if TYPE_CHECKING:
    from collections.abc import Sequence

_FILE = scratch() / "flowstream.toml"
_FILE.write_text('interface = ["eth1"]\nsink = "kafka://10.0.0.9:9092"\n', encoding="utf-8")
_SOURCE = ConfigSource({}, _FILE)


def seeds() -> Sequence[bytes]:
    """Return a file with every option, and small ones of every syntax."""
    lines = ['interface = ["eth0"]']
    for option in OPTIONS.values():
        value = option.default
        if value not in (None, ()):
            lines.append(f"{option.name} = {_toml(value)}")
    lines += ['netns = ["blue", "/run/netns/a", "pid:7"]', 'interface-kind = ["physical", "veth"]']
    lines += ['agent-address = "2001:db8::1"', "duration = 60"]
    return [
        "\n".join(lines).encode(),
        (
            b'interface = ["eth0"]\nsink = "kafka://10.0.0.1:9092"\nformat = "avro"\n'
            b'registry = "http://10.0.0.2:8081"\n'
        ),
        b"# comment\n[table]\nkey = 1979-05-27T07:32:00Z\n[[array]]\na.b.c = {d = 0x1f}\n",
        b'interface = ["""eth\\\n  0"""]\nmax-flows = 1_024\ninterval = 1e1\n',
        b"a = " + b"[" * 20_000 + b"]" * 20_000,
        (
            b'interface = ["eth0"]\nsink = "kafka://10.0.0.1:9092"\n[kafka]\n'
            b'security.protocol = "SASL_SSL"\n"ssl.ca.location" = "ca"\nclient.rack = "${HOME}"\n'
            b'sasl.mechanism = "PLAIN"\nsasl.username = "u"\nsasl.password = "p"\n'
            b"batch.size = 65536\ndelivery.timeout.ms = 60000\n"
        ),
        (
            b'[kafka]\nsecurity.protocol = "SASL_PLAINTEXT"\nsasl.mechanism = "OAUTHBEARER"\n'
            b'sasl.oauthbearer.token.endpoint.url = "https://h:1/?a"\n'
            b'sasl.oauthbearer.client.id = "c"\nsasl.oauthbearer.client.secret = "file:/"\n'
            b'sasl.oauthbearer.extensions = "a=b,c=d"\nhttps.ca.location = "x"\n'
        ),
        b"interval = inf\nduration = nan\nsampling = -0b1\n",
    ]


def _toml(value: Any) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    return f'"{value}"' if isinstance(value, str) else str(value)


def target(data: bytes) -> None:
    """Load a file; a valid one says the same on the command line, and is reloaded."""
    _FILE.write_bytes(data)
    config = _load({})
    _reload(config)
    _load({"interfaces": ["eth0"]})
    if config is not None:
        # Limits at their defaults are refused where there is nothing to limit.
        given = {field: getattr(config, field) for field in OPTIONS}
        texts = {
            field: _text(value)
            for field, value in given.items()
            if value != OPTIONS[field].default
        }
        assert load(texts) == msgspec.structs.replace(config, kafka=DEFAULT_CLIENT)


def _reload(config: RunConfig | None) -> None:
    """A run takes over what may change of what a start would use, and nothing of a mistake."""
    before = _SOURCE.config
    try:
        reload = _SOURCE.reload(before)
    except UsageError as err:
        assert "\n" not in str(err), str(err)
        # A start may use a file without any option.
        assert config is None or "has no option" in str(err)
        return
    for field in OPTIONS:
        expected = config if field in RELOADABLE else before
        assert getattr(reload.config, field) == getattr(expected, field)
    assert reload.config.kafka is before.kafka


def _load(given: dict[str, object]) -> RunConfig | None:
    try:
        return ConfigSource(given, _FILE).config
    except UsageError as err:
        assert "\n" not in str(err), str(err)
        return None


def _text(value: Any) -> Any:
    if isinstance(value, tuple):
        return list(value)
    if value is None or isinstance(value, str):
        return value
    return _toml(value)
