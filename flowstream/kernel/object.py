"""The embedded object: bytecode of kernel programs with relocations.

The package contains objects for both byte orders. Their bytecode refers to
maps by name (relocations), to constants by slot (patches), and calls the packet
filter (filter calls). The loader fills in all three, so that one object serves
every interface and option.
"""

from __future__ import annotations

import sys
from importlib import resources
from typing import TYPE_CHECKING, Annotated, Literal

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
ByteOrder = Literal["little", "big"]


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

    def _check_position(self, position: int) -> None:
        """Raise ValueError unless an LD_IMM64 of two instructions stands there."""
        at = position * INSTRUCTION_SIZE
        if not 0 <= at <= len(self.code) - 2 * INSTRUCTION_SIZE or self.code[at] != LD_IMM64:
            raise ValueError(f"program {self.name} has no constant at instruction {position}")

    def check_filter_calls(self, byte_order: ByteOrder) -> None:
        """Raise ValueError unless an instruction that accepts every packet is in each place."""
        accept = _accept(byte_order)
        for position in self.filter_calls:
            at = position * INSTRUCTION_SIZE
            if self.code[at : at + INSTRUCTION_SIZE] != accept:
                raise ValueError(f"program {self.name} has no filter call at {position}")

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
                _put_imm64(code, position, map_fds[name], sys.byteorder)
        for slot, positions in self.patches.items():
            if slot not in constants:
                raise LayoutError(f"program {self.name}: the constant of slot {slot} is missing")
            for position in positions:
                _put_imm64(code, position, constants[slot], sys.byteorder)
        if not function:
            return bytes(code)
        if not self.filter_calls:
            raise LayoutError(f"program {self.name} calls no filter")
        for position in self.filter_calls:
            at = position * INSTRUCTION_SIZE
            code[at : at + INSTRUCTION_SIZE] = _call(len(self.code) // INSTRUCTION_SIZE - position)
        return bytes(code) + function


class KernelObject(msgspec.Struct, frozen=True):
    """The result of compiling one C source."""

    name: str
    byte_order: ByteOrder
    source_digest: str
    programs: list[ProgramSpec]
    maps: list[MapSpec]

    def __post_init__(self) -> None:
        for program in self.programs:
            program.check_filter_calls(self.byte_order)

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


def _instruction(opcode: int, imm: int, byte_order: ByteOrder, source: int = 0) -> bytes:
    """An instruction with destination and offset 0."""
    registers = source << 4 if byte_order == "little" else source
    return bytes([opcode, registers, 0, 0]) + imm.to_bytes(4, byte_order)


def _call(distance: int) -> bytes:
    """A call of the function that begins ``distance`` instructions further on, on this host."""
    return _instruction(CALL, distance - 1, sys.byteorder, PSEUDO_CALL)


def _accept(byte_order: ByteOrder) -> bytes:
    return _instruction(MOV_IMM, FilterAnswer.ACCEPT, byte_order)


def _put_imm64(code: bytearray, position: int, value: int, byte_order: ByteOrder) -> None:
    """Write the immediate of the 16-octet LD_IMM64 at ``position``."""
    at = position * INSTRUCTION_SIZE
    code[at + 4 : at + 8] = (value & 0xFFFFFFFF).to_bytes(4, byte_order)
    code[at + 12 : at + 16] = (value >> 32 & 0xFFFFFFFF).to_bytes(4, byte_order)


def scan(
    name: str, code: bytes, map_names: Mapping[int, str], byte_order: ByteOrder
) -> ProgramSpec:
    """Find what the loader fills in in new bytecode.

    ``map_names`` maps the compiler's descriptors to names. Map references and constants
    are zeroed in the result, so that equal sources give equal objects; calls of the filter
    are replaced.
    """
    clean = bytearray(code)
    relocations: dict[str, list[int]] = {}
    patches: dict[int, list[int]] = {}
    filter_calls: list[int] = []
    filter_call = _instruction(CALL, FILTER_CALL, byte_order)
    position = 0
    while position < len(code) // INSTRUCTION_SIZE:
        at = position * INSTRUCTION_SIZE
        if code[at] != LD_IMM64:
            if code[at : at + INSTRUCTION_SIZE] == filter_call:
                filter_calls.append(position)
                clean[at : at + INSTRUCTION_SIZE] = _accept(byte_order)
            position += 1
            continue
        low = int.from_bytes(code[at + 4 : at + 8], byte_order)
        value = int.from_bytes(code[at + 12 : at + 16], byte_order) << 32 | low
        source = code[at + 1] >> 4 if byte_order == "little" else code[at + 1] & 15
        if source == PSEUDO_MAP_FD:
            relocations.setdefault(map_names[low], []).append(position)
            _put_imm64(clean, position, 0, byte_order)
        elif value & PATCH_MASK == PATCH_MAGIC:
            patches.setdefault(value & ~PATCH_MASK, []).append(position)
            _put_imm64(clean, position, 0, byte_order)
        position += 2
    return ProgramSpec(name, bytes(clean), relocations, patches, filter_calls)


def encode(obj: KernelObject) -> bytes:
    """Return the object as indented JSON, bytecode in base64."""
    return msgspec.json.format(msgspec.json.encode(obj), indent=1) + b"\n"


def decode(data: bytes, origin: str, byte_order: ByteOrder = sys.byteorder) -> KernelObject:
    """Read an object; LayoutError with ``origin`` when it is invalid or of another byte order."""
    try:
        obj = msgspec.json.decode(data, type=KernelObject)
    except UNDECODABLE as err:
        raise LayoutError(
            f"{origin} is not a kernel object: {err}; rebuild it with make generate"
        ) from err
    if obj.byte_order != byte_order:
        raise LayoutError(
            f"{origin} is for {obj.byte_order}-endian hosts, not for {byte_order}-endian ones; "
            "rebuild it with make generate"
        )
    return obj


def file_name(name: str, byte_order: ByteOrder) -> str:
    """Return the name of an object's file in ``kernel/objects/``."""
    return f"{name}.{byte_order}.json"


def embedded(name: str, byte_order: ByteOrder = sys.byteorder) -> KernelObject:
    """Return the object ``name`` that the package contains; this host's unless told otherwise."""
    file = resources.files("flowstream.kernel") / "objects" / file_name(name, byte_order)
    try:
        data = file.read_bytes()
    except OSError as err:
        raise LayoutError(
            f"no embedded object for {name}: {err}; rebuild it with make generate"
        ) from err
    return decode(data, f"embedded object {file.name}", byte_order)
