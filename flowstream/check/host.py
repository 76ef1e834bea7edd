"""Findings about the host: kernel, privileges, libraries, kernel programs."""

from __future__ import annotations

import importlib.metadata
import os
import subprocess
from pathlib import Path
from typing import TYPE_CHECKING, Final

from flowstream.check.finding import Finding, Status
from flowstream.errors import FlowstreamError, KernelError
from flowstream.host.kernel_version import kernel_version
from flowstream.kernel import features, libbpf
from flowstream.kernel import object as kernel_object

if TYPE_CHECKING:
    from collections.abc import Iterator

JIT: Final = Path("/proc/sys/net/core/bpf_jit_enable")


def check_host() -> Iterator[Finding]:
    """Check everything that any run on this host needs."""
    yield _kernel()
    yield _capabilities()
    yield _jit()
    yield _libbpf()
    yield from _objects()
    yield _bcc()


def _kernel() -> Finding:
    release, found = os.uname().release, kernel_version()
    needed, wanted = (".".join(map(str, v)) for v in (features.MINIMUM, features.FRAGS))
    if found < features.MINIMUM:
        text = f"{release} is too old: flowstream requires {needed} or later"
        return Finding(Status.FAIL, "kernel", text, f"install a kernel {wanted} or later")
    if found < features.FRAGS:
        text = f"{release}: packets larger than a page are not seen before {wanted}"
        return Finding(Status.WARN, "kernel", text, f"for jumbo frames install {wanted} or later")
    every = ".".join(map(str, features.TCX))
    return Finding(Status.OK, "kernel", f"{release} ({every} or later has every feature)")


def _capabilities() -> Finding:
    missing = features.missing_capabilities()
    if missing:
        remedy = "run as root, or give the process CAP_BPF, CAP_NET_ADMIN and CAP_PERFMON"
        return Finding(Status.FAIL, "capabilities", f"{', '.join(missing)} missing", remedy)
    return Finding(Status.OK, "capabilities", f"{', '.join(features.NEEDED)} or root")


def _jit() -> Finding:
    try:
        enabled = JIT.read_text(encoding="ascii").strip()
    except OSError:
        return Finding(Status.OK, "BPF JIT", "state cannot be read; kernels enable it by default")
    if enabled == "0":
        remedy = "sysctl net.core.bpf_jit_enable=1"
        return Finding(Status.WARN, "BPF JIT", "off: programs are interpreted", remedy)
    return Finding(Status.OK, "BPF JIT", "on")


def _libbpf() -> Finding:
    try:
        libbpf.library()
    except KernelError as err:
        return Finding(Status.FAIL, "libbpf", str(err), "apt-get install libbpf1")
    return Finding(Status.OK, "libbpf", f"{libbpf.SONAME} found")


def _objects() -> Iterator[Finding]:
    for name in ("flow", "counter"):
        try:
            order = kernel_object.embedded(name).byte_order
        except FlowstreamError as err:
            yield Finding(Status.FAIL, f"program {name}", str(err))
        else:
            text = f"embedded object, {order}-endian like this host"
            yield Finding(Status.OK, f"program {name}", text)


def _bcc() -> Finding:
    """Report whether bcc is installed; only rebuilding the kernel programs requires it."""
    if _unrelated_bcc():
        text = "PyPI's unrelated package bcc is installed beside flowstream"
        return Finding(Status.WARN, "bcc", text, "pip uninstall bcc")
    command = ["/usr/bin/python3", "-I", "-c", "import bcc; bcc.BPF; print(bcc.__version__)"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=20, check=False)
    except (OSError, subprocess.TimeoutExpired):
        done = None
    if done is None or done.returncode != 0:
        text = "not installed; only rebuilding the programs requires it"
        return Finding(Status.OK, "bcc", text)
    return Finding(Status.OK, "bcc", f"{done.stdout.strip()}; only for rebuilding the programs")


def _unrelated_bcc() -> bool:
    """Whether this Python's bcc is a package other than the BPF compiler collection."""
    try:
        files = importlib.metadata.files("bcc") or []
    except importlib.metadata.PackageNotFoundError:
        return False
    return not any(file.name == "libbcc.py" for file in files)
