"""The ring buffer reader, on a ring that the real program fills and on one made to order."""

from __future__ import annotations

import mmap
import resource
import threading
from pathlib import Path

import numpy as np
import pytest
from packets.build import ether, ip4, udp
from support.programs import FlowBench, run_packet

from flowstream.errors import KernelError, LayoutError
from flowstream.kernel import compile as bpf_compile
from flowstream.kernel import counter, flow, flow_maps, libbpf
from flowstream.kernel.counter import CounterProbe
from flowstream.kernel.link import Mode
from flowstream.kernel.object import MapSpec
from flowstream.kernel.ringbuf import BUSY, DISCARD, HEADER_SIZE, RingBuffer
from flowstream.layouts.flow import FLOW_RECORD

SPEC = MapSpec("ring", libbpf.MAP_TYPE_RINGBUF, 0, 0, 0, 0)
WORD = np.dtype(np.uint32)
STRIDE = HEADER_SIZE + 8
PAGE = mmap.PAGESIZE


class Made(RingBuffer):
    """The reader over memory of the test's own: every state of a ring can be written.

    The memory is laid out as the kernel's: a page with the consumer's position,
    one with the producer's, then the data, twice.
    """

    def __init__(self, position: int = 0, page: int = PAGE) -> None:
        self.memory = np.zeros(2 * page + 2 * page, np.uint8)
        self.position, self.page = position, page
        super().__init__(SPEC, WORD, page)
        for at in (0, page):
            self.memory[at : at + 8].view(np.uint64)[0] = position

    def _map(self, offset: int, length: int, access: int = 0) -> np.ndarray:
        return self.memory[offset : offset + length]

    def reserve(self, value: int, header: int = WORD.itemsize) -> int:
        """Add a record; return where its header stands."""
        octets = np.array([header, 0, value, 0], np.uint32).view(np.uint8)
        page = self.page
        place = 2 * page + (self.position & (page - 1))
        for at in (place, place + page):
            end = min(at + STRIDE, len(self.memory))
            self.memory[at:end] = octets[: end - at]
        # What lies past the end of the first copy stands at the data's beginning, too.
        self.memory[2 * page : 2 * page + STRIDE] = self.memory[3 * page : 3 * page + STRIDE]
        self.position += STRIDE
        self.memory[page : page + 8].view(np.uint64)[0] = self.position
        return place


class Steps:
    """A lock in whose sections only one part of the ring is readable each, and nothing outside."""

    def __init__(self, made: Made, *parts: list[slice]) -> None:
        self.made, self.parts = made, iter(parts)
        self.written = made.memory.copy()
        self.consumed: list[int] = []

    def __enter__(self) -> None:
        self.consumed.append(int(self.made._consumed[0]))
        for part in next(self.parts):
            self.made.memory[part] = self.written[part]

    def __exit__(self, *exc: object) -> None:
        self.made.memory[PAGE:] = 0xFF


def frame(number: int) -> bytes:
    return ether(0x0800, ip4(17, udp(), src=f"192.0.{number // 251}.{number % 251}"))


def test_records_come_in_order():
    made = Made()
    for value in range(101):
        made.reserve(value)
    assert made.pending() == 101 * STRIDE
    assert made.read(7).tolist() == list(range(7))
    assert made.read(1_009).tolist() == list(range(7, 101))
    assert made.read(1_009).tolist() == []
    assert made.pending() == 0


def test_what_was_read_stays_when_the_ring_is_written_again():
    made = Made()
    made.reserve(7)
    taken = made.read(1)
    made.memory[2 * PAGE :] = 0xFF
    assert taken.tolist() == [7]


def test_a_reserved_record_holds_up_those_behind_it():
    made = Made()
    made.reserve(3)
    place = made.reserve(5, header=WORD.itemsize | BUSY)
    made.reserve(7)
    assert made.read(10).tolist() == [3]
    assert made.read(10).tolist() == []
    made.memory[place : place + 4] = np.array([WORD.itemsize], np.uint32).view(np.uint8)
    assert made.read(10).tolist() == [5, 7]


def test_each_step_of_reading_has_a_critical_section_of_its_own():
    """What orders them on arm64 is a release of the lock and an acquisition between two steps."""
    made = Made()
    places = [made.reserve(value) for value in (3, 5, 7)]
    produced = [slice(PAGE, PAGE + 8)]
    headers = [slice(place, place + HEADER_SIZE) for place in places]
    data = [slice(place + HEADER_SIZE, place + STRIDE) for place in places]
    made._lock = Steps(made, produced, headers, data, [])
    assert made.read(10).tolist() == [3, 5, 7]
    assert made._lock.consumed == [0, 0, 0, 0]
    assert made._consumed[0] == made.position


def test_discarded_records_are_passed_over():
    made = Made()
    for value in range(20):
        made.reserve(value, WORD.itemsize | (DISCARD if value % 3 else 0))
    assert made.read(100).tolist() == [0, 3, 6, 9, 12, 15, 18]
    assert made.pending() == 0


def test_nothing_but_discarded_records():
    made = Made()
    made.reserve(1, WORD.itemsize | DISCARD)
    assert made.read(100).tolist() == []
    assert made.pending() == 0


@pytest.mark.parametrize("length", [0, 3, 8, 203])
def test_a_record_of_another_length_is_a_layout_error(length):
    made = Made()
    made.reserve(1)
    made.reserve(2, header=length)
    with pytest.raises(LayoutError, match=f"a record of {length} octets, its accessor has 4"):
        made.read(10)


def test_positions_past_every_power_of_two():
    made = Made(position=(1 << 33) - 2 * STRIDE)
    for value in range(7):
        made.reserve(value)
    assert made.read(10).tolist() == list(range(7))


@pytest.fixture(params=[1 << 14, 1 << 16])
def larger_page(request, monkeypatch):
    """arm64 has pages of 4, 16 or 64 KiB."""
    monkeypatch.setattr(mmap, "PAGESIZE", request.param)
    return request.param


def test_a_ring_of_larger_pages(larger_page):
    whole = larger_page // STRIDE
    made = Made(position=(1 << 20) - 7 * STRIDE, page=larger_page)
    for first in range(0, 3 * whole, whole - 1):
        for value in range(first, first + whole - 1):
            made.reserve(value)
        assert made.read(whole).tolist() == list(range(first, first + whole - 1))


def test_rings_have_whole_pages_on_every_machine():
    sizes = [
        flow_maps.OVERFLOW_SIZE, flow_maps.ANNOUNCEMENTS_SIZE, flow.WAKEUPS_SIZE,
        counter.EVENTS_SIZE,
    ]  # fmt: skip
    assert [size % (1 << 16) for size in sizes] == [0, 0, 0, 0]
    assert [size.bit_count() for size in sizes] == [1, 1, 1, 1]


def test_the_real_ring_goes_round_many_times():
    """203 octets are no divisor of the size: records wrap at every place."""
    with FlowBench(max_flows=1) as bench:
        bench.run(frame(0))
        ring = bench.probe.overflow.raw
        whole = ring.size // ring.stride
        rounds, each = 3, whole // 2 + 11
        for number in range(2 * rounds):
            bench.run(frame(number + 1), repeat=each)
            records = np.concatenate([ring.read(1_009) for _ in range(each // 1_009 + 1)])
            assert len(records) == each
            assert (records["src_addr"] == records["src_addr"][0]).all()
            assert records["src_addr"][0, -1] == number + 1
        assert ring.pending() == 0
        assert bench.counters()["overflow_lost_packets"] == 0


def test_a_full_real_ring_loses_and_counts():
    with FlowBench(max_flows=1) as bench:
        bench.run(frame(0))
        ring = bench.probe.overflow.raw
        room = ring.size // ring.stride
        sent = room + 10_007
        bench.run(frame(1), repeat=sent)
        records = ring.read(2 * sent)
        counts = bench.counters()
        assert len(records) == counts["overflow_packets"]
        assert counts["overflow_packets"] + counts["overflow_lost_packets"] == sent
        assert counts["overflow_lost_packets"] >= 10_007
        # And room again afterwards.
        bench.run(frame(2))
        assert ring.read(10)["src_addr"][0, -1] == 2


def test_a_discarded_record_of_the_real_program():
    """A source that finds no room gives its announcement back."""
    with CounterProbe(max_flows=3) as kernel, kernel.maps(if_index=7) as maps:
        for number in range(7):
            run_packet(maps.program, frame(number))
        assert len(maps.new_flow_events.read(100)) == 3
        assert maps.new_flow_events.pending() == 0


def test_close_from_another_thread_ends_the_reading():
    with FlowBench(max_flows=1) as bench:
        bench.run(frame(0))
        bench.run(frame(1), repeat=10_007)
        ring = bench.probe.overflow.raw
        reading, faults, taken = threading.Event(), [], []

        def read() -> None:
            try:
                while ring.fd >= 0:
                    taken.append(len(ring.read(1)))
                    reading.set()
            except Exception as err:  # noqa: BLE001 - whatever it is, the test must see it
                faults.append(err)

        thread = threading.Thread(target=read)
        thread.start()
        assert reading.wait(60)
        ring.close()
        thread.join(60)
        assert not thread.is_alive()
        assert faults == []
        assert 0 < sum(taken) <= 10_007
        assert ring.read(10).dtype == FLOW_RECORD
        assert len(ring.read(10)) == 0
        assert ring.pending() == 0


def test_reading_takes_no_descriptor():
    with FlowBench(max_flows=1) as bench:
        bench.run(frame(0))
        bench.run(frame(1), repeat=101)
        limits = resource.getrlimit(resource.RLIMIT_NOFILE)
        descriptors = Path("/proc/self/fd")
        before = len(list(descriptors.iterdir()))
        resource.setrlimit(resource.RLIMIT_NOFILE, (3, limits[1]))
        try:
            taken = len(bench.probe.overflow.read(1_009))
        finally:
            resource.setrlimit(resource.RLIMIT_NOFILE, limits)
        assert taken == 101
        rings = [ring.raw for ring in bench.probe.rings]
        for ring in rings:
            ring.close()
        assert len(list(descriptors.iterdir())) == before - len(rings)


def mappings():
    return Path("/proc/self/maps").read_text(encoding="utf-8").count("bpf-map")


def test_a_closed_ring_keeps_no_mapping():
    before = mappings()
    ring = RingBuffer(SPEC, WORD, PAGE)
    assert mappings() == before + 2
    ring.close()
    assert mappings() == before
    # The positions stay what they were.
    assert (ring.produced, ring.consumed, ring.pending(), len(ring.read(1))) == (0, 0, 0, 0)


def test_a_removed_attachment_keeps_no_mapping(wire):
    before = mappings()
    with CounterProbe(max_flows=16) as probe, wire.receiver.namespace.entered():
        attachment = probe.attach(wire.receiver.name, Mode.GENERIC)
        assert mappings() == before + 2
        attachment.close()
        assert mappings() == before
        # The number of a closed descriptor may be another file's by now.
        assert [ring.fd for ring in attachment.rings] == [-1]


def test_closing_twice_is_harmless():
    ring = RingBuffer(SPEC, WORD, PAGE)
    ring.close()
    ring.close()
    assert len(ring.read(1)) == 0


@pytest.mark.parametrize("size", [0, 1, PAGE // 2, 3 * PAGE])
def test_a_size_that_no_ring_can_have(size):
    with pytest.raises(KernelError, match="not a power of two"):
        RingBuffer(SPEC, WORD, size)


def test_what_cannot_be_mapped_gives_its_descriptor_back(monkeypatch):
    closed = []
    close = RingBuffer.close
    monkeypatch.setattr(RingBuffer, "close", lambda self: (closed.append(self.fd), close(self)))
    array = MapSpec("ring", libbpf.MAP_TYPE_ARRAY, 4, 4, 4096, 0)
    with pytest.raises(KernelError, match="mapping ring ring"):
        RingBuffer(array, WORD, PAGE)
    assert len(closed) == 1
    assert closed[0] >= 0


def test_the_object_and_the_accessor_agree_on_the_record():
    assert bpf_compile.obtain("flow").map("overflow").type == libbpf.MAP_TYPE_RINGBUF
    assert FLOW_RECORD.itemsize % 8, "if it were, no padding would be tested here"
