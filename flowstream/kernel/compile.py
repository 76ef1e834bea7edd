"""From C source to object: bcc in a short-lived child process, with a cache.

The agent never imports bcc: that costs 0.3 to 2.6 s and 125 MB, and bcc is
installed for the distribution's Python. PyPI's ``bcc`` is an unrelated package.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import shutil
import stat
import subprocess
import sys
from pathlib import Path
from typing import Any, NamedTuple

import msgspec

from flowstream.errors import CompileError, LayoutError
from flowstream.kernel import cache
from flowstream.kernel import object as kernel_object
from flowstream.kernel.bcc_child import LAYOUT_PREFIX, WRONG_BCC
from flowstream.kernel.object import KernelObject, MapSpec

SOURCE_DIR = Path(__file__).resolve().parents[2] / "bpf"
CHILD = Path(__file__).with_name("bcc_child.py")
COMPILE_TIMEOUT_S = 60.0
REMEDY = "install Debian's python3-bpfcc (PyPI's bcc is an unrelated package: pip uninstall bcc)"


class Build(NamedTuple):
    """The input of a compilation: ``bpf/SOURCE.c`` with preprocessor definitions."""

    source: str
    defines: tuple[str, ...] = ()


BUILDS = {
    "counter": Build("counter"),
    "flow": Build("flow"),
    "flow_capture": Build("flow", ("CAPTURE",)),
}
"""Every embedded object by its name."""


def source_digest(name: str) -> str:
    """SHA-256 over the object's source, every header and the definitions."""
    build = BUILDS[name]
    digest = hashlib.sha256()
    for path in (SOURCE_DIR / f"{build.source}.c", *sorted(SOURCE_DIR.rglob("*.h"))):
        digest.update(f"{path.relative_to(SOURCE_DIR)}\0".encode())
        digest.update(path.read_bytes())
    digest.update("\0".join(build.defines).encode())
    return digest.hexdigest()


def obtain(name: str) -> KernelObject:
    """Return the object ``name`` of BUILDS: embedded, cached, or compiled now.

    The embedded one is used unless the package is in a checkout whose sources differ.
    Raises CompileError when anyone but the package's owner may write to the sources.
    """
    if not _in_checkout():
        return kernel_object.embedded(name)
    digest = source_digest(name)
    with contextlib.suppress(LayoutError):
        obj = kernel_object.embedded(name)
        if obj.source_digest == digest:
            return obj
    _require_trust()
    cached = cache.load(name, digest)
    if cached is not None:
        return cached
    obj = compile_object(name)
    cache.store(obj)
    return obj


def compile_object(name: str) -> KernelObject:
    """Compile an object with bcc; CompileError with clang's messages on failure."""
    return to_object(name, compile_raw(name))


def compile_raw(name: str, *defines: str) -> dict[str, Any]:
    """Return what bcc_child prints: programs, maps with descriptors, byte order."""
    build = BUILDS[name]
    source = SOURCE_DIR / f"{build.source}.c"
    if not source.is_file():
        raise CompileError(f"no source {source} to compile")
    found = []
    for python in _interpreters():
        command = [python, "-I", str(CHILD), str(source), str(SOURCE_DIR)]
        command += [str(SOURCE_DIR / "include"), *build.defines, *defines]
        try:
            done = subprocess.run(
                command, capture_output=True, check=False, timeout=COMPILE_TIMEOUT_S
            )
        except subprocess.TimeoutExpired as err:
            raise CompileError(f"bcc took over {COMPILE_TIMEOUT_S:.0f} s for {source}") from err
        messages = done.stderr.decode(errors="replace").strip()
        if done.returncode == WRONG_BCC:
            found.append(messages.splitlines()[-1])
            continue
        if done.returncode != 0:
            raise CompileError(f"bcc refused {source}:\n{messages}")
        return msgspec.json.decode(done.stdout, type=dict[str, Any])
    raise CompileError(
        f"no Python with the BPF compiler collection: {REMEDY} ({'; '.join(found)})"
    )


def to_object(name: str, raw: dict[str, Any]) -> KernelObject:
    """Turn bcc_child's answer into an object."""
    maps = [entry for entry in raw["maps"] if not entry["name"].startswith(LAYOUT_PREFIX)]
    names = {entry["fd"]: entry["name"] for entry in maps}
    fields = MapSpec.__struct_fields__
    order = raw["byte_order"]
    return KernelObject(
        name=name,
        byte_order=order,
        source_digest=source_digest(name),
        programs=[
            kernel_object.scan(program, bytes.fromhex(code), names, order)
            for program, code in raw["programs"].items()
        ],
        maps=sorted(
            (MapSpec(**{field: entry[field] for field in fields}) for entry in maps),
            key=lambda spec: spec.name,
        ),
    )


def _interpreters() -> list[str]:
    """Interpreters to try, the distribution's first, without duplicates."""
    candidates = ["/usr/bin/python3", shutil.which("python3"), sys.executable]
    return list(dict.fromkeys(path for path in candidates if path and os.access(path, os.X_OK)))


def _in_checkout() -> bool:
    """Whether the sources belong to the package; an installed one may have a foreign ``bpf``."""
    return (SOURCE_DIR.parent / "pyproject.toml").is_file() and SOURCE_DIR.is_dir()


def _require_trust() -> None:
    """Raise CompileError when a source has another owner than the package, or more writers."""
    package = Path(__file__).stat()
    for path in (SOURCE_DIR, *sorted(SOURCE_DIR.rglob("*"))):
        status = path.lstat()
        writers = status.st_mode & (stat.S_IWGRP | stat.S_IWOTH) & ~package.st_mode
        if status.st_uid not in (0, package.st_uid) or writers or path.is_symlink():
            raise CompileError(
                f"{path} can be changed by users other than the owner of "
                f"{Path(__file__).parent}: not compiled; correct its owner and mode"
            )
