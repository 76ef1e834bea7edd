"""A configuration that is read again: what changes, what cannot, and what is refused."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import pytest

from flowstream.config.run import OPTIONS, load
from flowstream.config.source import RELOADABLE, ConfigSource
from flowstream.errors import UsageError

if TYPE_CHECKING:
    from pathlib import Path

START = 'interface = ["eth0"]\nsink = "kafka://10.0.0.1:9092"\ninterval = 7\n'


class Site:
    """A configuration file and the command line beside it."""

    def __init__(self, file: Path, **given: object) -> None:
        self.file, self.given = file, given
        self.write(START)
        self.source = ConfigSource(given, file)
        self.config = self.source.config

    def write(self, text: str) -> None:
        new = self.file.with_suffix(".new")
        new.write_text(text, encoding="utf-8")
        new.rename(self.file)

    def reload(self, text: str):
        self.write(text)
        reload = self.source.reload(self.config)
        self.config = reload.config
        return reload

    def refusal(self, text: str) -> str:
        self.write(text)
        with pytest.raises(UsageError) as caught:
            self.source.reload(self.config)
        assert "\n" not in str(caught.value)
        return str(caught.value)


@pytest.fixture
def site(tmp_path) -> Site:
    return Site(tmp_path / "flowstream.toml")


def test_the_first_configuration_is_that_of_a_command_line_with_the_same_options(site):
    given = {"interfaces": ["eth0"], "sink": "kafka://10.0.0.1:9092", "interval_s": "7"}
    assert site.source.config == load(given)


def test_nothing_has_changed(site):
    reload = site.reload(START + "# a comment\n")
    assert reload == (site.source.config, {}, ())


NEW = {
    "interfaces": ('interface = ["eth1", "!eth2"]', ("eth0",), ("eth1", "!eth2")),
    "interface_kinds": ('interface-kind = ["veth"]', (), ("veth",)),
    "sampling": ("sampling = 11", 1, 11),
    "interval_s": ("interval = 13", 7.0, 13.0),
    "max_records": ("max-records = 17", 100_000, 17),
    "counters_period_s": ("counters-period = 0.5", 1.0, 0.5),
    "log_level": ('log-level = "debug"', "info", "debug"),
    "shutdown_timeout_s": ("shutdown-timeout = 19", 10.0, 19.0),
}


@pytest.mark.parametrize("field", RELOADABLE)
def test_an_option_that_may_change(site, field):
    line, old, new = NEW[field]
    name = OPTIONS[field].name
    others = [each for each in START.splitlines() if not each.startswith(f"{name} =")]
    reload = site.reload("\n".join([*others, line]))
    assert (reload.changes, reload.needs_restart) == ({name: (old, new)}, ())
    assert getattr(reload.config, field) == new
    # It goes back the same way.
    reload = site.reload(START)
    assert (reload.changes, reload.config) == ({name: (new, old)}, site.source.config)


RESTART = {
    "program": 'program = "counter"',
    "mode": 'mode = "generic"',
    "direction": 'direction = "both"',
    "hook": 'hook = "tcx"',
    "netns": 'netns = ["blue"]',
    "format": 'format = "msgpack"',
    "max-flows": "max-flows = 1009",
    "topic-prefix": 'topic-prefix = "other"',
    "partitions": "partitions = 7",
    "user": 'user = "1001"',
    "log-format": 'log-format = "json"',
    "duration": "duration = 23",
    "spool": 'spool = "/srv/spool"',
}


@pytest.mark.parametrize("name", RESTART)
def test_an_option_that_cannot_change_is_named_and_what_can_is_applied(site, name):
    text = START.replace("interval = 7", "interval = 13") + RESTART[name]
    for changes in ({"interval": (7.0, 13.0)}, {}):
        reload = site.reload(text)
        # Again and again, as long as it differs from what is in force.
        assert (reload.changes, reload.needs_restart) == (changes, (name,))
    expected = load({"interfaces": ["eth0"], "interval_s": "13", "sink": "kafka://10.0.0.1:9092"})
    assert reload.config == expected
    assert site.reload(START).needs_restart == ()


def test_the_sink_and_a_secret_in_the_registrys_url_are_named_without_their_values(site):
    text = START.replace("10.0.0.1", "10.0.0.2")
    reload = site.reload(text + 'format = "avro"\nregistry = "http://u:s3cret@r:8081"')
    assert set(reload.needs_restart) == {"sink", "format", "registry"}
    assert "s3cret" not in repr(reload.changes)
    assert reload.config.sink == "kafka://10.0.0.1:9092"


def test_the_command_line_takes_precedence_as_at_the_start(tmp_path):
    site = Site(tmp_path / "flowstream.toml", interval_s="3", max_records=None)
    reload = site.reload(START.replace("interval = 7", "interval = 13\nmax-records = 5"))
    assert reload.changes == {"max-records": (100_000, 5)}
    assert reload.config.interval_s == 3.0


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (START + "sampling = 0", "sampling: 0 is not allowed; it takes a whole number from 1"),
        (START + 'interface-kind = ["veth", "Veth"]', "interface-kind: ['veth', 'Veth'] is not"),
        (START + 'mode = "fast"', "mode: 'fast' is not allowed; it takes auto"),
        (START + "samplin = 5", "unknown option 'samplin'; did you mean sampling?"),
        (START + "interval = 8", "not valid TOML: Cannot overwrite a value (at "),
        (START[:-8], "not valid TOML: "),
        (START + 'kafka.security.protocol = "TLS"', "kafka.security.protocol: the value is not"),
        (START + "[kafka]\nsasl.user = 1", "kafka: unsupported property 'sasl.user'"),
        (START + "#" * (1 << 20), "exceeds the 1 MiB limit of a configuration"),
    ],
)
def test_a_mistake_is_refused_with_all_that_stands_beside_it(site, text, expected):
    said = site.refusal("counters-period = 0.5\n" + text)
    assert said.startswith(f"{site.file}: {expected}")
    assert site.reload(START) == (site.source.config, {}, ())


@pytest.mark.parametrize("text", ["", "\n", "# more follows\n"])
def test_a_file_without_any_option_is_taken_for_one_that_is_being_written(site, text):
    says = f"{site.file}: has no option; replace it by a complete file"
    assert site.refusal(text) == says


def test_contradictions_are_refused(site):
    assert site.refusal(START.replace('["eth0"]', '["eth0", "!eth*"]')) == (
        "interface: eth0 is excluded by !eth*"
    )
    assert site.refusal(START.replace("kafka://10.0.0.1:9092", "stdout:") + "format = 'avro'") == (
        "format: avro is binary and the sink stdout: takes lines of text; use format json or "
        "another sink"
    )


def test_files_that_cannot_be_read(site, tmp_path):
    site.file.unlink()
    says = f"{site.file}: cannot be read: "
    with pytest.raises(UsageError, match=f"{says}No such file or directory"):
        site.source.reload(site.config)
    os.mkfifo(site.file)
    with pytest.raises(UsageError, match=f"{says}Is a named pipe, not a regular file"):
        site.source.reload(site.config)
    site.file.unlink()
    site.file.mkdir()
    with pytest.raises(UsageError, match=f"{says}Is a directory"):
        site.source.reload(site.config)


def test_links_are_followed_as_configuration_management_replaces_them(site, tmp_path):
    """As Kubernetes does for a ConfigMap: the file is a link through ..data, which is replaced."""
    site.file.unlink()
    site.file.symlink_to("..data/flowstream.toml")
    for number, interval in enumerate((11, 13)):
        (tmp_path / str(number)).mkdir()
        content = START.replace("interval = 7", f"interval = {interval}")
        (tmp_path / str(number) / "flowstream.toml").write_text(content, encoding="utf-8")
        (tmp_path / "new").symlink_to(str(number))
        (tmp_path / "new").rename(tmp_path / "..data")
        reload = site.source.reload(site.config)
        assert reload.config.interval_s == interval


PASSWORD = (
    '[kafka]\nsecurity.protocol = "SASL_PLAINTEXT"\nsasl.mechanism = "PLAIN"\n'
    'sasl.username = "agent"\nsasl.password = "file:{}"\n'
)


@pytest.fixture
def secret(tmp_path) -> Path:
    file = tmp_path / "password"
    file.write_text("s3cret", encoding="utf-8")
    return file


def test_files_of_secrets_are_not_read_again(tmp_path, secret):
    """After the start only root may be able to, as with systemd's credentials."""
    text = START + PASSWORD.format(secret)
    site = Site(tmp_path / "flowstream.toml")
    site.write(text)
    source = ConfigSource({}, site.file)
    secret.unlink()
    reload = source.reload(source.config)
    assert reload == (source.config, {}, ())
    assert reload.config.kafka.sasl.password.reveal() == "s3cret"


def test_other_properties_are_checked_and_need_a_restart(site, secret):
    properties = PASSWORD.format(secret)
    for _ in range(2):
        reload = site.reload(START + properties)
        assert (reload.changes, reload.needs_restart) == ({}, ("kafka",))
        assert reload.config.kafka.sasl is None
    wrong = properties.replace('sasl.username = "agent"\n', "")
    assert "sasl.username" in site.refusal(START + wrong)
    assert "s3cret" not in repr(reload)


def test_properties_without_a_cluster_are_refused(site):
    properties = '[kafka]\nclient.rack = "a"\n'
    site.write(START + properties)
    source = ConfigSource({}, site.file)
    site.write(START.replace("kafka://10.0.0.1:9092", "stdout:") + properties)
    with pytest.raises(UsageError, match="has no effect on stdout:"):
        source.reload(source.config)
