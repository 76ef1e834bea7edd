"""A recording as one compressed file: a zip archive of its segments.

Any unzip restores the directory.
"""

from __future__ import annotations

import contextlib
import shutil
import tempfile
import zipfile
from pathlib import Path
from typing import TYPE_CHECKING, Final

from flowstream.errors import SinkError, SourceError
from flowstream.segments.reader import PARTITION_NAME, SEGMENT_NAME

if TYPE_CHECKING:
    from collections.abc import Iterator

_CHUNK: Final = 1 << 20
_LARGEST_RATIO: Final = 100
"""Unpacked octets per octet of the file: segments reach about 20, zeros 1,000."""


@contextlib.contextmanager
def packing(file: Path) -> Iterator[Path]:
    """Yield a new directory to record into; at the end its contents become ``file``.

    ``file`` appears only then. Raises SinkError if it exists or cannot be written.
    """
    if file.exists():
        raise SinkError(f"{file}: exists already; record to another file")
    try:
        with tempfile.TemporaryDirectory(prefix=f".{file.name}.", dir=file.parent) as temporary:
            directory = Path(temporary)
            (directory / "recording").mkdir()
            yield directory / "recording"
            _pack(directory / "recording", directory / "packed")
            (directory / "packed").replace(file)
    except OSError as err:
        raise SinkError(f"{file}: {err.strerror}; record to another file") from err


def _pack(directory: Path, file: Path) -> None:
    with zipfile.ZipFile(file, "x", zipfile.ZIP_DEFLATED) as archive:
        for partition in sorted(directory.iterdir()):
            if not PARTITION_NAME.fullmatch(partition.name):
                continue
            # A partition without messages has no segment, but is part of the recording.
            archive.mkdir(partition.name)
            for segment in sorted(partition.iterdir()):
                archive.write(segment, f"{partition.name}/{segment.name}")


def unpack(file: Path) -> Path:
    """Unpack a recording into a new temporary directory and return its path.

    Raises SourceError where the file is no such archive or has anything else in it.
    """
    directory = Path(tempfile.mkdtemp(prefix="flowstream-"))
    try:
        with zipfile.ZipFile(file) as archive:
            _check_size(archive, file)
            for entry in archive.infolist():
                _unpack(archive, entry, directory)
    except BaseException as err:
        shutil.rmtree(directory, ignore_errors=True)
        if isinstance(err, OSError) and err.strerror:
            raise SourceError(f"{file}: {err.strerror}; name a recording") from err
        # zipfile and zlib have many errors of their own.
        if isinstance(err, Exception):
            raise SourceError(f"{file}: not a recording: {err}") from err
        raise
    return directory


def _check_size(archive: zipfile.ZipFile, file: Path) -> None:
    # What zipfile reads of an entry is bounded by the size that the entry names.
    size = sum(entry.file_size for entry in archive.infolist())
    if size > _LARGEST_RATIO * file.stat().st_size:
        raise ValueError(f"it unpacks to more than {_LARGEST_RATIO} times its size")


def _unpack(archive: zipfile.ZipFile, entry: zipfile.ZipInfo, directory: Path) -> None:
    partition, _, segment = entry.filename.partition("/")
    if not PARTITION_NAME.fullmatch(partition) or not (
        segment == "" or SEGMENT_NAME.fullmatch(segment)
    ):
        raise ValueError(f"it contains {entry.filename!r}")
    (directory / partition).mkdir(exist_ok=True)
    if not segment:
        return
    with archive.open(entry) as packed, (directory / partition / segment).open("xb") as file:
        while chunk := packed.read(_CHUNK):
            file.write(chunk)
