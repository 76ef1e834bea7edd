"""Typed access to real maps."""

from __future__ import annotations

import errno
from pathlib import Path

import numpy as np
import pytest

from flowstream.errors import KernelError, LayoutError, MapFullError
from flowstream.kernel import compile as bpf_compile
from flowstream.kernel import features, libbpf
from flowstream.kernel.map import Map
from flowstream.kernel.maps import ArrayMap, HashMap, MapOfMaps, PerCpuArray
from flowstream.kernel.object import MapSpec

U32, U64 = np.dtype(np.uint32), np.dtype(np.uint64)
PAIR = np.dtype([("left", np.uint64), ("right", np.uint64)])


def spec(kind: int, key_size: int = 4, value_size: int = 8, entries: int = 16) -> MapSpec:
    return MapSpec("tested", kind, key_size, value_size, entries, 0)


def hash_map(entries: int) -> HashMap:
    return HashMap(spec(libbpf.MAP_TYPE_HASH), U32, U64, entries)


def fill(target: HashMap, count: int) -> dict[int, int]:
    wanted = {key: key * 1_009 + 7 for key in range(count)}
    for key, value in wanted.items():
        target.update(np.array([key], U32), np.array([value], U64))
    return wanted


def gathered(batches) -> dict[int, int]:
    found: dict[int, int] = {}
    for keys, values in batches:
        assert len(keys) == len(values) > 0
        pairs = dict(zip(keys.tolist(), values.tolist(), strict=True))
        assert len(pairs) == len(keys)
        assert not pairs.keys() & found.keys(), "an entry came twice"
        found |= pairs
    return found


def test_a_per_cpu_value_has_an_entry_per_possible_cpu():
    with PerCpuArray(spec(libbpf.MAP_TYPE_PERCPU_ARRAY), U64) as counts:
        assert counts.read(3).shape == (libbpf.possible_cpus(),)
    possible = Path("/sys/devices/system/cpu/possible").read_text(encoding="ascii")
    last = possible.strip().split(",")[-1].split("-")[-1]
    assert libbpf.possible_cpus() == int(last) + 1


def test_per_cpu_values_are_summed_field_by_field():
    with PerCpuArray(spec(libbpf.MAP_TYPE_PERCPU_ARRAY, value_size=16), PAIR) as counts:
        values = np.zeros(libbpf.possible_cpus(), PAIR)
        values["left"], values["right"] = np.arange(len(values)) + 3, 5
        counts.update(np.array([2], U32), values)
        assert (counts.read(2) == values).all()
        left = sum(range(3, 3 + len(values)))
        assert counts.total(2) == {"left": left, "right": 5 * len(values)}
        assert counts.total(1) == {"left": 0, "right": 0}


def test_a_per_cpu_value_that_the_kernel_would_pad_is_refused():
    odd = np.dtype("u1, u2, u1")
    with pytest.raises(LayoutError, match="not a multiple of 8"):
        PerCpuArray(spec(libbpf.MAP_TYPE_PERCPU_ARRAY, value_size=4), odd)


def test_reading_past_the_end_of_an_array():
    counts = PerCpuArray(spec(libbpf.MAP_TYPE_PERCPU_ARRAY), U64)
    with counts, pytest.raises(KernelError, match="reading map tested"):
        counts.read(16)


def test_an_array_keeps_what_is_written():
    with ArrayMap(spec(libbpf.MAP_TYPE_ARRAY), U64) as array:
        array.write(np.array([1_009], U64), 3)
        assert array.read(3).tolist() == [1_009]
        assert array.read().tolist() == [0]


def test_a_full_hash_is_an_error_of_its_own():
    with hash_map(7) as table:
        wanted = fill(table, 7)
        with pytest.raises(MapFullError, match=r"map tested is full \(7\)") as refused:
            table.update(np.array([8], U32), np.array([1], U64))
        assert refused.value.errno == errno.E2BIG
        # What is there can still be changed, and nothing else was.
        table.update(np.array([3], U32), np.array([11], U64))
        assert gathered(table.snapshot()) == wanted | {3: 11}


def test_an_update_that_must_be_new():
    with hash_map(7) as table:
        fill(table, 1)
        with pytest.raises(KernelError, match="updating map tested") as refused:
            table.update(np.array([0], U32), np.array([1], U64), libbpf.BPF_NOEXIST)
        assert refused.value.errno == errno.EEXIST


def test_a_key_that_is_there_and_one_that_is_not():
    with hash_map(7) as table:
        fill(table, 3)
        value = table.get(np.array([2], U32))
        assert value is not None
        assert value.tolist() == [2 * 1_009 + 7]
        assert table.get(np.array([5], U32)) is None


@pytest.mark.parametrize("count", [0, 1, 1_009, 16_384, 40_009])
def test_a_snapshot_takes_nothing_and_a_drain_takes_all(count):
    with hash_map(50_021) as table:
        wanted = fill(table, count)
        assert gathered(table.snapshot()) == wanted
        assert gathered(table.drain()) == wanted
        assert gathered(table.drain()) == {}


def test_a_full_table_is_drained():
    with hash_map(1_009) as table:
        wanted = fill(table, 1_009)
        assert gathered(table.drain()) == wanted


def test_a_batch_smaller_than_a_bucket_grows(monkeypatch):
    monkeypatch.setattr("flowstream.kernel.maps.BATCH", 1)
    with hash_map(1_009) as table:
        wanted = fill(table, 1_009)
        assert gathered(table.drain()) == wanted


def test_a_drain_that_is_abandoned_leaves_the_rest(monkeypatch):
    monkeypatch.setattr("flowstream.kernel.maps.BATCH", 101)
    with hash_map(10_007) as table:
        wanted = fill(table, 5_003)
        taken = gathered([next(table.drain())])
        rest = gathered(table.drain())
        assert taken
        assert rest
        assert taken | rest == wanted
        assert not taken.keys() & rest.keys()


def test_the_slot_holds_the_map_that_was_put_last():
    inner = [hash_map(7), hash_map(7)]
    outer_spec = spec(libbpf.MAP_TYPE_ARRAY_OF_MAPS, value_size=4, entries=1)
    with inner[0], inner[1], MapOfMaps(outer_spec, inner_fd=inner[0].fd) as slot:
        slot.put(inner[0])
        slot.put(inner[1])
        refused = pytest.raises(KernelError, match="updating map tested")
        with Map(spec(libbpf.MAP_TYPE_ARRAY)) as other, refused:
            slot.put(other)


def test_closing_twice_is_harmless():
    table = hash_map(7)
    table.close()
    table.close()
    with pytest.raises(KernelError):
        table.get(np.array([1], U32))


@pytest.mark.parametrize(
    "make",
    [
        lambda: ArrayMap(spec(libbpf.MAP_TYPE_ARRAY), U32),
        lambda: PerCpuArray(spec(libbpf.MAP_TYPE_PERCPU_ARRAY), PAIR),
        lambda: HashMap(spec(libbpf.MAP_TYPE_HASH), U64, U64),
        lambda: HashMap(spec(libbpf.MAP_TYPE_HASH), U32, PAIR),
    ],
)
def test_a_size_that_differs_is_refused_before_the_map_is_made(make):
    with pytest.raises(LayoutError, match="octets, its accessor") as refused:
        make()
    assert "make generate" in str(refused.value)


def test_a_map_that_the_kernel_refuses():
    with pytest.raises(KernelError, match="creating map tested"):
        Map(spec(libbpf.MAP_TYPE_HASH, key_size=0))


def test_a_map_too_large_says_what_to_lower():
    with pytest.raises(KernelError, match="lower --max-flows"):
        HashMap(spec(libbpf.MAP_TYPE_HASH), U32, U64, 0xFFFF_FFFF)


def test_an_old_kernel_is_told_with_both_versions(monkeypatch):
    monkeypatch.setattr(features.os, "uname", lambda: Uname("5.4.0-150-generic"))
    with pytest.raises(KernelError, match=r"kernel 5\.4\.0-150-generic is too old.*5\.9 or later"):
        features.require_kernel()
    monkeypatch.setattr(features.os, "uname", lambda: Uname("5.10.0"))
    features.require_kernel()


class Uname:
    def __init__(self, release: str) -> None:
        self.release = release


def test_memlock_is_raised_on_kernels_that_charge_maps_to_it(monkeypatch):
    asked = []
    monkeypatch.setattr(features.resource, "setrlimit", lambda *limit: asked.append(limit))
    features.raise_memlock()
    assert asked == []
    monkeypatch.setattr(features.os, "uname", lambda: Uname("5.10.0-28-amd64"))
    features.raise_memlock()
    unlimited = features.resource.RLIM_INFINITY
    assert asked == [(features.resource.RLIMIT_MEMLOCK, (unlimited, unlimited))]


def test_no_libbpf(monkeypatch):
    monkeypatch.setattr(libbpf, "SONAME", "libbpf-nowhere.so.1")
    libbpf.library.cache_clear()
    try:
        with pytest.raises(KernelError, match=r"libbpf-nowhere\.so\.1 is missing: install"):
            libbpf.library()
    finally:
        libbpf.library.cache_clear()


def test_the_programs_maps_are_the_objects():
    """Every map that the accessors expect is in the embedded object with its size."""
    names = {each.name for each in bpf_compile.obtain("flow").maps}
    assert {"counters", "table_fill", "flow_table", "active_table", "seen_flows"} <= names
