"""Compiles kernel programs on a big-endian machine, an emulated one."""

from __future__ import annotations

import shutil
import subprocess
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import msgspec

from flowstream.errors import CompileError
from flowstream.kernel import compile as bpf_compile

if TYPE_CHECKING:
    from collections.abc import Iterable

    from flowstream.kernel.object import KernelObject

SCRIPT: Final = Path(__file__).with_name("compile-big-endian.sh")
EMULATOR: Final = "qemu-system-s390x"


def big_endian(names: Iterable[str]) -> list[KernelObject]:
    """Compile builds (``kernel.compile.BUILDS``); CompileError where that is not possible."""
    builds = {name: bpf_compile.BUILDS[name] for name in names}
    if not builds:
        return []
    if shutil.which(EMULATOR) is None:
        raise CompileError(
            f"objects for big-endian hosts ({', '.join(builds)}) need {EMULATOR}: "
            "apt-get install qemu-system-misc, then make generate"
        )
    with tempfile.TemporaryDirectory() as place:
        lines = [f"{' '.join((name, b.source, *b.defines))}\n" for name, b in builds.items()]
        Path(place, "builds").write_text("".join(lines), encoding="utf-8")
        if subprocess.run([SCRIPT, place], check=False).returncode:
            raise CompileError(f"compiling for big-endian hosts failed ({', '.join(builds)})")
        return [
            bpf_compile.to_object(name, _decode(Path(place, f"{name}.json").read_bytes()))
            for name in builds
        ]


def _decode(data: bytes) -> dict[str, Any]:
    return msgspec.json.decode(data, type=dict[str, Any])
