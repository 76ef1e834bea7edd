"""What this host, its interfaces and the sink have and lack: a line each, with the remedy.

Nothing is attached, created or changed.
"""

from __future__ import annotations

import asyncio
import enum
import importlib.metadata
import os
import subprocess
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final

from flowstream.errors import FlowstreamError, KernelError, SinkError
from flowstream.host.interfaces import InterfaceFacts, XdpFeature, facts
from flowstream.kernel import features, libbpf
from flowstream.kernel import object as kernel_object
from flowstream.kernel.link import interface_names
from flowstream.streams import Stream
from flowstream.urls import DirectoryUrl, KafkaUrl, StdoutUrl, parse_url

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

_BROKER_TIMEOUT_S: Final = 5.0
_JIT: Final = Path("/proc/sys/net/core/bpf_jit_enable")
# A driver without support for several buffers needs the whole frame in one
# page of 4096: less 256 of headroom, the shared info and the Ethernet header.
_LARGEST_MTU_OF_ONE_BUFFER: Final = 3_498


class Status(enum.StrEnum):
    """How a finding turned out: WARN works, less well; FAIL does not work."""

    OK = "ok"
    WARN = "warn"
    FAIL = "fail"


@dataclass(frozen=True, slots=True)
class Finding:
    """One line: what was looked at, how it is, and what to do about it ("" for nothing)."""

    status: Status
    subject: str
    text: str
    remedy: str = ""


def check(interfaces: Sequence[str], sink: str | None, topic_prefix: str) -> Iterator[Finding]:
    """Look at the host, then at these interfaces, then at the sink.

    Raises UsageError when ``sink`` is no URL of a sink.
    """
    where = None if sink is None else parse_url(sink)
    yield from _host()
    for name in interfaces:
        found = facts(name)
        if found is None:
            text = f"no such interface; there are: {interface_names()}"
            yield Finding(Status.FAIL, name, text)
        else:
            yield from _interface(found)
    match where:
        case KafkaUrl():
            yield from _kafka(where, [f"{topic_prefix}.{stream}" for stream in Stream])
        case DirectoryUrl(path=path):
            yield _directory(path)
        case StdoutUrl():
            yield Finding(Status.OK, "stdout:", "takes JSON lines")


def _host() -> Iterator[Finding]:
    yield _kernel()
    yield _capabilities()
    yield _jit()
    yield _libbpf()
    yield from _objects()
    yield _bcc()


def _kernel() -> Finding:
    release, found = os.uname().release, features.kernel_version()
    needed, wanted = (".".join(map(str, v)) for v in (features.MINIMUM, features.FRAGS))
    if found < features.MINIMUM:
        text = f"{release} is too old: at least {needed} is needed"
        return Finding(Status.FAIL, "kernel", text, f"install a kernel {wanted} or later")
    if found < features.FRAGS:
        text = f"{release}: frames larger than a page are not seen before {wanted}"
        return Finding(Status.WARN, "kernel", text, f"for jumbo frames install {wanted} or later")
    return Finding(Status.OK, "kernel", f"{release} ({wanted} has everything needed)")


def _capabilities() -> Finding:
    missing = features.missing_capabilities()
    if missing:
        remedy = "run as root, or give the process CAP_BPF, CAP_NET_ADMIN and CAP_PERFMON"
        return Finding(Status.FAIL, "capabilities", f"{', '.join(missing)} missing", remedy)
    return Finding(Status.OK, "capabilities", f"{', '.join(features.NEEDED)} or root")


def _jit() -> Finding:
    try:
        enabled = _JIT.read_text(encoding="ascii").strip()
    except OSError:
        return Finding(Status.OK, "BPF JIT", "not to be read here; kernels have it on by default")
    if enabled == "0":
        remedy = "sysctl net.core.bpf_jit_enable=1"
        return Finding(Status.WARN, "BPF JIT", "off: every packet is interpreted", remedy)
    return Finding(Status.OK, "BPF JIT", "on")


def _libbpf() -> Finding:
    try:
        libbpf.library()
    except KernelError as err:
        return Finding(Status.FAIL, "libbpf", str(err), "apt-get install libbpf1")
    return Finding(Status.OK, "libbpf", f"{libbpf.SONAME} found")


def _objects() -> Iterator[Finding]:
    for name in ("xdp_flow", "xdp_counter"):
        try:
            order = kernel_object.embedded(name).byte_order
        except FlowstreamError as err:
            yield Finding(Status.FAIL, name, str(err))
        else:
            yield Finding(Status.OK, name, f"embedded object, {order}-endian as this host")


def _bcc() -> Finding:
    """Say whether bcc is there: only a rebuild of the kernel programs needs it."""
    if _unrelated_bcc():
        text = "PyPI's unrelated package bcc is installed beside flowstream"
        return Finding(Status.WARN, "bcc", text, "pip uninstall bcc")
    command = ["/usr/bin/python3", "-I", "-c", "import bcc; bcc.BPF; print(bcc.__version__)"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=20, check=False)
    except (OSError, subprocess.TimeoutExpired):
        done = None
    if done is None or done.returncode != 0:
        return Finding(Status.OK, "bcc", "not there; only a rebuild of the programs needs it")
    return Finding(Status.OK, "bcc", f"{done.stdout.strip()}; only needed for a rebuild")


def _unrelated_bcc() -> bool:
    """Whether the bcc that this Python would import is not the BPF compiler collection."""
    try:
        files = importlib.metadata.files("bcc") or []
    except importlib.metadata.PackageNotFoundError:
        return False
    return not any(file.name == "libbcc.py" for file in files)


def _interface(found: InterfaceFacts) -> Iterator[Finding]:
    name = found.name
    if not found.ethernet:
        text = "has no Ethernet header, which the programs read"
        yield Finding(Status.FAIL, name, text, "take the interface that carries its frames")
    if found.up:
        yield Finding(Status.OK, name, f"is up, MTU {found.mtu}")
    else:
        yield Finding(Status.WARN, name, "is down", f"ip link set dev {name} up")
    yield _native(found)
    yield _tags(found)
    yield _attached(found)


def _native(found: InterfaceFacts) -> Finding:
    if found.xdp_features is None:
        text = "this kernel does not say whether the driver has native XDP; mode auto finds out"
        return Finding(Status.OK, found.name, text)
    if not found.xdp_features & XdpFeature.BASIC:
        text = "the driver has no native XDP"
        return Finding(Status.WARN, found.name, text, "modes auto and generic work, slower")
    if found.mtu > _LARGEST_MTU_OF_ONE_BUFFER and not found.xdp_features & XdpFeature.RX_SG:
        text = f"the driver has native XDP for frames in one page only, and its MTU is {found.mtu}"
        remedy = f"ip link set dev {found.name} mtu {_LARGEST_MTU_OF_ONE_BUFFER}, or mode generic"
        return Finding(Status.WARN, found.name, text, remedy)
    return Finding(Status.OK, found.name, "the driver has native XDP")


def _tags(found: InterfaceFacts) -> Finding:
    if found.kind == "veth":
        # Its own switches do nothing: the peer's stack leaves the tag beside the frame.
        text = "VLAN tags reach XDP if the peer has them in the frame"
        return Finding(Status.OK, found.name, text, "for that, ethtool -K PEER txvlan off")
    if not found.rx_vlan_offloads:
        return Finding(Status.OK, found.name, "VLAN tags reach XDP")
    text = "VLAN tags are taken off before XDP sees the frame: vlan_id will be 0"
    switches = " ".join(f"{offload} off" for offload in found.rx_vlan_offloads)
    return Finding(Status.WARN, found.name, text, f"ethtool -K {found.name} {switches}")


def _attached(found: InterfaceFacts) -> Finding:
    try:
        program = libbpf.attached_program(found.index)
    except KernelError as err:
        return Finding(Status.WARN, found.name, f"XDP program unknown: {err}")
    if program is None:
        return Finding(Status.OK, found.name, "no XDP program attached")
    text = f"XDP program {program[1]} (id {program[0]}) is attached"
    remedy = f"stop its owner, or, if it has none: ip link set dev {found.name} xdp off"
    return Finding(Status.FAIL, found.name, text, remedy)


def _kafka(url: KafkaUrl, topics: list[str]) -> Iterator[Finding]:
    # aiokafka takes a tenth of a second to import and only this needs it.
    from flowstream.kafka.admin import partition_counts  # noqa: PLC0415

    try:
        counts = asyncio.run(partition_counts(url.addresses, topics, _BROKER_TIMEOUT_S))
    except SinkError as err:
        yield Finding(Status.FAIL, str(url), f"no broker: {err}", "start one or correct the URL")
        return
    yield Finding(Status.OK, str(url), "a broker answers")
    for topic, count in counts.items():
        text = f"{count} partitions" if count else "does not exist yet; run creates it"
        yield Finding(Status.OK, f"topic {topic}", text)


def _directory(path: Path) -> Finding:
    """Say whether a recording can be made: in the nearest directory that exists."""
    subject = f"file:{path}"
    try:
        nearest = next(p for p in (path, *path.absolute().parents) if p.exists())
    except OSError as err:
        return Finding(Status.FAIL, subject, f"{err.strerror}", "choose another path")
    if not nearest.is_dir():
        return Finding(Status.FAIL, subject, f"{nearest} is no directory", "choose another path")
    if not os.access(nearest, os.W_OK | os.X_OK, effective_ids=True):
        return Finding(Status.FAIL, subject, f"{nearest} cannot be written to", "change its mode")
    state = "is there" if nearest == path else "can be made"
    return Finding(Status.OK, subject, state)
