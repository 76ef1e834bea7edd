"""Objects: embedded ones, compiled and cached ones, and those that are refused."""

from __future__ import annotations

import errno
import os
import shutil
import struct
import sys
from typing import TYPE_CHECKING

import msgspec
import pytest
from packets.build import ether, ip4, udp
from support.bytecode import instruction
from support.programs import run_packet

from flowstream.errors import CompileError, KernelError, LayoutError
from flowstream.kernel import cache, libbpf
from flowstream.kernel import compile as bpf_compile
from flowstream.kernel import object as kernel_object
from flowstream.kernel.counter import CounterProbe
from flowstream.kernel.program import Program
from flowstream.kernel.target import Target

if TYPE_CHECKING:
    from pathlib import Path

NAME = "counter"
ORDERS = ("little", "big")
FRAME = ether(0x0800, ip4(17, udp()))


@pytest.fixture
def sources(tmp_path, monkeypatch) -> Path:
    """A copy of the C sources that the loader takes for its own, and a cache of the test's."""
    copy = tmp_path / "bpf"
    shutil.copytree(bpf_compile.SOURCE_DIR, copy)
    (tmp_path / "pyproject.toml").touch()
    monkeypatch.setattr(bpf_compile, "SOURCE_DIR", copy)
    monkeypatch.setattr(cache, "SYSTEM", tmp_path / "cache")
    return copy


@pytest.fixture
def no_compiler(monkeypatch) -> None:
    def refuse(*_: object) -> None:
        pytest.fail("it was compiled")

    monkeypatch.setattr(bpf_compile, "compile_object", refuse)


def cached(sources: Path) -> list[Path]:
    return sorted((sources.parent / "cache").glob("*"))


def edit(source: Path, old: str, new: str) -> None:
    text = source.read_text(encoding="utf-8")
    assert old in text
    source.write_text(text.replace(old, new), encoding="utf-8")


@pytest.mark.parametrize("name", ["counter", "flow"])
def test_the_embedded_object_serves_unchanged_sources(sources, no_compiler, name):
    assert bpf_compile.obtain(name) == kernel_object.embedded(name)
    assert cached(sources) == []


def test_without_sources_the_embedded_object_serves(tmp_path, monkeypatch, no_compiler):
    monkeypatch.setattr(bpf_compile, "SOURCE_DIR", tmp_path / "nowhere")
    assert bpf_compile.obtain(NAME) == kernel_object.embedded(NAME)


def test_changed_sources_are_compiled_once(sources, monkeypatch):
    edit(sources / f"{NAME}.c", "count_packet(SEEN_PACKETS, packet);", "count(SEEN_PACKETS, 7);")
    fresh = bpf_compile.obtain(NAME)
    assert fresh.program("count_ipv4") != kernel_object.embedded(NAME).program("count_ipv4")
    (file,) = cached(sources)
    assert fresh.source_digest in file.name
    with CounterProbe() as kernel, kernel.maps(if_index=7) as maps:
        run_packet(maps.program, FRAME, repeat=11)
        assert maps.counters().seen.packets == 77
    monkeypatch.setattr(bpf_compile, "compile_object", lambda *_: pytest.fail("compiled again"))
    assert bpf_compile.obtain(NAME) == fresh


def test_a_changed_comment_changes_no_bytecode(sources):
    edit(sources / "parsing.h", "/*\n", "/*\n * Changed.\n")
    fresh = bpf_compile.obtain(NAME)
    assert fresh.programs == kernel_object.embedded(NAME).programs
    assert fresh.source_digest != kernel_object.embedded(NAME).source_digest


def test_a_broken_cache_is_written_anew(sources):
    edit(sources / f"{NAME}.c", "count_packet(SEEN_PACKETS, packet);", "count(SEEN_PACKETS, 3);")
    fresh = bpf_compile.obtain(NAME)
    (file,) = cached(sources)
    whole = file.read_bytes()
    file.write_bytes(whole[:1_009])
    assert bpf_compile.obtain(NAME) == fresh
    assert file.read_bytes() == whole


def test_a_cache_that_cannot_be_written_only_costs_time(sources):
    (sources.parent / "cache").write_text("a file where a directory should be")
    edit(sources / f"{NAME}.c", "count_packet(SEEN_PACKETS, packet);", "count(SEEN_PACKETS, 3);")
    assert bpf_compile.obtain(NAME).name == NAME


@pytest.mark.parametrize(
    ("broken", "message"),
    [("count(SEEN_PACKETS, 1)", "expected ';'"), ("undeclared(1);", "undeclared")],
)
def test_clangs_messages_are_in_the_error(sources, broken, message):
    edit(sources / f"{NAME}.c", "count_packet(SEEN_PACKETS, packet);", broken)
    with pytest.raises(CompileError, match=f"bcc refused .*{NAME}") as refused:
        bpf_compile.obtain(NAME)
    assert message in str(refused.value)


def test_the_wrong_bcc_gives_the_remedy(sources, monkeypatch):
    """A Python without the BPF compiler collection: the test's own."""
    monkeypatch.setattr(bpf_compile, "_interpreters", lambda: [sys.executable])
    edit(sources / f"{NAME}.c", "count_packet(SEEN_PACKETS, packet);", "count(SEEN_PACKETS, 3);")
    with pytest.raises(CompileError, match="install Debian's python3-bpfcc") as refused:
        bpf_compile.obtain(NAME)
    assert "PyPI's bcc is an unrelated package" in str(refused.value)
    assert sys.executable in str(refused.value)


def test_the_unrelated_bcc_package_gives_the_remedy(sources, tmp_path, monkeypatch):
    """An interpreter whose ``import bcc`` finds something else."""
    imposter = tmp_path / "imposter"
    (imposter / "bcc").mkdir(parents=True)
    (imposter / "bcc" / "__init__.py").write_text("LATTICE = 'body-centred cubic'\n")
    python = imposter / "python3"
    run = f"import sys, runpy; sys.path.insert(0, {str(imposter)!r}); sys.argv = sys.argv[1:]"
    python.write_text(
        f"#!/bin/sh\nshift\nexec {sys.executable} -c "
        f'"{run}; runpy.run_path(sys.argv[0], run_name=\'__main__\')" "$@"\n'
    )
    python.chmod(0o755)
    monkeypatch.setattr(bpf_compile, "_interpreters", lambda: [str(python)])
    edit(sources / f"{NAME}.c", "count_packet(SEEN_PACKETS, packet);", "count(SEEN_PACKETS, 3);")
    with pytest.raises(CompileError, match="pip uninstall bcc"):
        bpf_compile.obtain(NAME)


def test_a_source_that_is_missing(sources):
    (sources / f"{NAME}.c").unlink()
    with pytest.raises((CompileError, OSError), match=f"{NAME}.c"):
        bpf_compile.compile_raw(NAME)


@pytest.mark.parametrize("order", ORDERS)
def test_an_object_of_the_other_byte_order_is_refused(order):
    other = {"little": "big", "big": "little"}[order]
    data = kernel_object.encode(kernel_object.embedded(NAME, other))
    with pytest.raises(LayoutError, match=f"for {other}-endian hosts, not for {order}") as refused:
        kernel_object.decode(data, "the object", order)
    assert "make generate" in str(refused.value)


def test_the_embedded_object_is_of_this_hosts_byte_order():
    assert kernel_object.embedded(NAME).byte_order == sys.byteorder


@pytest.mark.parametrize("name", bpf_compile.BUILDS)
def test_objects_of_both_byte_orders_ask_the_loader_for_the_same(name):
    little, big = (kernel_object.embedded(name, order) for order in ORDERS)
    assert (little.byte_order, big.byte_order) == ("little", "big")
    assert little.maps == big.maps
    assert little.source_digest == big.source_digest
    assert [program.name for program in little.programs] == [each.name for each in big.programs]
    for one, other in zip(little.programs, big.programs, strict=True):
        for part in ("relocations", "patches"):
            assert getattr(one, part).keys() == getattr(other, part).keys()
        assert len(one.filter_calls) == len(other.filter_calls)
        assert helpers(one.code, "<") == helpers(other.code, ">")


def helpers(code: bytes, order: str) -> set[int]:
    """Numbers of the kernel's functions that bytecode calls."""
    called = set()
    for opcode, registers, _, number in struct.iter_unpack(f"{order}BBhi", code):
        source = registers >> 4 if order == "<" else registers & 15
        if opcode == kernel_object.CALL and source == 0:
            called.add(number)
    return called


# r1 = map 7; r2 = the constant of slot 3; call 0x7ead; exit. In struct bpf_insn of linux/bpf.h
# the first register is the one that a bit field's first half is, in either order.
BYTECODE = {
    "little": "1811000007000000 0000000000000000 1802000003000000 00000000e0570af1"
    "85000000ad7e0000 9500000000000000",
    "big": "1811000000000007 0000000000000000 1820000000000003 00000000f10a57e0"
    "8500000000007ead 9500000000000000",
}
SCANNED = {
    "little": "1811000000000000 0000000000000000 1802000000000000 0000000000000000"
    "b700000001000000 9500000000000000",
    "big": "1811000000000000 0000000000000000 1820000000000000 0000000000000000"
    "b700000000000001 9500000000000000",
}


@pytest.mark.parametrize("order", ORDERS)
def test_bytecode_is_scanned_in_its_byte_order(order):
    spec = kernel_object.scan("p", bytes.fromhex(BYTECODE[order]), {7: "flows"}, order)
    assert spec.code == bytes.fromhex(SCANNED[order])
    assert (spec.relocations, spec.patches) == ({"flows": [0]}, {3: [2]})
    assert spec.filter_calls == [4]


def test_an_object_survives_its_file():
    obj = kernel_object.embedded(NAME)
    assert kernel_object.decode(kernel_object.encode(obj), "the object") == obj


@pytest.mark.parametrize("data", [b"", b"{}", b"null", b"\xff", b'{"name": 7}'])
def test_what_is_no_object_is_refused(data):
    with pytest.raises(LayoutError, match="the file is not a kernel object"):
        kernel_object.decode(data, "the file")


def test_an_unknown_object():
    with pytest.raises(LayoutError, match="no embedded object for nothing"):
        kernel_object.embedded("nothing")


def test_missing_parts_of_an_object_are_named():
    obj = kernel_object.embedded(NAME)
    with pytest.raises(LayoutError):
        obj.program("nothing")
    with pytest.raises(LayoutError):
        obj.map("nothing")
    spec = obj.program("count_ipv4")
    with pytest.raises(LayoutError, match=r"map \w+ is missing"):
        spec.link({}, {})
    with pytest.raises(LayoutError, match="the constant of slot"):
        spec.link(dict.fromkeys(spec.relocations, 3), {})


@pytest.mark.parametrize(
    ("part", "value"),
    [("relocations", {"pkt_count": [0]}), ("patches", {0: [100_003]})],
)
def test_a_place_that_is_none_of_its_kind_is_refused(part, value):
    """As a file would have it that was changed: other instructions would be written over."""
    spec = kernel_object.embedded(NAME).program("count_ipv4")
    with pytest.raises(ValueError, match="program count_ipv4 has no"):
        msgspec.structs.replace(spec, **{part: value})


def test_a_filter_call_in_a_place_without_one_is_refused():
    obj = kernel_object.embedded(NAME)
    programs = [msgspec.structs.replace(each, filter_calls=[0]) for each in obj.programs]
    with pytest.raises(ValueError, match="has no filter call at 0"):
        msgspec.structs.replace(obj, programs=programs)


def test_every_program_asks_the_filter():
    for build in bpf_compile.BUILDS:
        for program in kernel_object.embedded(build).programs:
            # At the TC hook again, once more of a packet can be read.
            assert len(program.filter_calls) == (2 if program.name.startswith("tc_") else 1)


@pytest.mark.parametrize("size", [libbpf.LOG_SIZE, 128])
def test_the_end_of_the_verifiers_log_is_in_the_error(size, monkeypatch):
    """Where the log has no room for all of it, the error is still the program's."""
    monkeypatch.setattr(libbpf, "LOG_SIZE", size)
    spec = kernel_object.embedded(NAME).program("count_ipv4")
    # r0 = *(u64 *)(r1 + 4096): far outside the context.
    load = instruction(0x79, 0, 1, 4096)
    bad = msgspec.structs.replace(
        spec, code=load + instruction(0x95), relocations={}, patches={}, filter_calls=[]
    )
    with pytest.raises(KernelError, match="the verifier says") as refused:
        Program(bad, {}, Target("", 0, 0))
    text = str(refused.value)
    assert refused.value.errno == errno.EACCES
    assert size == 128 or "invalid bpf_context access off=4096" in text
    assert len(text.splitlines()) < 20


def test_a_program_is_unloaded_with_its_block():
    with CounterProbe() as kernel, kernel.maps(if_index=7) as maps:
        number = maps.program.id
        fd = libbpf.library().bpf_prog_get_fd_by_id(number)
        assert fd >= 0
        os.close(fd)
        maps.close()
        maps.close()
        assert maps.program.fd == -1
        maps.program.close()


def test_a_packet_that_the_kernel_refuses():
    refused = pytest.raises(KernelError, match="program count_ipv4 on a packet of 3 octets")
    with CounterProbe() as kernel, kernel.maps(if_index=7) as maps, refused:
        run_packet(maps.program, b"abc")
