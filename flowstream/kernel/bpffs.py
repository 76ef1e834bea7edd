"""Directories in a BPF file system: made, listed, and required to be private."""

from __future__ import annotations

import os
import stat
from pathlib import Path
from typing import Final, NamedTuple

from flowstream.errors import KernelError

OPEN_DIRECTORY: Final = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC

SHARED: Final = "is the mount point that all programs of the host share"


class Owner(NamedTuple):
    """User and group that own a directory of pins, by number."""

    uid: int
    gid: int


def listed(fd: int) -> list[str]:
    """Names in an open directory."""
    return os.listdir(fd)


def make_directory(name: str, above: int, owner: Owner) -> None:
    """Make a directory that only its owner can enter."""
    os.mkdir(name, 0o700, dir_fd=above)
    try:
        give(name, above, owner)
    except KernelError:
        os.rmdir(name, dir_fd=above)
        raise


def give(name: str, above: int, owner: Owner) -> None:
    """Make what this process has made in an open directory the owner's."""
    if os.geteuid() == owner.uid:
        return
    try:
        os.chown(name, *owner, dir_fd=above, follow_symlinks=False)
    except OSError as err:
        raise KernelError(
            f"{name} cannot be given to user {owner.uid}: {err.strerror}; needs CAP_CHOWN",
            err.errno or 0,
        ) from err


def require_bpffs(fd: int, path: str) -> None:
    """KernelError unless an open directory is in a BPF file system."""
    found = filesystem(fd)
    if found != "bpf":
        raise KernelError(f"{path} is in a file system of type {found}, not bpf: {remedy(found)}")


def remedy(found: str) -> str:
    """What to do about a directory of pins in a file system of type ``found``."""
    text = "use a directory below /sys/fs/bpf; if nothing is mounted there: mount -t bpf bpf"
    hidden = "; ip netns exec hides what is: use --netns instead" if found == "sysfs" else ""
    return f"{text} /sys/fs/bpf{hidden}"


def filesystem(fd: int) -> str:
    """Type of the file system that a descriptor is in (proc_pid_mountinfo(5)), or "unknown"."""
    device = os.fstat(fd).st_dev
    wanted = f"{os.major(device)}:{os.minor(device)}"
    for line in Path("/proc/self/mountinfo").read_text(errors="replace").splitlines():
        if line.split()[2] == wanted:
            return line.rpartition(" - ")[2].split()[0]
    return "unknown"


def is_shared(fd: int) -> bool:
    """Report whether an open directory is a mount point that others may enter."""
    status = os.fstat(fd)
    is_open = bool(stat.S_IMODE(status.st_mode) & 0o077)
    return is_open and os.stat("..", dir_fd=fd).st_dev != status.st_dev


def require_private(fd: int, path: str, owner: Owner) -> None:
    """KernelError unless an open directory is the owner's alone."""
    if is_shared(fd):
        raise KernelError(f"{path} {SHARED}: use {path}/flowstream")
    status = os.fstat(fd)
    require_owner(status, path, owner)
    if stat.S_IMODE(status.st_mode) & 0o077:
        raise KernelError(f"{path}: others have access to it: chmod 700 {path}")


def require_owner(status: os.stat_result, path: str, owner: Owner) -> None:
    """KernelError that names both users unless it is the owner's."""
    if status.st_uid != owner.uid:
        raise KernelError(
            f"{path} belongs to user {status.st_uid}, and the agent runs as user {owner.uid}: "
            "use the same --user, or remove it with flowstream detach"
        )


def refusal(path: str, err: OSError) -> KernelError:
    """Return the error of a call on a path."""
    return KernelError(f"{path}: {err.strerror}", err.errno or 0)
