"""Arrays in an npz file, row by row: a file of many gigabytes is never read whole.

An npz file is a zip of ``.npy`` files (:mod:`numpy.lib.format`), stored or deflated. Stored ones are mapped into
memory. Deflated ones are unpacked from the nearest of a few hundred places whose state was noted in one pass from the
first byte to the last, which also holds the bytes against their checksum. Nothing is ever unpickled.
"""

from __future__ import annotations

import bisect
import math
import mmap
import struct
import threading
import zipfile
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from medgraft.errors import DataError
from medgraft.files.limits import within_unpacked
from medgraft.files.one_file import one_file

DAMAGED = "a damaged npz file"
_WHAT, _LOCAL_HEADER = "an npz file", 30
_STEP = 1 << 18
_LEAST_STRETCH, _MOST_STRETCHES = 4 << 20, 512


@dataclass(frozen=True)
class Member:
    """An array of an npz file, as its headers describe it.

    Attributes:
        path: The npz file.
        name: Of the array.
        shape: Of the array.
        dtype: Of its values.
        start: Where its packed bytes begin in the file.
        packed: How many there are.
        deflated: Packed by deflate, not stored.
        checksum: CRC-32 of what they unpack to.
        head: Bytes of the ``.npy`` header before the values.
    """

    path: Path
    name: str
    shape: tuple[int, ...]
    dtype: np.dtype[Any]
    start: int
    packed: int
    deflated: bool
    checksum: int
    head: int

    @property
    def unpacked(self) -> int:
        """Bytes of header and values."""
        return self.head + math.prod(self.shape) * self.dtype.itemsize

    def array(self) -> np.ndarray:
        """The whole array, ``[*shape]``, of which there must be little.

        Raises:
            DataError: It is damaged, or more than ``MEDGRAFT_MAX_UNPACKED_BYTES``.
        """
        within_unpacked(self.packed, self.unpacked, f"{self.name} of {self.path}", DataError)
        with one_file(self.path, _WHAT, DAMAGED), zipfile.ZipFile(self.path) as archive:
            content = archive.read(f"{self.name}.npy")[self.head :]  # holds it against the checksum
        return np.frombuffer(content, self.dtype).reshape(self.shape)


def members_of(path: Path) -> dict[str, Member]:
    """The arrays of an npz file by their names, from its headers alone.

    Raises:
        DataError: It is no such file, cut, or holds something that would have to be unpickled or decrypted.
    """
    with one_file(path, _WHAT, DAMAGED), zipfile.ZipFile(path) as archive, path.open("rb") as handle:
        infos = [info for info in archive.infolist() if info.filename.endswith(".npy")]
        return {info.filename.removesuffix(".npy"): _member(path, archive, info, handle) for info in infos}


def _member(path: Path, archive: zipfile.ZipFile, info: zipfile.ZipInfo, handle: Any) -> Member:
    name = info.filename.removesuffix(".npy")
    if info.flag_bits & 1 or info.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
        raise DataError(
            f"{name} of {path} is encrypted, or packed otherwise than NumPy packs; write it again with np.savez",
            DAMAGED,
        )
    with archive.open(info) as stream:
        version = np.lib.format.read_magic(stream)
        if version not in ((1, 0), (2, 0)):
            raise DataError(f"{name} of {path} is of npy format {version}; 1.0 and 2.0 are read", DAMAGED)
        read = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
        shape, by_columns, dtype = read(stream)
        head = stream.tell()
    if dtype.hasobject:
        raise DataError(f"{name} of {path} is pickled, and nothing is unpickled; store numbers", "pickled array")
    if by_columns and len(shape) > 1:
        raise DataError(f"{name} of {path} is stored by columns; write it again from np.ascontiguousarray", DAMAGED)
    handle.seek(info.header_offset)
    local = handle.read(_LOCAL_HEADER)
    name_length, extra_length = struct.unpack("<HH", local[26:30])
    start = info.header_offset + _LOCAL_HEADER + name_length + extra_length
    deflated = info.compress_type == zipfile.ZIP_DEFLATED
    member = Member(path, name, shape, dtype, start, info.compress_size, deflated, info.CRC, head)
    if member.unpacked != info.file_size or any(side < 0 for side in shape):
        raise DataError(f"{name} of {path} claims {list(shape)} of {dtype} and has {info.file_size:,} bytes", DAMAGED)
    return member


class _Place(NamedTuple):
    """A place in a deflated stream: bytes given and taken before it, and the state of the decoder there."""

    given: int
    taken: int
    decoder: Any


class Rows:
    """The rows of an array in an npz file, each read when it is asked for.

    Memory is that of one row and of at most 512 states of a decoder, 25 MB; the file is mapped, not read. An object
    may be shared by threads, and be used on either side of a fork.

    Args:
        member: The array, of one axis or more.

    Raises:
        DataError: At the first row: the array is damaged.
    """

    def __init__(self, member: Member) -> None:
        self.member = member
        self._row = math.prod(member.shape[1:]) * member.dtype.itemsize
        self._stretch = max(_LEAST_STRETCH, member.unpacked // _MOST_STRETCHES)
        self._lock = threading.Lock()
        self._file: mmap.mmap | None = None
        self._places: list[_Place] = []
        self._problem: DataError | None = None
        self._now = _Place(0, 0, None)

    def __len__(self) -> int:
        return self.member.shape[0]

    def __getitem__(self, index: int) -> np.ndarray:
        """A writable copy of one row, ``[*shape[1:]]``.

        Raises:
            DataError: The array is damaged.
            IndexError: There is no such row.
        """
        if not 0 <= index < len(self):
            raise IndexError(f"row {index} of {len(self)}")
        with self._lock:
            self._open()
            at = self.member.head + index * self._row
            content = self._unpacked(at) if self.member.deflated else self._mapped(at, self._row)
        return np.frombuffer(bytearray(content), self.member.dtype).reshape(self.member.shape[1:])

    def _mapped(self, at: int, size: int) -> bytes:
        assert self._file is not None
        start = self.member.start + at
        return self._file[start : start + size]

    def _open(self) -> None:
        """Maps the file, and passes through the array once; a second call gives the first one's answer."""
        if self._problem is not None:
            raise DataError(str(self._problem), self._problem.reason)
        if self._file is not None:
            return
        path, name = self.member.path, self.member.name
        try:
            with one_file(path, _WHAT, DAMAGED), path.open("rb") as handle:
                self._file = mmap.mmap(handle.fileno(), 0, access=mmap.ACCESS_READ)
                checksum, count = 0, 0
                for block in self._inflated() if self.member.deflated else self._stored():
                    checksum, count = zlib.crc32(block, checksum), count + len(block)
                if count != self.member.unpacked or checksum != self.member.checksum:
                    raise DataError(f"{name} of {path} is damaged: its checksum is wrong; copy the file again", DAMAGED)
        except DataError as error:
            self._problem = error
            raise

    def _stored(self) -> Iterator[bytes]:
        for at in range(0, self.member.packed, _STEP):
            yield self._mapped(at, min(_STEP, self.member.packed - at))

    def _inflated(self) -> Iterator[bytes]:
        """All blocks of the stream, front to back; notes a place at each stretch."""
        place = _Place(0, 0, zlib.decompressobj(wbits=-zlib.MAX_WBITS))
        while not place.decoder.eof and place.given <= self.member.unpacked:
            if not self._places or place.given - self._places[-1].given >= self._stretch:
                self._places.append(place._replace(decoder=place.decoder.copy()))
            block, place = self._next(place, _STEP)
            yield block

    def _next(self, place: _Place, most: int) -> tuple[bytes, _Place]:
        """At most so many bytes from a place, and the place behind them."""
        left = self.member.packed - place.taken
        chunk = self._mapped(place.taken, min(_STEP, left))
        block = place.decoder.decompress(chunk, most)
        used = len(chunk) - len(place.decoder.unconsumed_tail) - len(place.decoder.unused_data)
        if not block and not used and not place.decoder.eof:
            raise EOFError("the deflated array ends before its end was reached")
        return block, _Place(place.given + len(block), place.taken + used, place.decoder)

    def _unpacked(self, at: int) -> bytes:
        """The bytes of a row of a deflated array."""
        nearest = self._places[bisect.bisect_right(self._places, at, key=lambda place: place.given) - 1]
        if self._now.decoder is None or not nearest.given <= self._now.given <= at:
            self._now = nearest._replace(decoder=nearest.decoder.copy())
        row = bytearray()
        while len(row) < self._row:
            ahead = at - self._now.given
            block, self._now = self._next(self._now, min(_STEP, ahead if ahead > 0 else self._row - len(row)))
            if ahead <= 0:
                row += block
            if not block and self._now.decoder.eof:
                raise EOFError(f"{self.member.name} ends before the row does")
        return bytes(row)
