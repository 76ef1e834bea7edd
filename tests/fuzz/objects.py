"""Kernel objects: the embedded ones, and those of the compile cache."""

from __future__ import annotations

import hashlib
import sys
from importlib import resources
from typing import TYPE_CHECKING, Final
from unittest.mock import patch

from flowstream.errors import LayoutError
from flowstream.kernel import cache
from flowstream.kernel.compile import BUILDS
from flowstream.kernel.object import decode, encode, file_name
from fuzz.files import scratch

if TYPE_CHECKING:
    from collections.abc import Sequence

    from flowstream.kernel.object import KernelObject

_CACHE: Final = scratch()
_SMALL: Final = b"""{"name":"x","byte_order":"little","source_digest":"00","programs":[{"name":"p",
"code":"GAAAAAAAAAAAAAAAAAAAAJUAAAAAAAAA","relocations":{"m":[0]},"patches":{"1":[0]}}],
"maps":[{"name":"m","type":1,"key_size":4,"value_size":8,"max_entries":2,"flags":0}]}"""


def seeds() -> Sequence[bytes]:
    """Return the embedded object of the smallest program, and a small one by hand."""
    objects = resources.files("flowstream.kernel") / "objects"
    smallest = min(
        ((objects / file_name(name, sys.byteorder)).read_bytes() for name in BUILDS), key=len
    )
    deep = b"[" * 20_000 + b"]" * 20_000
    return [_SMALL, smallest, _SMALL[:-1] + b',"later":' + deep + b"}"]


def target(data: bytes) -> None:
    """Read an object and fill in maps and constants."""
    _check_cache(data)
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


def _check_cache(data: bytes) -> None:
    """Read it as a file of the cache, with the right digest and without one."""
    file = _CACHE / f"x-{sys.byteorder}-00"
    with patch.object(cache, "_place", lambda: _CACHE):
        for content in (data, hashlib.sha256(data).hexdigest().encode() + b"\n" + data):
            file.write_bytes(content)
            obj = cache.load("x", "00")
            assert obj is None or (obj.name, obj.source_digest) == ("x", "00")


def _check_missing(obj: KernelObject) -> None:
    """Check that a map or constant that the caller lacks is a LayoutError."""
    for program in obj.programs:
        if program.relocations or program.patches:
            try:
                program.link({}, {})
            except LayoutError:
                continue
            raise AssertionError(program.name)
