from __future__ import annotations

import os
from pathlib import Path
from typing import get_args

import pytest

from flowstream.accounting.attachment_key import EGRESS, INGRESS
from flowstream.config.options import option_name, options_of
from flowstream.config.pcap import CaptureConfig
from flowstream.config.publish import PublishConfig
from flowstream.config.run import OPTIONS, RunConfig, load
from flowstream.config.source import ConfigSource
from flowstream.encode import FORMATS, PROFILES
from flowstream.errors import UsageError
from flowstream.kernel.link import Mode
from flowstream.urls import parse_listen


def file_with(tmp_path: Path, content: str | bytes) -> Path:
    path = tmp_path / "flowstream.toml"
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return path


def loaded(given: dict[str, object], file: Path | None = None) -> RunConfig:
    """As ``flowstream run`` does, with and without --config."""
    return load(given) if file is None else ConfigSource(given, file).config


def refusal(given: dict[str, object], file: Path | None = None) -> str:
    with pytest.raises(UsageError) as caught:
        loaded({"interfaces": ["veth0"]} | given, file)
    text = str(caught.value)
    assert "\n" not in text
    return text


def test_defaults():
    assert load({"interfaces": ["veth0"]}) == RunConfig(
        interfaces=("veth0",),
        program="flow",
        mode="auto",
        direction="ingress",
        hook="auto",
        sink="file:flowstream-recording",
        format="json",
        names="goflow2",
        community_id=False,
        registry=None,
        interval_s=5.0,
        max_flows=131_072,
        sampling=1,
        counters_period_s=1.0,
        partitions=6,
        duration_s=None,
        topic_prefix="flowstream",
        agent_address=None,
        user=None,
        log_level="info",
        log_format="auto",
        shutdown_timeout_s=10.0,
    )


def test_every_option_from_a_file(tmp_path):
    file = file_with(
        tmp_path,
        """
        interface = ["eth0", "eth1.17"]
        program = "counter"
        mode = "offload"
        direction = "both"
        hook = "xdp"
        sink = "kafka://10.0.0.1:9092,[::1]:9093"
        format = "protobuf"
        community-id = true
        registry = "https://user:secret@registry.example:8081"
        interval = 7
        max-flows = 65537
        sampling = 11
        counters-period = 0.1
        partitions = 13
        duration = 17.5
        topic-prefix = "site-1.hosts"
        agent-address = "2001:db8::17"
        user = "1001"
        log-level = "debug"
        log-format = "json"
        shutdown-timeout = 3.5
        """,
    )
    config = loaded({}, file)
    assert config == RunConfig(
        interfaces=("eth0", "eth1.17"),
        program="counter",
        mode="offload",
        direction="both",
        hook="xdp",
        sink="kafka://10.0.0.1:9092,[::1]:9093",
        format="protobuf",
        community_id=True,
        registry="https://user:secret@registry.example:8081",
        interval_s=7.0,
        max_flows=65_537,
        sampling=11,
        counters_period_s=0.1,
        partitions=13,
        duration_s=17.5,
        topic_prefix="site-1.hosts",
        agent_address="2001:db8::17",
        user="1001",
        log_level="debug",
        log_format="json",
        shutdown_timeout_s=3.5,
    )
    assert isinstance(config.interval_s, float)


def test_the_command_line_takes_precedence_over_the_file(tmp_path):
    file = file_with(tmp_path, 'interface = ["eth0"]\ninterval = 7\nsampling = 3')
    config = loaded({"interfaces": ["eth1"], "interval_s": "11", "sampling": None}, file)
    assert (config.interfaces, config.interval_s, config.sampling) == (("eth1",), 11.0, 3)


def test_names_of_no_option_are_ignored():
    assert load({"interfaces": ["a"], "config": "x", "command": print}).interfaces == ("a",)


@pytest.mark.parametrize("content", [b"", b"\n\n", b"# nothing\n"])
def test_an_empty_file_changes_nothing(tmp_path, content):
    given = {"interfaces": ["veth0"]}
    assert loaded(given, file_with(tmp_path, content)) == load(given)


def test_interfaces_are_chosen_by_patterns_kinds_and_namespaces(tmp_path):
    """By default the physical ones of the agent's own namespace."""
    config = loaded({}, file_with(tmp_path, "interval = 7"))
    assert (config.interfaces, config.interface_kinds, config.netns) == ((), (), ())
    content = """
        interface = ["eth*", "en[ps]?*", "!eth7", "[!]odd", "an-altname-of-more-than-15-octets"]
        interface-kind = ["physical", "bond", "ip6_vti"]
        netns = ["blue", "/run/docker/netns/a b", "pid:4194304"]
    """
    config = loaded({}, file_with(tmp_path, content))
    assert config.interfaces[:2] == ("eth*", "en[ps]?*")
    assert config.interface_kinds == ("physical", "bond", "ip6_vti")
    assert config.netns == ("blue", "/run/docker/netns/a b", "pid:4194304")
    given = {
        field: list(getattr(config, field)) for field in ("interfaces", "interface_kinds", "netns")
    }
    assert load(given) == config


LIMITS = {
    "interval_s": ("0.1", "3600"),
    "max_flows": ("16", "16777216"),
    "sampling": ("1", "4294967295"),
    "counters_period_s": ("0.1", "3600"),
    "partitions": ("1", "10000"),
    "duration_s": ("0.1", "1000000000"),
    "shutdown_timeout_s": ("0.1", "3600"),
}
OUTSIDE = {"0.1": "0.0999", "16": "15", "1": "0", "3600": "3600.01"}


@pytest.mark.parametrize("field", LIMITS)
def test_limits_are_included_and_what_lies_beyond_is_refused(field):
    low, high = LIMITS[field]
    for limit in (low, high):
        assert getattr(load({"interfaces": ["a"], field: limit}), field) == float(limit)
    for value in (
        OUTSIDE[low],
        OUTSIDE.get(high, str(int(high) + 1)),
        "-1",
        "nan",
        "inf",
        "x",
        "",
    ):
        assert refusal({field: value}) == (
            f"--{option_name(field)}: {value!r} is not allowed; it takes {OPTIONS[field].allowed}"
        )
    assert f"from {low} to {high}" in OPTIONS[field].allowed


@pytest.mark.parametrize(
    ("given", "text"),
    [
        (
            {"netns": ["blue", "pid:x"]},
            "--netns: 'pid:x' is not allowed; it takes a name of ip netns, a path or pid:N",
        ),
        (
            {"interfaces": ["eth0", "!"]},
            (
                "--interface: '!' is not allowed; it takes a name or a glob, such as eth0, "
                "'ens*' or '!ens7'"
            ),
        ),
        (
            {"interface_kinds": ["Veth", "bond"]},
            (
                "--interface-kind: 'Veth' is not allowed; it takes physical, virtual, all, or a "
                "kind of ip link such as veth"
            ),
        ),
    ],
)
def test_of_an_option_that_may_be_repeated_the_wrong_value_is_named(given, text):
    """Not all its values, and no list: the command line has none."""
    assert refusal(given) == text


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        ("interval = '7'", "interval: '7' is not allowed; it takes a number of seconds"),
        ("interval = true", "interval: True is not allowed"),
        ("interval = nan", "interval: nan is not allowed"),
        ("interval = inf", "interval: inf is not allowed"),
        ("interval.seconds = 7", "interval: a table is not allowed"),
        ("interval = [7]", "interval: [7] is not allowed"),
        ("interval = 2026-01-01", "interval: datetime.date(2026, 1, 1) is not allowed"),
        ("max-flows = 16.0001", "max-flows: 16.0001 is not allowed; it takes a whole number from"),
        ("max-flows = '16'", "max-flows: '16' is not allowed"),
        ("max-flows = 15", "max-flows: 15 is not allowed"),
        (f"max-flows = {'9' * 500}", "max-flows: 999999999999999999...9999999999999999999 is"),
        ("mode = 'NATIVE'", "mode: 'NATIVE' is not allowed; it takes auto, native, generic or"),
        ("interface = 'eth0'", "interface: 'eth0' is not allowed; it takes a list such as"),
        ("interface = []", "interface: [] is not allowed"),
        ("interface = ['']", "interface: [''] is not allowed"),
        ("interface = ['a/b']", "interface: ['a/b'] is not allowed"),
        ("interface = ['..']", "interface: ['..'] is not allowed"),
        ("interface = ['a b']", "interface: ['a b'] is not allowed"),
        (
            f"interface = ['{'a' * 128}']",
            "interface: ['aaaaaaaaaaaa...aaaaaaaaaaaaa'] is not allo",
        ),
        ("interface = ['!']", "interface: ['!'] is not allowed"),
        ("interface = ['!!a']", "interface: ['!!a'] is not allowed"),
        ("interface = ['!..']", "interface: ['!..'] is not allowed"),
        ("interface-kind = 'veth'", "interface-kind: 'veth' is not allowed; it takes a list such"),
        ("interface-kind = []", "interface-kind: [] is not allowed"),
        ("interface-kind = ['Physical']", "interface-kind: ['Physical'] is not allowed"),
        ("netns = 'blue'", "netns: 'blue' is not allowed; it takes a list such as"),
        ("netns = []", "netns: [] is not allowed"),
        ("netns = ['..']", "netns: ['..'] is not allowed"),
        ("netns = ['a/b']", "netns: ['a/b'] is not allowed"),
        ("netns = ['/']", "netns: ['/'] is not allowed"),
        ("netns = ['pid:0']", "netns: ['pid:0'] is not allowed"),
        ("netns = ['pid:a']", "netns: ['pid:a'] is not allowed"),
        ("netns = ['pid:12345678']", "netns: ['pid:12345678'] is not allowed"),
        (
            f"netns = {[str(each) for each in range(257)]}",
            "netns: ['0', '1', '2', '3', '4', '5', ",
        ),
        ("topic-prefix = 'a/b'", "topic-prefix: 'a/b' is not allowed; it takes 1 to 239"),
        ("topic-prefix = ''", "topic-prefix: '' is not allowed"),
        (f"topic-prefix = '{'a' * 240}'", "topic-prefix: 'aaaaaaaaaaaa...aaaaaaaaaaaaa' is not"),
        ("user = 0", "user: 0 is not allowed; it takes a name or number, in TOML as text"),
        ("max_flows = 17", "unknown option 'max_flows'; did you mean max-flows?"),
        ("intervall = 17", "unknown option 'intervall'; did you mean interval?"),
        (
            "security.protocol = 'SSL'",
            "unknown option 'security'; properties of the Kafka clients stand ",
        ),
        ("[run]\ninterval = 7", "unknown option 'run'; known options: interface, interface-kin"),
        ("interval = ", "not valid TOML: Invalid value (at "),
        ("\ninterval = 7\ninterval = 8\n", "not valid TOML: Cannot overwrite a value (at line 3"),
        (f"max-flows = {'9' * 5_000}", "not valid TOML: Exceeds the limit"),
        (b"\n\ninterval = 7 # \xff", "line 3: not UTF-8 text"),
        (b"#" * (1 << 20) + b"\n", "exceeds the 1 MiB limit of a configuration"),
        ("interval = " + "[" * 100_000, "nested too deeply"),
    ],
)
def test_mistakes_in_a_file_name_the_key_and_what_is_allowed(tmp_path, content, expected):
    file = file_with(tmp_path, content)
    text = refusal({}, file)
    assert text.startswith(f"{file}: {expected}")


def test_a_file_of_exactly_one_mebibyte_is_read(tmp_path):
    text = "sampling = 3\n"
    file = file_with(tmp_path, text + "#" * ((1 << 20) - len(text)))
    assert loaded({"interfaces": ["a"]}, file).sampling == 3


def test_files_that_cannot_be_read(tmp_path):
    assert refusal({}, tmp_path / "none").endswith(
        "none: cannot be read: No such file or directory"
    )
    assert refusal({}, tmp_path).endswith("cannot be read: Is a directory")
    # The end of the text is Python's, which differs between versions.
    assert "cannot be read: " in refusal({}, Path("a\0b"))
    assert "embedded null" in refusal({}, Path("a\0b"))
    assert (
        refusal({}, file_with(tmp_path, "#" * ((1 << 20) + 1)))
        == f"{tmp_path / 'flowstream.toml'}: exceeds the 1 MiB limit of a configuration"
    )


def test_a_file_without_permission(tmp_path):
    file = file_with(tmp_path, "")
    file.chmod(0)
    tmp_path.chmod(0o755)
    uid = os.geteuid()
    if uid == 0:
        os.seteuid(65_534)
    try:
        # Whether the directories above let this user through does not matter: it is refused.
        assert refusal({}, file).endswith("cannot be read: Permission denied")
    finally:
        os.seteuid(uid)


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ({"interfaces": ["a", "b", "a"]}, "interface: a is named more than once"),
        ({"interfaces": ["!b", "abc", "!a*"]}, "interface: abc is excluded by !a*"),
        (
            {"pin": "/sys/fs/bpf/f", "program": "counter"},
            "pin: program counter keeps nothing for a next run; leave it out, or use --program f",
        ),
        ({"sink": "stdout:", "format": "msgpack"}, "format: msgpack is binary and the sink"),
        ({"format": "avro"}, "format: avro can only be read with its schema; name a registry"),
        ({"registry": "http://x"}, "registry: json needs none; leave it out or use format"),
        (
            {"format": "msgpack", "community_id": "true"},
            "community-id: msgpack has a fixed layout without it; leave it out or use another",
        ),
        ({"format": "msgpack", "names": "ecs"}, "names: ecs are names in JSON and the format is"),
        ({"sink": "ftp://x"}, "'ftp://x': unknown scheme 'ftp'"),
        ({"sink": "kafka://x"}, "'kafka://x': 'x' is not HOST:PORT"),
        ({"sink": "kafka://a..b:1"}, "'kafka://a..b:1': 'a..b' is not a valid host name"),
        (
            {"sink": f"kafka://{64 * 'a'}:1"},
            f"'kafka://{64 * 'a'}:1': '{64 * 'a'}' is not a valid host name",
        ),
        (
            {"sink": "kafka://a:1,bob:s3cret@b:2"},
            "'kafka://b:2': user and password in the URL are not supported",
        ),
    ],
)
def test_contradictions(given, expected):
    assert refusal(given).startswith(expected)


@pytest.mark.parametrize("value", ["yes", "2", 1, "", "tru"])
def test_a_switch_takes_true_or_false(tmp_path, value):
    line = f"community-id = {value!r}".replace("'", '"')
    said = refusal({}, file_with(tmp_path, line))
    assert said.endswith("is not allowed; it takes true or false")


def test_protobuf_with_and_without_a_registry():
    for registry in (None, "https://user:secret@registry:8081/path"):
        config = load({"interfaces": ["a"], "format": "protobuf", "registry": registry})
        assert (config.format, config.registry) == ("protobuf", registry)


def test_offload_with_the_counter_is_no_contradiction():
    config = load({"interfaces": ["a"], "mode": "offload", "program": "counter"})
    assert (config.mode, config.program) == ("offload", "counter")


@pytest.mark.parametrize(
    ("given", "modes"),
    [
        ({}, {INGRESS: ("auto", "tcx")}),
        ({"mode": "native"}, {INGRESS: ("native", "tcx")}),
        ({"hook": "xdp", "mode": "generic"}, {INGRESS: ("generic",)}),
        ({"hook": "tcx"}, {INGRESS: ("tcx",)}),
        ({"direction": "egress"}, {EGRESS: ("tcx",)}),
        ({"direction": "egress", "hook": "tcx"}, {EGRESS: ("tcx",)}),
        ({"direction": "both"}, {INGRESS: ("auto", "tcx"), EGRESS: ("tcx",)}),
        (
            {"direction": "both", "hook": "xdp", "mode": "offload"},
            {INGRESS: ("offload",), EGRESS: ("tcx",)},
        ),
        ({"direction": "both", "hook": "tcx"}, {INGRESS: ("tcx",), EGRESS: ("tcx",)}),
    ],
)
def test_the_attach_modes_of_each_direction(given, modes):
    config = load({"interfaces": ["a"]} | given)
    assert config.attach_modes == modes
    assert {Mode(each) for several in modes.values() for each in several} <= set(Mode)
    assert load({"interfaces": ["a"], "program": "counter"} | given).attach_modes == modes


@pytest.mark.parametrize(
    ("given", "text"),
    [
        (
            {"direction": "egress", "hook": "xdp"},
            (
                "hook: xdp sees received packets only and the direction is egress; leave it out "
                "or use tcx"
            ),
        ),
        (
            {"mode": "native", "hook": "tcx"},
            "mode: native is a mode of xdp and the hook is tcx; leave one out",
        ),
        (
            {"mode": "generic", "direction": "egress"},
            (
                "mode: generic is a mode of xdp, which sees received packets only, and the "
                "direction is egress; leave it out"
            ),
        ),
        ({"direction": "out"}, "--direction: 'out' is not allowed; it takes ingress, egress or"),
        ({"hook": "tc"}, "--hook: 'tc' is not allowed; it takes auto, xdp or tcx"),
    ],
)
def test_hooks_and_directions_that_contradict_each_other(given, text):
    assert refusal(given).startswith(text)


def test_one_option_alone():
    option = OPTIONS["duration_s"]
    assert option.parse("7") == 7.0
    with pytest.raises(UsageError, match="--duration: 'null' is not allowed"):
        option.parse("null")
    with pytest.raises(UsageError, match=r"^here: '7' is not allowed; it takes a number of"):
        option.parse("7", where="here")


def test_formats_and_names_are_those_of_the_encoders():
    assert get_args(OPTIONS["format"].type.__origin__) == FORMATS
    assert get_args(OPTIONS["names"].type.__origin__) == tuple(PROFILES)


def test_run_and_pcap_share_the_options_of_publishing():
    """One field, one default, one help text; a command's own options come first."""
    shared = options_of(PublishConfig)
    assert options_of(CaptureConfig) == shared
    assert list(OPTIONS)[-len(shared) :] == list(shared)
    assert {field: OPTIONS[field] for field in shared} == shared
    assert next(iter(OPTIONS)) == "interfaces"


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ({"sink": "stdout:", "format": "msgpack"}, "format: msgpack is binary"),
        ({"format": "avro"}, "format: avro can only be read with its schema"),
    ],
)
def test_contradictions_in_a_run_over_captures(given, expected):
    with pytest.raises(UsageError, match=expected):
        CaptureConfig(files=(Path("a.pcap"),), **given)


@pytest.mark.parametrize("address", ["192.0.2.1", "2001:db8::1", "::ffff:192.0.2.1"])
def test_the_agents_address(address):
    assert load({"interfaces": ["a"], "agent_address": address}).agent_address == address


@pytest.mark.parametrize("address", ["", "host-a", "192.0.2", "192.0.2.1/24", "192.0.2.1:9092"])
def test_the_agents_address_is_a_literal(address):
    assert refusal({"agent_address": address}) == (
        f"agent-address: {address!r} is not an IPv4 or IPv6 address"
    )


@pytest.mark.parametrize("address", ["0.0.0.0", "::", "::ffff:0.0.0.0", "224.0.0.1", "ff02::1"])
def test_the_agents_address_is_that_of_a_host(address):
    assert refusal({"agent_address": address}) == (
        f"agent-address: {address} is not the address of a host; name one of its addresses, or "
        "leave it out"
    )


@pytest.mark.parametrize("sink", ["stdout:", "kafka://127.0.0.1:9092"])
def test_limits_of_a_recording_need_one(sink, tmp_path):
    given = {"sink": sink}
    says = f"limits a recording, and the sink is {sink}; leave it out or use file:DIR"
    assert refusal(given | {"recording_size": "1GiB"}) == f"recording-size: {says}"
    file = file_with(tmp_path, 'recording-age = "7d"')
    assert refusal(given, file) == f"recording-age: {says}"
    # The defaults limit nothing elsewhere.
    assert load({"interfaces": ["veth0"]} | given).recording_size == "1GiB"


@pytest.mark.parametrize("url", ["http://[bad", "http://registry:port", "http://registry/?a"])
def test_the_url_of_a_registry_is_checked_before_the_start(url):
    assert refusal({"interfaces": ["a"], "format": "avro", "registry": url}) == (
        f"registry: {url!r} is not allowed; it takes http://HOST:PORT or https://HOST:PORT"
    )


@pytest.mark.parametrize("url", ["mock://registry", "registry:8081", "ftp://registry", "http://"])
def test_a_registry_is_reached_by_http(url):
    assert refusal({"format": "avro", "registry": url}) == (
        f"--registry: {url!r} is not allowed; it takes http://HOST:PORT or https://HOST:PORT"
    )


KAFKA = {"interfaces": ("eth0",), "sink": "kafka://10.0.0.1:9092"}


def test_the_state_directory_makes_a_spool_the_default(monkeypatch):
    monkeypatch.delenv("STATE_DIRECTORY", raising=False)
    assert load(KAFKA).spool is None
    # systemd.exec(5): several directories are separated by colons.
    monkeypatch.setenv("STATE_DIRECTORY", "/var/lib/flowstream:/var/lib/other")
    config = load(KAFKA)
    assert (config.spool, config.spool_size) == ("/var/lib/flowstream/spool", "1GiB")
    assert load(KAFKA | {"spool": "/srv/spool"}).spool == "/srv/spool"
    assert load({"interfaces": ("eth0",), "sink": "stdout:"}).spool is None


@pytest.mark.parametrize("sink", ["file:r", "stdout:"])
@pytest.mark.parametrize(
    ("field", "value", "name"),
    [
        ("spool", "/srv/spool", "spool"),
        ("spool_size", "500MB", "spool-size"),
        ("spool_max_age", "12h", "spool-max-age"),
        ("spool_rate", "5000", "spool-rate"),
    ],
)
def test_a_spool_is_for_kafka(sink, field, value, name):
    with pytest.raises(UsageError) as caught:
        load({"interfaces": ("eth0",), "sink": sink, field: value})
    assert str(caught.value) == (
        f"{name}: a spool is for a Kafka sink, and the sink is {sink}; "
        "leave it out or use kafka://HOST:PORT"
    )


def test_limits_of_no_spool_are_refused(monkeypatch):
    monkeypatch.delenv("STATE_DIRECTORY", raising=False)
    with pytest.raises(UsageError, match="spool-rate: there is no spool; give --spool DIR too"):
        load(KAFKA | {"spool_rate": "5000"})


@pytest.mark.parametrize(
    "address",
    [
        *("127.0.0.1:9435", "[::1]:9435", ":9435", "0.0.0.0:1", "[fe80::1%eth0]:65535"),
        *("unix:/run/flowstream/metrics.sock", f"unix:/{'a' * 106}"),
    ],
)
def test_metrics_are_served_at_an_address_or_a_socket(address):
    assert str(parse_listen(load({"metrics": address}).metrics)) == address


@pytest.mark.parametrize(
    ("address", "said"),
    [
        *((each, "it takes 127.0.0.1:PORT") for each in ("9435", "127.0.0.1", "127.0.0.1:", ":0")),
        *((each, "it takes 127.0.0.1:PORT") for each in (":65536", ":+1", "http://127.0.0.1")),
        *((each, "is not an IPv4 address") for each in ("localhost:9435", "::1:9435", "[::1:1")),
        *((each, "is not an IPv4 address") for each in ("http://[::1]:9435", "127.1:9435")),
        *((each, "an absolute path") for each in ("unix:", "unix:metrics", f"unix:/{'a' * 107}")),
    ],
)
def test_what_is_no_address_is_refused(address, said):
    text = refusal({"metrics": address})
    assert text.startswith("metrics: ")
    assert said in text
