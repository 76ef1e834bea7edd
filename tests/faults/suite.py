"""All faults, by the kind of their cluster: each kind runs once."""

from __future__ import annotations

from faults import answers, host, network, secure

FAULTS = sorted(
    [*network.FAULTS, *answers.FAULTS, *secure.FAULTS, *host.FAULTS],
    key=lambda fault: fault.cluster,
)
