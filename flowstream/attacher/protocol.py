"""What agent and attacher say to each other: a datagram each way, with descriptors.

Both are processes of one start of one version, so the layout may change freely.
"""

from __future__ import annotations

import array
import os
import socket
from typing import Annotated, Final, Literal

import msgspec
from msgspec import Meta

from flowstream.kernel.link import Hook, Mode

LARGEST: Final = 4096
"""Octets of a message."""
TEXT: Final = 2048
"""Characters of a reply's text."""
_INDEX = Annotated[int, Meta(ge=1, lt=1 << 31)]
_U32 = Annotated[int, Meta(ge=1, lt=1 << 32)]
_EPOCH = Annotated[int, Meta(ge=1, le=(1 << 63) - 1)]
_CODE = Annotated[int, Meta(ge=0, lt=1 << 33)]


class Setup(msgspec.Struct, frozen=True, array_like=True):
    """The first message: the user to become, and what to create (``kernel.creator.Creator``).

    ``namespaces``: inodes of the network namespaces of the interfaces, none for the process's
    own. ``epoch``: the generation of pins, 0 without (``kernel.run_pins.RunPins``).
    ``filtered``: there is a filter (``kernel.packet_filter``).
    Descriptors: the ``shared`` maps, then the directory of pins, then a file with the filter,
    which may be larger than a message.
    """

    uid: int
    gid: int
    namespaces: list[int]
    build: str
    programs: dict[Hook, str]
    shared: list[str]
    own: dict[str, int]
    epoch: int
    filtered: bool


class Request(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True):
    """Attach; the fields are those of ``kernel.target.Target``.

    ``netns`` and ``link``: their descriptors come along, in this order.
    """

    op: Literal["attach"]
    if_index: _INDEX
    record_index: _U32
    direction: Annotated[int, Meta(ge=0, le=1)]
    mode: Mode
    sampling: _U32
    raw: bool
    netns: bool
    link: bool
    earlier: tuple[_EPOCH, _CODE] | None


class Reply(msgspec.Struct, frozen=True, array_like=True):
    """Descriptors of the attachment and its ``mode``; or an error, which has an ``errno``.

    That is the kernel's, 0 where it returned none. ``stage`` is one of
    ``kernel.stages.Stage``, or "" for a request that is refused. Without an error ``text``
    says what runs before the program at its hook, or nothing.
    """

    errno: int | None = None
    stage: str = ""
    text: Annotated[str, Meta(max_length=TEXT)] = ""
    mode: Mode = Mode.AUTO


# Made here: the attacher prepares nothing later.
decode_setup: Final = msgspec.msgpack.Decoder(Setup).decode
decode_request: Final = msgspec.msgpack.Decoder(Request).decode
decode_reply: Final = msgspec.msgpack.Decoder(Reply).decode


def send(sock: socket.socket, message: msgspec.Struct, fds: list[int]) -> None:
    """Send a message with copies of ``fds``."""
    rights = (socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", fds))
    sock.sendmsg([msgspec.msgpack.encode(message)], [rights] if fds else [])


def receive(sock: socket.socket, most: int) -> tuple[bytes, list[int]]:
    """Wait for a message; return its octets and up to ``most`` descriptors, now the caller's.

    b"" at the end of the connection, and for an empty message. ValueError for what is cut
    off, whose descriptors are closed.
    """
    fds = array.array("i")
    data, ancillary, flags, _ = sock.recvmsg(
        LARGEST, socket.CMSG_LEN(most * fds.itemsize), socket.MSG_CMSG_CLOEXEC
    )
    for _, _, rights in ancillary:
        fds.frombytes(rights[: len(rights) - len(rights) % fds.itemsize])
    if flags & (socket.MSG_TRUNC | socket.MSG_CTRUNC):
        close(fds.tolist())
        raise ValueError("the message is too long, or has too many descriptors")
    return data, fds.tolist()


def close(fds: list[int]) -> None:
    """Close descriptors that came by a message."""
    for fd in fds:
        os.close(fd)
