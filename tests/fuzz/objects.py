"""Kernel objects: the embedded ones, and those of the compile cache."""

from __future__ import annotations

from importlib import resources
from typing import TYPE_CHECKING

from flowstream.errors import LayoutError
from flowstream.kernel.compile import BUILDS
from flowstream.kernel.object import decode, encode

if TYPE_CHECKING:
    from collections.abc import Sequence

    from flowstream.kernel.object import KernelObject

_SMALL = b"""{"name":"x","byte_order":"little","source_digest":"00","programs":[{"name":"p",
"code":"GAAAAAAAAAAAAAAAAAAAAJUAAAAAAAAA","relocations":{"m":[0]},"patches":{"1":[0]}}],
"maps":[{"name":"m","type":1,"key_size":4,"value_size":8,"max_entries":2,"flags":0}]}"""


def seeds() -> Sequence[bytes]:
    """Return the embedded object of the smallest program, and a small one by hand."""
    objects = resources.files("flowstream.kernel") / "objects"
    smallest = min(((objects / f"{name}.json").read_bytes() for name in BUILDS), key=len)
    return [_SMALL, smallest]


def target(data: bytes) -> None:
    """Read an object and fill in maps and constants."""
    try:
        obj = decode(data, "here")
    except LayoutError:
        return
    assert decode(encode(obj), "here") == obj
    for program in obj.programs:
        assert obj.program(program.name)
        map_fds = dict.fromkeys(program.relocations, 7)
        constants = dict.fromkeys(program.patches, 2**64 - 1)
        assert len(program.link(map_fds, constants)) == len(program.code)
    for spec in obj.maps:
        assert obj.map(spec.name)
    _check_missing(obj)


def _check_missing(obj: KernelObject) -> None:
    """Check that a map or constant that the caller lacks is a LayoutError."""
    for program in obj.programs:
        if program.relocations or program.patches:
            try:
                program.link({}, {})
            except LayoutError:
                continue
            raise AssertionError(program.name)
