"""Every interface has a load of its own: the work of the kernel's verifier stays small."""

from __future__ import annotations

from contextlib import ExitStack

import pytest

from flowstream.accounting.attachment_key import EGRESS, INGRESS
from flowstream.kernel import libbpf, structures
from flowstream.kernel.counter import CounterProbe
from flowstream.kernel.flow import FlowProbe
from flowstream.kernel.link import Mode
from flowstream.kernel.target import Target


@pytest.mark.parametrize("raw", [False, True])
@pytest.mark.parametrize(
    ("probe_type", "build", "mode", "direction", "most"),
    [
        (FlowProbe, {}, Mode.AUTO, INGRESS, 8_000),
        (FlowProbe, {"build": "flow_capture"}, Mode.AUTO, INGRESS, 8_000),
        (CounterProbe, {}, Mode.AUTO, INGRESS, 1_000),
        (FlowProbe, {}, Mode.TCX, INGRESS, 20_000),
        (FlowProbe, {}, Mode.TCX, EGRESS, 23_000),
        (CounterProbe, {}, Mode.TCX, INGRESS, 10_000),
        (CounterProbe, {}, Mode.TCX, EGRESS, 10_000),
    ],
)
def test_programs_are_verified_in_few_instructions(probe_type, build, mode, direction, most, raw):
    """Of all paths together; an instruction takes 0.3 µs on a quiet machine."""
    target = Target("", 1, 1, mode, direction=direction, raw=raw)
    with probe_type(max_flows=1_009, **build) as probe, ExitStack() as stack:
        program, maps = probe.creator.load(target, stack)
        for each in maps:
            stack.enter_context(each)
        processed = libbpf.object_info(structures.ProgInfo, program.fd).verified_insns
    assert 100 < processed <= most
