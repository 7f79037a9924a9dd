"""Files as streams that end at a fault: gzip to its last checksum, and no more bytes reserved than a file can hold.

Decoders that stop where they have enough never come to the checksum of a gzip file, which stands at its end; four of
five flipped bits then pass as other values.
"""

from __future__ import annotations

import io
import zlib
from pathlib import Path
from typing import IO, Any, cast

GZIP = b"\x1f\x8b"
DEFLATE_MOST = 1032
"""Largest factor by which deflate can pack: 258 bytes in two bits."""

_STEP = 1 << 18


class Unpacked(io.RawIOBase):
    """Content of a gzip file, front to back, of all its members one after the other.

    The checksum and length of a member are checked when its last byte is passed, so whoever reads until nothing comes
    has checked them all. Zeros behind a member are padding. Anything else that is no member is :attr:`garbage`.

    Args:
        handle: The open file; closed with this one.

    Attributes:
        garbage: Something that is neither a member nor padding follows the last member.
    """

    def __init__(self, handle: IO[bytes]) -> None:
        super().__init__()
        self._handle = handle
        self._member: Any = zlib.decompressobj(wbits=31)
        self._left = b""
        self._ended = False
        self.garbage = False

    def readable(self) -> bool:
        """Always."""
        return True

    def readinto(self, buffer: Any, /) -> int:
        """Fills the buffer, short at the end only.

        Raises:
            EOFError: The file ends inside a member.
            zlib.error: The stream, a length or a checksum is wrong.
        """
        view = memoryview(buffer).cast("B")
        done = 0
        while done < len(view) and not self._ended:
            if self._member.eof:
                self._next_member()
                continue
            if not self._left and not (chunk := self._handle.read(_STEP)):
                raise EOFError("the compressed file ends before its end was reached")
            elif not self._left:
                self._left = chunk
            block = self._member.decompress(self._left, min(len(view) - done, _STEP))
            self._left = self._member.unused_data if self._member.eof else self._member.unconsumed_tail
            view[done : done + len(block)] = block
            done += len(block)
        return done

    def _next_member(self) -> None:
        """Passes over padding to the next member, or ends."""
        left = self._left.lstrip(b"\0")
        while not left and (chunk := self._handle.read(_STEP)):
            left = chunk.lstrip(b"\0")
        if len(left) == 1:
            left += self._handle.read(1)
        if left.startswith(GZIP):
            self._left, self._member = left, zlib.decompressobj(wbits=31)
        else:
            self._ended, self.garbage = True, bool(left)

    def close(self) -> None:
        """Closes the file too."""
        self._handle.close()
        super().close()


class Within(io.RawIOBase):
    """A plain file that is never asked for more than it has.

    A header may claim two thousand million bytes of one element, and Python reserves what it is asked for before it
    reads.

    Args:
        path: The file.
    """

    def __init__(self, path: Path) -> None:
        super().__init__()
        self._handle = path.open("rb")
        self._size = path.stat().st_size
        self.name = str(path)

    def readable(self) -> bool:
        """Always."""
        return True

    def seekable(self) -> bool:
        """Always."""
        return True

    def read(self, size: int | None = -1, /) -> bytes:
        """At most ``size`` bytes, and no more than there are."""
        most = max(0, self._size - self._handle.tell())
        return self._handle.read(most if size is None or size < 0 else min(size, most))

    def readinto(self, buffer: Any, /) -> int:
        """Fills the buffer, short at the end only."""
        return self._handle.readinto(buffer)

    def seek(self, offset: int, whence: int = io.SEEK_SET, /) -> int:
        """Moves as the file itself does."""
        return self._handle.seek(offset, whence)

    def tell(self) -> int:
        """Position, in bytes."""
        return self._handle.tell()

    def close(self) -> None:
        """Closes the file too."""
        self._handle.close()
        super().close()


def opened(path: Path) -> io.RawIOBase:
    """The content of a file, unpacked where it is gzip, whatever its name says."""
    return Unpacked(path.open("rb")) if starts_with(path, GZIP) else Within(path)


def fill(stream: io.RawIOBase, size: int) -> bytearray:
    """The next ``size`` bytes.

    Raises:
        EOFError: There are fewer.
    """
    content = bytearray(size)
    count = cast(int, stream.readinto(content))
    if count < size:
        raise EOFError(f"it ends after {count} of {size} bytes")
    return content


def starts_with(path: Path, prefix: bytes, at: int = 0) -> bool:
    """True where these bytes stand there in the file."""
    with path.open("rb") as handle:
        handle.seek(at)
        return handle.read(len(prefix)) == prefix
