"""Filters by expression: what is said about one that is wrong, and where it has no meaning."""

from __future__ import annotations

import faulthandler
import os
import re
import signal
from pathlib import Path

import pytest
from support.filters import encode, program_of
from support.net import namespace
from support.tun import tun_device

from flowstream.attacher.client import Attacher
from flowstream.attacher.process import Process
from flowstream.check.filters import check_filter
from flowstream.check.finding import Status
from flowstream.config.run import load
from flowstream.config.source import ConfigSource
from flowstream.errors import FilterError, FlowstreamError, KernelError, UsageError
from flowstream.filtering import compiling, libpcap, place
from flowstream.filtering.compiling import compile_filter, compile_here
from flowstream.filtering.place import pointed
from flowstream.host.privileges import find_user
from flowstream.kernel import packet_filter as packet_filters
from flowstream.kernel.attaching import attach_here
from flowstream.kernel.classic_bpf import Instruction
from flowstream.kernel.counter import CounterProbe
from flowstream.kernel.flow import FlowProbe
from flowstream.kernel.link import Mode
from flowstream.kernel.packet_filter import PacketFilter
from flowstream.kernel.target import Target

NOBODY = find_user("nobody")
HOSTS = " or ".join(f"src host 10.{n // 200}.{n % 200}.7" for n in range(401))
HOST_BITS = 19
"""Bits whose every combination the verifier looks at."""


@pytest.mark.parametrize(
    ("expression", "words", "word"),
    [
        ("tcp prot 443", "syntax error", "prot"),
        ("tcp and (port 80 or prt 443) and ip", "unknown port 'prt'", "prt"),
        ("tcp and host 1.2.3.4 5", "syntax error", "5"),
        ("port 80 andd udp", "syntax error", "andd"),
        ("tcp)", "syntax error", ")"),
        ("and tcp", "syntax error", "and"),
        ("src dst 1.2.3.4", "syntax error", "dst"),
        ("tcp & 5 = 1", "syntax error", "&"),
        ("tcp[foo] = 1", "syntax error", "foo"),
        ("greater x", "syntax error", "x"),
        ("ip[0:3] = 1", "data size must be 1, 2, or 4", "0:3"),
        ("tcp or port 65535 or port 70000", "illegal port number 70000 > 65535", "70000"),
        ("net 10.0.0.1/8", 'non-network bits set in "10.0.0.1/8"', "10.0.0.1/8"),
        ("arp or ip6 host 1.2.3.4", "'ip6' modifier applied to ip host", "ip6"),
        ("ether host 1:2", "illegal link layer address", "1:2"),
        ("vlan 5000", "VLAN tag 5000 greater than maximum 4095", "5000"),
        ("proto foo", "unknown ip proto 'foo'", "foo"),
        ("ip broadcast", "netmask not known, so 'ip broadcast' not supported", "broadcast"),
        ("tcp €", "syntax error", "€"),
        ("tcp and\nprt 5", "syntax error in filter expression", "prt"),
    ],
)
def test_libpcaps_words_and_the_place(expression: str, words: str, word: str) -> None:
    with pytest.raises(FilterError) as caught:
        compile_here(expression)
    first, line, caret = caught.value.lines
    assert first == f"filter: {words}"
    assert line == f"  {expression}".replace("\n", " ")
    assert caret.strip(" ") == "^"
    assert line[caret.index("^") :].startswith(word)


@pytest.mark.parametrize(
    "expression", ["tcp port", "(tcp", "ip[0", "tcp and", "host", "not", "(ip[0] & 1", "len >"]
)
def test_what_is_missing_is_missing_at_the_end(expression: str) -> None:
    with pytest.raises(UsageError) as caught:
        compile_here(expression)
    assert str(caught.value) == (
        f"filter: syntax error\n  {expression}\n  {' ' * len(expression)}^"
    )


def test_a_fault_of_the_whole_has_no_place() -> None:
    with pytest.raises(UsageError) as caught:
        compile_here("tcp and udp")
    assert str(caught.value) == "filter: expression rejects all packets\n  tcp and udp"


def test_of_a_long_expression_the_surroundings_are_shown() -> None:
    hosts = " or ".join(f"host 10.0.0.{n}" for n in range(40))
    first, line, caret = pointed(f"{hosts} or prt 443 or {hosts}", "unknown port 'prt'").split(
        "\n"
    )
    assert first == "unknown port 'prt'"
    assert len(line) == 2 + 72 + 2
    assert line.startswith("  …")
    assert line.endswith("…")
    assert line[caret.index("^") :].startswith("prt 443 or host")


def test_a_search_that_takes_too_long_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("flowstream.filtering.place._SEARCH_S", -1.0)
    assert pointed("tcp prot 443", "syntax error") == "syntax error\n  tcp prot 443"


def test_a_search_ends_with_its_time_however_long_the_expression(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    tried: list[str] = []
    monkeypatch.setattr(place, "_SEARCH_S", -1.0)
    monkeypatch.setattr(place, "_rests", lambda beginning: tried.append(beginning) or iter(()))
    assert pointed("(" * 10_007, "memory exhausted").startswith("memory exhausted\n  (((")
    assert tried == []


@pytest.mark.parametrize("expression", ["inbound", "tcp and outbound", "ifindex 3 and udp"])
def test_what_is_not_in_the_packet_is_refused(expression: str) -> None:
    with pytest.raises(UsageError, match=r"use --direction and --interface$"):
        compile_here(expression)


@pytest.mark.parametrize(
    ("undefined", "defined"),
    [
        ("not geneve and port 80", "port 80 and not geneve"),
        ("geneve or tcp", "tcp or geneve"),
        ("(geneve and port 80) or port 80", "port 80 or (geneve and port 80)"),
    ],
)
def test_what_libpcap_reads_at_an_undefined_place_is_refused(undefined: str, defined: str) -> None:
    """tcpdump accepts the one, and answers by what is on its stack."""
    with pytest.raises(UsageError, match=r"^filter: .* put what is about them before geneve$"):
        compile_here(undefined)
    assert compile_here(defined).raw_ip


def test_loops_are_refused() -> None:
    with pytest.raises(UsageError, match=r"loops are not possible, leave out protochain$"):
        compile_filter("ip6 protochain 6", NOBODY)


def test_names_and_faults_cross_the_process_without_privileges() -> None:
    made = compile_filter("host localhost", NOBODY)
    assert made == compile_here("host localhost")
    assert made.instructions == len(made.ethernet) // 8 > 5
    with pytest.raises(FilterError, match=r"^filter: syntax error\n  tcp prot 443\n      \^$"):
        compile_filter("tcp prot 443", NOBODY)


def test_a_compilation_that_takes_too_long_ends(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(compiling, "COMPILE_TIMEOUT_S", 0.2)
    ports = " or ".join(f"port {2 * n + 1}" for n in range(1_500))
    with pytest.raises(UsageError, match=r"^filter: it was not compiled within 0 s; shorten it"):
        compile_filter(ports, NOBODY)


def test_a_crash_of_libpcap_is_an_error_of_the_filter(monkeypatch: pytest.MonkeyPatch) -> None:
    def crash(_: str) -> None:
        faulthandler.disable()  # pytest's, which would print where
        os.kill(os.getpid(), signal.SIGSEGV)

    monkeypatch.setattr(compiling, "compile_here", crash)
    with pytest.raises(FlowstreamError, match=r"^filter: the process .* libpcap may have crashed"):
        compile_filter("tcp", NOBODY)
    finding, _ = check_filter("tcp")
    assert finding.status is Status.FAIL
    assert finding.text.endswith("install another version of libpcap0.8")


def test_the_finding_about_a_wrong_expression_is_one_line_around_the_place() -> None:
    finding, _ = check_filter("tcp and\nprt 5 or " + " or ".join(["host 10.0.0.1"] * 40))
    assert finding.text == (
        "syntax error in filter expression, in: tcp and prt 5 or host 10.0.0.1 or host 10.0.0.1 "
        "or host 10.0.0.1 or host…"
    )


def test_without_libpcap_only_a_filter_fails(monkeypatch: pytest.MonkeyPatch) -> None:
    libpcap.library.cache_clear()
    monkeypatch.setattr(libpcap, "SONAME", "libpcap.so.none")
    with pytest.raises(UsageError, match=r"^filter: libpcap.so.none is missing: install libpcap0"):
        compile_filter("tcp", NOBODY)
    monkeypatch.undo()
    libpcap.library.cache_clear()


@pytest.mark.parametrize("given", ["", " \n ", "tcp\0", "tcp \udcff", "x" * 65_537])
def test_texts_that_are_no_expression(given: str) -> None:
    with pytest.raises(UsageError, match="it takes an expression of pcap-filter"):
        load({"filter": given})


def test_the_option_may_have_lines() -> None:
    assert load({"filter": "tcp\nor udp"}).filter == "tcp\nor udp"


def test_a_filter_is_the_same_behind_the_wire() -> None:
    made = compile_here("tcp")
    assert packet_filters.decode(made.encoded()) == made


def test_an_expression_without_a_meaning_for_raw_ip() -> None:
    made = compile_here("vlan and tcp")
    assert (made.raw_ip, made.not_raw_ip) == (b"", "no VLAN support for Raw IP")
    assert compile_here("tcp").raw_ip != compile_here("tcp").ethernet


def test_such_an_expression_is_an_error_of_that_interface_alone() -> None:
    complaint = (
        r"^attaching to tun0: --filter has no meaning without a link-layer header: no VLAN "
        r"support for Raw IP: use one of IP alone, or leave the interface out$"
    )
    with (
        namespace() as place,
        tun_device(place),
        place.entered(),
        FlowProbe(max_flows=101, packet_filter=compile_here("vlan")) as probe,
    ):
        target = Target.named("tun0")
        raw = Target("tun0", target.if_index, target.record_index, raw=True)
        with pytest.raises(KernelError, match=complaint):
            attach_here(probe, raw)
        probe.attach("lo").close()


def test_the_verifiers_refusal_names_the_filter() -> None:
    """Every bit of a word decides on its own where a load is: the verifier follows them all."""
    program = [Instruction(0x20, 0, 0, 0), Instruction(0x02, 0, 0, 0)]
    for bit in range(HOST_BITS):
        program += [
            Instruction(0x60, 0, 0, 0),
            Instruction(0x45, 0, 3, 1 << bit),
            Instruction(0x87, 0, 0, 0),
            Instruction(0x04, 0, 0, 1 << bit % 14),
            Instruction(0x07, 0, 0, 0),
        ]
    program += [Instruction(0x50, 0, 0, 0), Instruction(0x16, 0, 0, 0)]
    made = PacketFilter("by hand", encode(program))
    refusal = (
        r"^the kernel refuses --filter, which may be too long: loading program xdp_flow: Argument "
        "list too long; the verifier says:\n"
    )
    with (
        namespace() as place,
        place.entered(),
        FlowProbe(max_flows=101, packet_filter=made) as probe,
        pytest.raises(KernelError, match=refusal),
    ):
        probe.attach("lo")


def test_an_attacher_gets_a_filter_that_is_larger_than_a_message() -> None:
    made = compile_here(HOSTS)
    assert len(made.ethernet) > 4_096
    with (
        namespace() as place,
        place.entered(),
        Process() as process,
        CounterProbe(max_flows=101, packet_filter=made) as probe,
    ):
        attacher = Attacher(process, probe, NOBODY)
        for mode in (Mode.GENERIC, Mode.TCX):
            with attacher.attach(Target.named("lo", mode)) as attachment:
                place.run("ip", "link", "set", "lo", "up")
                place.run("ping", "-c", "1", "-W", "60", "127.0.0.1")
                counts = attachment.counters()
                assert counts.seen.packets >= 2
                assert counts.no_flow["filtered_out"] == counts.seen


def test_a_filter_that_cannot_be_translated_is_refused_before_anything_is_made() -> None:
    with pytest.raises(UsageError, match=r"^filter: instruction 0 of its program"):
        PacketFilter("by hand", encode([Instruction(0x34, 0, 0, 0)])).require_valid()
    PacketFilter("by hand", encode(program_of(bytes(64)))).require_valid()


def filters_section() -> str:
    document = Path(__file__).parent.parent / "docs" / "how-to" / "filter.md"
    text = document.read_text(encoding="utf-8")
    _, _, rest = text.partition("\n## Filters\n")
    return rest.partition("\n## ")[0]


def test_the_documented_expressions_compile_for_every_link_they_have_a_meaning_for() -> None:
    table = filters_section().partition("| observes |\n")[2].partition("\n\n")[0]
    rows = re.findall(r"^\| `(.*)` \| ", table, re.MULTILINE)
    expressions = [row.replace("\\|", "|") for row in rows]
    assert len(expressions) >= 8
    made = [compile_here(expression) for expression in expressions]
    assert [bool(each.raw_ip) for each in made] == [
        "ether" not in expression and "vlan" not in expression for expression in expressions
    ]


def test_the_documented_configuration_and_fault_are_as_they_are(tmp_path: Path) -> None:
    toml = re.search(r"```toml\n(.*?)```", filters_section(), re.DOTALL)
    assert toml
    file = tmp_path / "flowstream.toml"
    file.write_text(toml[1], encoding="utf-8")
    written = ConfigSource({}, file).config.filter
    assert written
    assert compile_here(written) == PacketFilter(
        written,
        libpcap.compiled("net 10.0.0.0/8 and not (port 22 or port 9092)", libpcap.ETHERNET),
        libpcap.compiled("net 10.0.0.0/8 and not (port 22 or port 9092)", libpcap.RAW_IP),
    )
    shown = re.search(r"```\nflowstream: error: (filter: .*?)\n```", filters_section(), re.DOTALL)
    assert shown
    with pytest.raises(FilterError) as caught:
        compile_here(shown[1].splitlines()[1].strip())
    assert str(caught.value) == shown[1]
