"""Files of weights, looked through before anything of them is loaded: what they claim, what they unpack to, checksums.

torch leaves the checksums of its zip files aside and unpacks whatever they hold, and a pickle of a few bytes can ask
for more memory than a machine has. Nothing is built here, and nothing that a file names is imported.
"""

from __future__ import annotations

import copy
import io
import pickletools
import zipfile
import zlib
from pathlib import Path

from medgraft.errors import CheckpointError
from medgraft.files.documents import read_json
from medgraft.files.limits import limit, within, within_unpacked

_STEP = 1 << 20
_LEGACY_PICKLES = 5
"""Magic number, version, machine, content and names of storages: how a file of before torch 1.6 begins."""

_WEIGHTS = (".safetensors", ".bin", ".pt", ".pth", ".ckpt")
_SETTINGS = ("config.json", ".index.json")


def check_weights(path: Path, *, checksums: bool = True) -> None:
    """Looks through a file of weights by its content.

    Args:
        path: Safetensors, or what ``torch.save`` wrote, today or before torch 1.6.
        checksums: Read a zip file to its end as well.

    Raises:
        CheckpointError: It is damaged, neither of these, or goes beyond a limit of :mod:`medgraft.files.limits`.
    """
    with path.open("rb") as handle:
        first = handle.read(8)
        if path.suffix == ".safetensors":
            _check_safetensors(path, first)
        elif first.startswith(b"PK"):
            _check_zip(path, checksums)
        elif first.startswith(b"\x80"):
            handle.seek(0)
            check_pickle(handle.read(limit("MEDGRAFT_MAX_HEADER_BYTES")), f"checkpoint {path}", _LEGACY_PICKLES)
        else:
            raise CheckpointError(
                f"checkpoint {path} cannot be read: it is neither safetensors by its name nor a file of torch.save by "
                "its content"
            )


def check_weights_folder(folder: Path) -> None:
    """Looks through weights and settings of a folder that a library of its own will load.

    Raises:
        CheckpointError: As :func:`check_weights`, or a file of settings cannot be read within its limits.
    """
    files = [path for path in sorted(folder.iterdir()) if path.is_file()]
    safe = any(path.suffix == ".safetensors" for path in files)
    for path in files:
        if path.suffix in _WEIGHTS and path.name != "training_args.bin":
            check_weights(path, checksums=not safe)  # libraries take safetensors where there are any
        elif path.name.endswith(_SETTINGS):
            read_json(path, CheckpointError)


def _check_safetensors(path: Path, first: bytes) -> None:
    """A header is JSON behind eight bytes that tell its length."""
    length, size = int.from_bytes(first, "little"), path.stat().st_size
    if len(first) < 8 or length > size - 8:
        raise CheckpointError(
            f"checkpoint {path} cannot be read: its header would have {length:,} bytes, the file has {size:,}"
        )
    within("MEDGRAFT_MAX_HEADER_BYTES", length, f"checkpoint {path} has a header of {length:,} bytes", CheckpointError)


def _check_zip(path: Path, checksums: bool) -> None:
    what = f"checkpoint {path}"
    try:
        with zipfile.ZipFile(path) as archive:
            members = archive.infolist()
            packed = [each for each in members if each.compress_type != zipfile.ZIP_STORED]
            stored = sum(each.file_size for each in members if each.compress_type == zipfile.ZIP_STORED)
            within_unpacked(
                sum(each.compress_size for each in packed),
                sum(each.file_size for each in packed),
                what,
                CheckpointError,
            )
            if stored > path.stat().st_size:
                raise CheckpointError(f"{what} is refused: its members lie over one another")
            for member in members:
                if member.filename.rpartition("/")[2] == "data.pkl":
                    claim = f"{what} has a pickle of {member.file_size:,} bytes"
                    within("MEDGRAFT_MAX_HEADER_BYTES", member.file_size, claim, CheckpointError)
                    check_pickle(_content(archive, member), what, 1)
            if checksums:
                _check_sums(archive, members, what)
    except (zipfile.BadZipFile, zlib.error, EOFError, NotImplementedError, RuntimeError, OSError) as error:
        raise CheckpointError(f"{what} cannot be read: it is damaged ({error}); copy it again") from error


def _check_sums(archive: zipfile.ZipFile, members: list[zipfile.ZipInfo], what: str) -> None:
    """Reads all members to their end; a file that was written without checksums fails in every one of them."""
    wrong: list[str] = []
    for member in members:
        try:
            with archive.open(member) as stream:
                while stream.read(_STEP):
                    pass
        except zipfile.BadZipFile:
            wrong.append(member.filename)
    if wrong and (len(wrong) < len(members) or len(members) == 1):
        raise CheckpointError(f"{what} is damaged: {wrong[0]} fails its checksum; copy it again")


def check_pickle(content: bytes, what: str, most: int) -> None:
    """Walks over pickles without building what they say.

    Args:
        content: They, one after the other, and what may follow.
        what: The file, as the start of a sentence.
        most: How many there are; fewer where one is no pickle.

    Raises:
        CheckpointError: One is cut or damaged, has more operations than ``MEDGRAFT_MAX_PICKLE_OPERATIONS``, or names a
            place of memory beyond that number, which would be reserved.
    """
    allowed, count, stream = limit("MEDGRAFT_MAX_PICKLE_OPERATIONS"), 0, io.BytesIO(content)
    for _ in range(most):
        if stream.getbuffer().nbytes == stream.tell():
            return
        try:
            for operation, argument, _ in pickletools.genops(stream):
                count += 1
                if count > allowed:
                    within("MEDGRAFT_MAX_PICKLE_OPERATIONS", count, f"{what} has a pickle too long", CheckpointError)
                if operation.name == "LONG_BINPUT" and isinstance(argument, int) and argument > allowed:
                    raise CheckpointError(f"{what} is refused: its pickle asks for {argument:,} places of memory")
        except (ValueError, IndexError) as error:
            name, claim = "MEDGRAFT_MAX_HEADER_BYTES", f"{what} begins with pickles of {len(content):,} bytes or more"
            within(name, len(content) + (len(content) == limit(name)), claim, CheckpointError)
            raise CheckpointError(f"{what} is refused: its pickle is damaged ({error})") from error


def names_bytearray(path: Path) -> bool:
    """True where a file's pickle may ask for a ``bytearray`` of any length, which torch lets it do."""
    with path.open("rb") as handle:
        if handle.read(2) != b"PK":
            handle.seek(0)
            return b"bytearray" in handle.read(limit("MEDGRAFT_MAX_HEADER_BYTES"))
    with zipfile.ZipFile(path) as archive:
        pickles = [each for each in archive.infolist() if each.filename.rpartition("/")[2] == "data.pkl"]
        return any(b"bytearray" in _content(archive, each) for each in pickles)


def _content(archive: zipfile.ZipFile, member: zipfile.ZipInfo) -> bytes:
    """Content of a small member, whatever its checksum says, which may have been left out on purpose."""
    unchecked = copy.copy(member)
    unchecked.CRC = None  # type: ignore[assignment]
    with archive.open(unchecked) as stream:
        return stream.read()
