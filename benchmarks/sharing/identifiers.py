"""Searches files that are to be handed on for identifiers of subjects: as they are, encoded, and hashed.

Every byte of a file is searched, and what its packing hides: members of archives (``.npz``), values and metadata of
Parquet, gzipped content. An identifier is looked for in UTF-8, UTF-16 and UTF-32 (NumPy's texts), in base64 at each of
the three places that it may have in an encoded text, and as MD5, SHA-1 and SHA-256, since a digest of a name that
anyone can guess is that name.
"""

from __future__ import annotations

import base64
import gzip
import hashlib
import io
import json
import re
import zipfile
import zlib
from collections.abc import Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from medgraft.files.limits import limit

SHORTEST = 5
"""Characters of an identifier that can be searched for; shorter ones stand by chance in any file of numbers."""

DEEPEST = 3
"""Archives inside of archives that are opened."""

KNOWN_FORMS: dict[str, re.Pattern[bytes]] = {
    "ADNI": re.compile(rb"(?<!\d)\d{3}_S_\d{4,5}(?!\d)"),
    "CheXpert": re.compile(rb"(?<![A-Za-z])patient\d{5}(?!\d)"),
    "MIMIC": re.compile(rb"(?<![\w.])p1\d{7}(?![\w.])"),
    "OASIS": re.compile(rb"(?<![A-Za-z])OAS[123]_?\d{4}(?!\d)"),
    "NIH ChestX-ray14": re.compile(rb"(?<!\d)\d{8}_\d{3}\.png"),
    "BIDS": re.compile(rb"(?<![\w-])sub-[A-Za-z0-9]+(?=[_/])"),
}
"""Cohort -> what its identifiers look like."""


@dataclass(frozen=True)
class Leak:
    """An identifier in a file.

    Attributes:
        path: The file.
        inside: Member of an archive, or what else of the file; empty for the file as it is.
        form: How it stands there: ``plain``, ``base64``, ``sha256`` and so on.
        what: The identifier.
    """

    path: Path
    inside: str
    form: str
    what: str


class Identifiers:
    """Identifiers to look for.

    Args:
        names: Of subjects, files or whatever must not be handed on; those that are too short are left out.
    """

    def __init__(self, names: Iterable[str]) -> None:
        self.names = sorted({name for name in names if len(name) >= SHORTEST})

    @cached_property
    def _needles(self) -> list[tuple[bytes, str, str]]:
        return [(needle, form, name) for name in self.names for needle, form in _forms(name)]

    @cached_property
    def _numbers(self) -> list[tuple[re.Pattern[bytes], str]]:
        """Identifiers of digits alone, which also stand by chance among the digits of another number."""
        return [
            (re.compile(rb"(?<![\d.])" + name.encode() + rb"(?![\d.])"), name) for name in self.names if name.isdigit()
        ]

    def within(self, content: bytes) -> Iterator[tuple[str, str]]:
        """Form and identifier of each that is in some bytes."""
        for needle, form, name in self._needles:
            if needle in content:
                yield form, name
        for pattern, name in self._numbers:
            if pattern.search(content):
                yield "plain", name

    def leaks(self, path: Path) -> list[Leak]:
        """All that is in a file."""
        return [
            Leak(path, inside, form, name)
            for inside, content in streams(path)
            for form, name in dict.fromkeys(self.within(content))
        ]


def _forms(name: str) -> Iterator[tuple[bytes, str]]:
    raw = name.encode()
    if not name.isdigit():
        yield raw, "plain"
    for encoding in ("utf-16-le", "utf-32-le"):
        yield name.encode(encoding), encoding
    yield from ((text, "base64") for text in _base64(raw))
    yield raw.hex().encode(), "hex"
    for algorithm in ("md5", "sha1", "sha256"):
        digest = hashlib.new(algorithm, raw, usedforsecurity=False).digest()
        yield digest, algorithm
        yield digest.hex().encode(), algorithm
        yield digest.hex().upper().encode(), algorithm
        yield base64.b64encode(digest).rstrip(b"="), algorithm


def _base64(raw: bytes) -> list[bytes]:
    """What base64 makes of some bytes at each of three places in a longer text, without the characters they share."""
    found = []
    for before in range(3):
        text = base64.b64encode(b"\0" * before + raw)
        start = (before * 8 + 5) // 6
        end = (before + len(raw)) * 8 // 6
        found.append(text[start:end])
    return [text for text in found if len(text) >= SHORTEST]


def streams(path: Path) -> Iterator[tuple[str, bytes]]:
    """The bytes of a file and of what is packed inside of it, each with a name.

    Raises:
        OSError: The file cannot be read.
    """
    yield from _streams(path.read_bytes(), "", DEEPEST)


def _streams(content: bytes, name: str, depth: int) -> Iterator[tuple[str, bytes]]:
    yield name, content
    if depth == 0:
        return
    most = limit("MEDGRAFT_MAX_UNPACKED_BYTES")
    if content.startswith(b"PK"):
        damaged = (zipfile.BadZipFile, zlib.error, EOFError, RuntimeError, NotImplementedError)
        with suppress(*damaged), zipfile.ZipFile(io.BytesIO(content)) as archive:
            for member in archive.infolist():
                with archive.open(member) as stream:
                    yield from _streams(stream.read(most), _inner(name, member.filename), depth - 1)
    elif content.startswith(b"\x1f\x8b"):
        with suppress(OSError, EOFError, zlib.error), gzip.open(io.BytesIO(content)) as stream:
            yield from _streams(stream.read(most), _inner(name, "gzip"), depth - 1)
    elif content.startswith(b"PAR1"):
        yield from _parquet(content, name)


def _inner(name: str, member: str) -> str:
    return f"{name}/{member}" if name else member


def _parquet(content: bytes, name: str) -> Iterator[tuple[str, bytes]]:
    """Values and metadata of a Parquet file, which are compressed in it; nothing where pyarrow is not installed."""
    try:
        import pyarrow.parquet as parquet  # pyright: ignore[reportMissingImports]
    except ImportError:
        return
    file: Any = parquet.ParquetFile(io.BytesIO(content))
    kept: dict[bytes, bytes] = {**(file.metadata.metadata or {}), **(file.schema_arrow.metadata or {})}
    yield _inner(name, "metadata"), b"\n".join(part for pair in kept.items() for part in pair)
    table = file.read()
    yield _inner(name, "values"), json.dumps(table.to_pydict(), default=str, ensure_ascii=False).encode()


def known_forms(path: Path) -> list[Leak]:
    """What looks like an identifier of a well-known cohort in a file."""
    return [
        Leak(path, inside, f"looks like {cohort}", found.group().decode(errors="replace"))
        for inside, content in streams(path)
        for cohort, pattern in KNOWN_FORMS.items()
        if (found := pattern.search(content))
    ]
