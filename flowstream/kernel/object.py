"""The embedded object: bytecode of kernel programs with relocations.

An object names the byte order that it was compiled for. Its bytecode refers to
maps by name (relocations), to constants by slot (patches), and calls the packet
filter (filter calls). The loader fills in all three, so that one object serves
every interface and option.
"""

from __future__ import annotations

import sys
from importlib import resources
from typing import TYPE_CHECKING, Annotated

import msgspec
from msgspec import Meta

from flowstream.errors import LayoutError
from flowstream.layouts.constants import FILTER_CALL, PATCH_MAGIC, FilterAnswer
from flowstream.undecodable import UNDECODABLE

if TYPE_CHECKING:
    from collections.abc import Mapping

INSTRUCTION_SIZE = 8
LD_IMM64 = 0x18  # BPF_LD | BPF_DW | BPF_IMM, linux/bpf.h: takes two instructions
CALL = 0x85  # BPF_JMP | BPF_CALL
MOV_IMM = 0xB7  # BPF_ALU64 | BPF_MOV | BPF_K
PSEUDO_MAP_FD = 1  # BPF_PSEUDO_MAP_FD
PSEUDO_CALL = 1  # BPF_PSEUDO_CALL: of a function in the same program
PATCH_MASK = 0xFFFFFFFFFFFFFF00  # the low octet of a patched constant is its slot


_U32 = Annotated[int, Meta(ge=0, le=0xFFFF_FFFF)]


class MapSpec(msgspec.Struct, frozen=True):
    """A map as the C source declares it; ``type`` is enum bpf_map_type, sizes are octets."""

    name: str
    type: _U32
    key_size: _U32
    value_size: _U32
    max_entries: _U32
    flags: _U32


class ProgramSpec(msgspec.Struct, frozen=True):
    """One program's bytecode.

    ``relocations`` maps a map's name, ``patches`` a constant's slot (enum
    patch_slot of bpf/common.h) to positions, in instructions of 8 octets.
    ``filter_calls`` are the positions of calls of the packet filter (bpf/common.h):
    the code has an instruction there that accepts every packet, r0 = FILTER_ACCEPT.
    """

    name: str
    code: bytes
    relocations: dict[str, list[int]]
    patches: dict[int, list[int]]
    filter_calls: list[int] = []

    def __post_init__(self) -> None:
        for positions in (*self.relocations.values(), *self.patches.values()):
            for position in positions:
                self._check_position(position)
        for position in self.filter_calls:
            at = position * INSTRUCTION_SIZE
            if self.code[at : at + INSTRUCTION_SIZE] != ACCEPT:
                raise ValueError(f"program {self.name} has no filter call at {position}")

    def _check_position(self, position: int) -> None:
        """Raise ValueError unless an LD_IMM64 of two instructions stands there."""
        at = position * INSTRUCTION_SIZE
        if not 0 <= at <= len(self.code) - 2 * INSTRUCTION_SIZE or self.code[at] != LD_IMM64:
            raise ValueError(f"program {self.name} has no constant at instruction {position}")

    def link(
        self, map_fds: Mapping[str, int], constants: Mapping[int, int], function: bytes = b""
    ) -> bytes:
        """Bytecode with map descriptors and constants filled in.

        ``function`` is the filter's, b"" for none (``kernel.filter_code``).
        Raises LayoutError when a map or constant that the program uses is missing, or a
        call of the filter.
        """
        code = bytearray(self.code)
        for name, positions in self.relocations.items():
            if name not in map_fds:
                raise LayoutError(f"program {self.name}: map {name} is missing")
            for position in positions:
                _put_imm64(code, position, map_fds[name])
        for slot, positions in self.patches.items():
            if slot not in constants:
                raise LayoutError(f"program {self.name}: the constant of slot {slot} is missing")
            for position in positions:
                _put_imm64(code, position, constants[slot])
        if function and not self.filter_calls:
            raise LayoutError(f"program {self.name} calls no filter")
        for position in self.filter_calls if function else ():
            at = position * INSTRUCTION_SIZE
            code[at : at + INSTRUCTION_SIZE] = _call(len(self.code) // INSTRUCTION_SIZE - position)
        return bytes(code) + function


class KernelObject(msgspec.Struct, frozen=True):
    """The result of compiling one C source."""

    name: str
    byte_order: str
    source_digest: str
    programs: list[ProgramSpec]
    maps: list[MapSpec]

    def program(self, name: str) -> ProgramSpec:
        """Return the program ``name``; LayoutError when the object has none."""
        for program in self.programs:
            if program.name == name:
                return program
        raise LayoutError(f"object {self.name} has no program {name}")

    def map(self, name: str) -> MapSpec:
        """Return the map ``name``; LayoutError when the object has none."""
        for spec in self.maps:
            if spec.name == name:
                return spec
        raise LayoutError(f"object {self.name} has no map {name}")


def _instruction(opcode: int, imm: int, source: int = 0) -> bytes:
    """An instruction with destination and offset 0, in this host's byte order."""
    registers = source << 4 if sys.byteorder == "little" else source
    return bytes([opcode, registers, 0, 0]) + imm.to_bytes(4, sys.byteorder)


def _call(distance: int) -> bytes:
    """A call of the function that begins ``distance`` instructions further on."""
    return _instruction(CALL, distance - 1, PSEUDO_CALL)


ACCEPT = _instruction(MOV_IMM, FilterAnswer.ACCEPT)
_FILTER_CALL = _instruction(CALL, FILTER_CALL)


def _put_imm64(code: bytearray, position: int, value: int) -> None:
    """Write the immediate of the 16-octet LD_IMM64 at ``position`` (native byte order)."""
    at = position * INSTRUCTION_SIZE
    code[at + 4 : at + 8] = (value & 0xFFFFFFFF).to_bytes(4, sys.byteorder)
    code[at + 12 : at + 16] = (value >> 32 & 0xFFFFFFFF).to_bytes(4, sys.byteorder)


def scan(name: str, code: bytes, map_names: Mapping[int, str]) -> ProgramSpec:
    """Find what the loader fills in in new bytecode of this host's byte order.

    ``map_names`` maps the compiler's descriptors to names. Map references and constants
    are zeroed in the result, so that equal sources give equal objects; calls of the filter
    are replaced.
    """
    clean = bytearray(code)
    relocations: dict[str, list[int]] = {}
    patches: dict[int, list[int]] = {}
    filter_calls: list[int] = []
    position = 0
    while position < len(code) // INSTRUCTION_SIZE:
        at = position * INSTRUCTION_SIZE
        if code[at] != LD_IMM64:
            if code[at : at + INSTRUCTION_SIZE] == _FILTER_CALL:
                filter_calls.append(position)
                clean[at : at + INSTRUCTION_SIZE] = ACCEPT
            position += 1
            continue
        low = int.from_bytes(code[at + 4 : at + 8], sys.byteorder)
        value = int.from_bytes(code[at + 12 : at + 16], sys.byteorder) << 32 | low
        source = code[at + 1] >> 4 if sys.byteorder == "little" else code[at + 1] & 15
        if source == PSEUDO_MAP_FD:
            relocations.setdefault(map_names[low], []).append(position)
            _put_imm64(clean, position, 0)
        elif value & PATCH_MASK == PATCH_MAGIC:
            patches.setdefault(value & ~PATCH_MASK, []).append(position)
            _put_imm64(clean, position, 0)
        position += 2
    return ProgramSpec(name, bytes(clean), relocations, patches, filter_calls)


def encode(obj: KernelObject) -> bytes:
    """Return the object as indented JSON, bytecode in base64."""
    return msgspec.json.format(msgspec.json.encode(obj), indent=1) + b"\n"


def decode(data: bytes, origin: str) -> KernelObject:
    """Read an object; LayoutError with ``origin`` when it is invalid or of another byte order."""
    try:
        obj = msgspec.json.decode(data, type=KernelObject)
    except UNDECODABLE as err:
        raise LayoutError(
            f"{origin} is not a kernel object: {err}; rebuild it with make generate"
        ) from err
    if obj.byte_order != sys.byteorder:
        raise LayoutError(
            f"{origin} is for {obj.byte_order}-endian hosts, this one is {sys.byteorder}-endian: "
            "install python3-bpfcc so that it can be compiled here"
        )
    return obj


def embedded(name: str) -> KernelObject:
    """Return the object ``name`` that the package contains."""
    file = resources.files("flowstream.kernel") / "objects" / f"{name}.json"
    try:
        data = file.read_bytes()
    except OSError as err:
        raise LayoutError(
            f"no embedded object for {name}: {err}; rebuild it with make generate"
        ) from err
    return decode(data, f"embedded object {name}")
