"""Maps, programs and links behind descriptors that somebody else opened."""

from __future__ import annotations

import json
import mmap
import os
import socket
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from packets.build import ether, ip4, udp
from support.net import namespace, veth_pair
from support.programs import FlowBench
from support.traffic import wait_until

from flowstream.errors import KernelError, LayoutError
from flowstream.kernel import libbpf, structures
from flowstream.kernel import object as kernel_object
from flowstream.kernel.counter import CounterProbe
from flowstream.kernel.flow import FlowProbe
from flowstream.kernel.link import Link, Mode
from flowstream.kernel.map import Map
from flowstream.kernel.maps import ArrayMap, HashMap, MapOfMaps, PerCpuArray
from flowstream.kernel.object import MapSpec
from flowstream.kernel.program import Program
from flowstream.kernel.ringbuf import RingBuffer
from flowstream.layouts.flow import FLOW_RECORD

U32, U64 = np.dtype(np.uint32), np.dtype(np.uint64)
PAIR = np.dtype([("left", np.uint64), ("right", np.uint64)])
PACKET = ether(0x0800, ip4(17, udp()))
PAGE = mmap.PAGESIZE


def spec(kind: int, key_size: int = 4, value_size: int = 8, entries: int = 16) -> MapSpec:
    return MapSpec("tested", kind, key_size, value_size, entries, 0)


def is_open(fd: int) -> bool:
    return Path(f"/proc/self/fd/{fd}").exists()


def test_every_kind_of_map_works_by_a_descriptor():
    key = np.array([3], U32)
    with HashMap(spec(libbpf.MAP_TYPE_HASH), U32, U64, 7) as made:
        made.update(key, np.array([1_009], U64))
        with HashMap.from_fd(os.dup(made.fd), spec(libbpf.MAP_TYPE_HASH), U32, U64, 7) as same:
            assert same.fd != made.fd
            assert same.get(key).tolist() == [1_009]
            assert [keys.tolist() for keys, _ in same.drain()] == [[3]]
        assert made.get(key) is None
        outer = spec(libbpf.MAP_TYPE_ARRAY_OF_MAPS, value_size=4, entries=1)
        with (
            MapOfMaps(outer, inner_fd=made.fd) as slot,
            MapOfMaps.from_fd(os.dup(slot.fd), outer) as same_slot,
        ):
            same_slot.put(made)
    with ArrayMap(spec(libbpf.MAP_TYPE_ARRAY), U64) as array:
        array.write(np.array([101], U64), 3)
        with ArrayMap.from_fd(os.dup(array.fd), spec(libbpf.MAP_TYPE_ARRAY), U64) as same_array:
            assert same_array.read(3).tolist() == [101]
    per_cpu = spec(libbpf.MAP_TYPE_PERCPU_ARRAY)
    with PerCpuArray(per_cpu, U64) as counts:
        counts.update(key, np.full(libbpf.possible_cpus(), 7, U64))
        with PerCpuArray.from_fd(os.dup(counts.fd), per_cpu, U64) as same_counts:
            assert same_counts.total(3) == {"": 7 * libbpf.possible_cpus()}


def test_a_ring_is_read_by_a_descriptor():
    with FlowBench(max_flows=1) as bench:
        bench.run(ether(0x0800, ip4(17, udp(), src="192.0.2.1")))
        bench.run(PACKET, repeat=101)
        ring = bench.probe.overflow.raw
        ring_spec = kernel_object.embedded("flow").map("overflow")
        with RingBuffer.from_fd(os.dup(ring.fd), ring_spec, FLOW_RECORD, ring.size) as same:
            assert len(same.read(47)) == 47
        # The position is the ring's, whichever descriptor it is read by.
        assert len(ring.read(1_009)) == 101 - 47


@pytest.mark.parametrize(
    ("expected", "difference"),
    [
        (spec(libbpf.MAP_TYPE_ARRAY), "type 1, expected 2"),
        (spec(libbpf.MAP_TYPE_HASH, key_size=8), "key_size 4, expected 8"),
        (spec(libbpf.MAP_TYPE_HASH, value_size=16), "value_size 8, expected 16"),
        (spec(libbpf.MAP_TYPE_HASH, entries=17), "max_entries 16, expected 17"),
    ],
)
def test_a_map_that_differs_is_refused(expected, difference):
    with Map(spec(libbpf.MAP_TYPE_HASH)) as made:
        fd = os.dup(made.fd)
        with pytest.raises(LayoutError) as refused:
            Map.from_fd(fd, expected)
        assert str(refused.value) == f"map tested: its descriptor has {difference}"
        assert not is_open(fd)


def test_an_accessor_that_differs_from_the_declaration_is_refused():
    with Map(spec(libbpf.MAP_TYPE_HASH)) as made:
        fd = os.dup(made.fd)
        with pytest.raises(LayoutError, match="8 octets, its accessor 16"):
            HashMap.from_fd(fd, spec(libbpf.MAP_TYPE_HASH), U32, PAIR)
        assert not is_open(fd)


def test_a_ring_of_another_size_is_refused():
    ring_spec = MapSpec("ring", libbpf.MAP_TYPE_RINGBUF, 0, 0, 0, 0)
    with RingBuffer(ring_spec, U64, PAGE) as ring:
        fd = os.dup(ring.fd)
        with pytest.raises(LayoutError, match=r"max_entries 4096, expected 8192"):
            RingBuffer.from_fd(fd, ring_spec, U64, 2 * PAGE)
        assert not is_open(fd)


def test_a_descriptor_of_another_kind_is_refused():
    program_spec = kernel_object.embedded("flow").program("xdp_flow")
    with FlowBench() as bench, Path(os.devnull).open() as file:
        with pytest.raises(LayoutError, match=r"bpf-prog.*, not a bpf-map"):
            Map.from_fd(os.dup(bench.program.fd), spec(libbpf.MAP_TYPE_HASH))
        with pytest.raises(LayoutError, match="/dev/null, not a bpf-map"):
            Map.from_fd(os.dup(file.fileno()), spec(libbpf.MAP_TYPE_HASH))
        with pytest.raises(LayoutError, match=r"bpf-map.*, not a bpf-prog"):
            Program.from_fd(os.dup(bench.probe.wakeups.fd), program_spec)
        with pytest.raises(LayoutError, match=r"bpf-map.*, not a bpf-link"):
            Link.from_fd(os.dup(bench.probe.wakeups.fd), 3, Mode.NATIVE)
    with pytest.raises(KernelError, match="descriptor 9999: No such file"):
        libbpf.object_info(structures.MapInfo, 9999)


def test_a_program_runs_by_a_descriptor_and_has_its_name():
    flow = kernel_object.embedded("flow").program("xdp_flow")
    counter = kernel_object.embedded("counter").program("count_ipv4")
    with FlowBench() as bench:
        with Program.from_fd(os.dup(bench.program.fd), flow) as same:
            assert (same.id, same.name) == (bench.program.id, "xdp_flow")
        fd = os.dup(bench.program.fd)
        with pytest.raises(LayoutError, match="name xdp_flow, expected count_ipv4"):
            Program.from_fd(fd, counter)
        assert not is_open(fd)


def test_a_link_is_held_and_ended_by_a_descriptor():
    with namespace() as place, veth_pair(place) as (_, device), place.entered():
        probe = CounterProbe(max_flows=101)
        attachment = probe.attach(device.name, Mode.NATIVE)
        fd = os.dup(attachment._link.fd)
        with pytest.raises(LayoutError) as refused:
            Link.from_fd(os.dup(fd), device.index + 1, Mode.NATIVE)
        assert str(refused.value) == (
            f"link: its descriptor has interface index {device.index}, expected {device.index + 1}"
        )
        link = Link.from_fd(fd, device.index, Mode.NATIVE)
        probe.close()
        # The link's last descriptor keeps the program there.
        attached = libbpf.attached_program(device.index)
        assert attached is not None
        assert attached[1] == "count_ipv4"
        link.close()
        assert wait_until(lambda: libbpf.attached_program(device.index) is None)


def test_descriptors_serve_an_unprivileged_process():
    """Passed by SCM_RIGHTS to a process without capabilities, as an attacher would do."""
    helper = Path(__file__).with_name("support") / "descriptors.py"
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_STREAM)
    with (
        namespace() as place,
        veth_pair(place) as (_, device),
        place.entered(),
        FlowProbe(max_flows=101) as probe,
        probe.attach(device.name, Mode.NATIVE) as attachment,
        FlowBench(max_flows=1) as bench,
        ours,
    ):
        bench.run(ether(0x0800, ip4(17, udp(), src="192.0.2.1")))
        bench.run(PACKET, repeat=11)
        link = attachment._link
        sent = [probe.tables.maps[0].fd, bench.probe.overflow.fd, attachment.program.fd, link.fd]
        command = [sys.executable, helper, str(theirs.fileno()), str(link.index)]
        with subprocess.Popen(
            command, pass_fds=[theirs.fileno()], stdout=subprocess.PIPE
        ) as process:
            theirs.close()
            socket.send_fds(ours, [b"fds"], sent)
            output, _ = process.communicate(timeout=60)
        assert process.returncode == 0
        assert json.loads(output) == {
            "capabilities": [],
            "drained": 3,
            "read": 11,
            "program": "xdp_flow",
            "link": device.index,
        }
