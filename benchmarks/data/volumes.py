"""Volumes from NIfTI-1 and NIfTI-2 files (single or in pairs) and from FreeSurfer's MGH, turned to RAS.

nibabel reads the headers. The voxels are read here: its images stop at the last voxel, before the checksum of a
``.nii.gz``, believe a header's size before they have looked at the file's, and cannot be opened at all where one of the
two forms of orientation is damaged and the other is sound.
"""

from __future__ import annotations

import io
import math
import re
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from medgraft.benchmarks.data.affines import affine_of, check_edges, is_usable
from medgraft.benchmarks.data.one_file import one_file
from medgraft.benchmarks.data.streams import DEFLATE_MOST, GZIP, Unpacked, fill, opened, starts_with
from medgraft.errors import DataError
from medgraft.limits import within

VOLUMES_VERSION = 2
"""Raised whenever the same file would be read differently; part of what the caches know."""

MOST_BEHIND = 16 << 20
"""Bytes that may stand between the header and the voxels, and behind them: extensions, padding."""

_CUT, _MISNAMED = "no image, or cut", "named otherwise than its content"
_SIZES = {348: "nifti1", 540: "nifti2"}


class _Image(NamedTuple):
    """What a header says.

    Attributes:
        shape: Voxels along each axis, as stated.
        dtype: Of a stored voxel.
        affine: Voxels to mm.
        offset: Where the voxels begin.
        slope: Factor of the stored values.
        intercept: Added to them.
        data: File with the voxels.
    """

    shape: tuple[int, ...]
    dtype: np.dtype[Any]
    affine: NDArray[np.float64]
    offset: int
    slope: float
    intercept: float
    data: Path


def load_volume(path: str | Path) -> tuple[NDArray[np.float32], NDArray[np.float64]]:
    """Loads a volume in RAS orientation.

    Of sform and qform, the one that can be counts, the sform before the qform; the unit of the header is honoured. A
    slope that is zero or no number means unscaled values, an intercept that is no number means none.

    Args:
        path: ``.nii`` or ``.nii.gz``; ``.hdr`` or ``.img`` of a NIfTI pair; ``.mgh`` or ``.mgz``.

    Returns:
        The volume, float32 ``[x, y, z]`` with axes towards right, front and top, in the file's own intensity units; and
        the affine from voxels to mm, ``[4, 4]``.

    Raises:
        DataError: The file is missing, truncated, damaged or no image; is compressed and not named so, or the other way
            round; has more than one volume or no grey values; is larger than ``MEDGRAFT_MAX_VOXELS``; is zero all over
            or not finite somewhere; or says nothing usable about its orientation and spacing, or contradicts itself.
    """
    path = Path(path)
    if not path.is_file():
        raise DataError(f"{path} does not exist", "no such file")
    with one_file(path, "an image", _CUT, "download it again"):
        image = _read_header(path)
        _check_size(path, image)
        volume, affine = _turned(_read_voxels(path, image), image)
    if not np.isfinite(volume).all():
        raise DataError(f"{path} has voxels that are NaN or infinite", "voxels that are NaN or infinite")
    if not volume.any():
        raise DataError(f"{path} is zero in every voxel", "zero in every voxel")
    return volume, affine


def _read_header(path: Path) -> _Image:
    head, data = _pair(path)
    _check_name(head)
    with opened(head) as stream:
        first = bytes(fill(stream, 348))
        kind = next((_SIZES[n] for n in (int.from_bytes(first[:4], o) for o in ("little", "big")) if n in _SIZES), "")  # type: ignore[arg-type]
        if kind == "nifti2":
            first += bytes(fill(stream, 540 - 348))
    if data != head:
        if not data.is_file():
            raise DataError(f"{path} is one half of a pair; {data.name} is missing beside it", "half of a pair")
        _check_name(data)
    if kind:
        return _nifti(path, kind, first, data)
    if first[:4] == (1).to_bytes(4, "big"):
        return _mgh(path, first)
    raise ValueError("it begins as neither NIfTI nor MGH")


def _nifti(path: Path, kind: str, content: bytes, data: Path) -> _Image:
    from nibabel.nifti1 import Nifti1Header, Nifti1PairHeader
    from nibabel.nifti2 import Nifti2Header, Nifti2PairHeader

    single, pair = (Nifti1Header, Nifti1PairHeader) if kind == "nifti1" else (Nifti2Header, Nifti2PairHeader)
    magic = content[344:348] if kind == "nifti1" else content[4:8]
    if magic[:3] not in (b"n+1", b"ni1", b"n+2", b"ni2"):
        raise DataError(f"{path} is of the Analyze format, which does not say left from right", "no orientation")
    paired = magic[1:2] == b"i"
    if paired and data == path and path.name.lower().removesuffix(".gz").endswith(".nii"):
        raise ValueError("its header says that the voxels are in a file of their own")
    # Unchecked: nibabel would print a line a file of what it finds odd, and put ones in place of sizes of zero.
    header: Any = (pair if paired else single)(content, check=False)
    offset = int(header.get_data_offset())
    if not paired and offset < len(content):
        raise ValueError(f"its voxels would begin at byte {offset}, inside its header")
    rank = int(header["dim"][0])
    shape = tuple(int(n) for n in header["dim"][1 : rank + 1]) if 0 < rank < 8 else ()
    _check_shape(path, shape, header.get_data_dtype())
    slope, intercept = float(header["scl_slope"]), float(header["scl_inter"])
    scaled = math.isfinite(slope) and slope != 0
    return _Image(
        shape,
        header.get_data_dtype(),
        affine_of(path, header),
        offset,
        slope if scaled else 1.0,
        intercept if scaled and math.isfinite(intercept) else 0.0,
        data,
    )


def _mgh(path: Path, content: bytes) -> _Image:
    from nibabel.freesurfer.mghformat import DATA_OFFSET, MGHHeader

    header: Any = MGHHeader(content[: MGHHeader._hdrdtype.itemsize].ljust(MGHHeader.template_dtype.itemsize, b"\0"))
    shape = tuple(int(n) for n in header["dims"])
    _check_shape(path, shape, header.get_data_dtype())
    if int(header["goodRASFlag"]) != 1:
        raise DataError(f"{path} does not say how it is oriented (goodRASFlag unset)", "no orientation")
    affine = header.get_affine()
    if not is_usable(affine):
        raise DataError(f"{path} has no usable affine (zero or undefined voxel spacing)", "no usable affine")
    check_edges(path, affine)
    return _Image(shape, header.get_data_dtype(), affine, DATA_OFFSET, 1.0, 0.0, path)


def _pair(path: Path) -> tuple[Path, Path]:
    """File of the header and file of the voxels."""
    match = re.search(r"\.(hdr|img)(\.gz)?$", path.name, re.IGNORECASE)
    if match is None:
        return path, path
    stem, packed = path.name[: match.start()], match[2] or ""
    head, data = ("HDR", "IMG") if match[1].isupper() else ("hdr", "img")
    return path.with_name(f"{stem}.{head}{packed}"), path.with_name(f"{stem}.{data}{packed}")


def _check_name(path: Path) -> None:
    """Refuses files that are compressed under a plain name, or plain under the name of a compressed one."""
    packed, called = starts_with(path, GZIP), path.suffix.lower() in (".gz", ".mgz")
    if packed and not called:
        better = f"{path.name[:-3]}mgz" if path.suffix.lower() == ".mgh" else f"{path.name}.gz"
        raise DataError(f"{path} is compressed and not named so; rename it to {better}", _MISNAMED)
    with path.open("rb") as handle:
        first = handle.read(4)
    if called and not packed and any(int.from_bytes(first, order) in (1, *_SIZES) for order in ("little", "big")):
        better = f"{path.name[:-3]}mgh" if path.suffix.lower() == ".mgz" else path.name[:-3]
        raise DataError(f"{path} is named as compressed and is not; rename it to {better}", _MISNAMED)


def _check_shape(path: Path, shape: tuple[int, ...], dtype: np.dtype[Any]) -> None:
    """Compares what the header promises with a volume of grey values, and with the limit."""
    if len(shape) < 3 or any(n < 1 for n in shape) or any(n != 1 for n in shape[3:]):
        raise DataError(f"{path} has shape {shape}; one 3D volume is expected", "not one 3D volume")
    if dtype.kind not in "iuf":
        raise DataError(f"{path} holds {dtype} and no grey values", "no grey values")
    voxels = math.prod(shape)
    within(
        "MEDGRAFT_MAX_VOXELS",
        voxels,
        f"{path} has {voxels:,} voxels by its header",
        lambda sentence: DataError(sentence, "more voxels than allowed"),
    )


def _check_size(path: Path, image: _Image) -> None:
    """Compares what the header promises with the size of the file, before anything is allocated."""
    size, promised = image.data.stat().st_size, image.offset + math.prod(image.shape) * image.dtype.itemsize
    if promised > size * (DEFLATE_MOST if starts_with(image.data, GZIP) else 1):
        told = f"it is cut, its header promises {promised:,} bytes"
        raise DataError(f"{path} cannot be read as an image: {told}; download it again", _CUT)
    if not 0 <= image.offset <= MOST_BEHIND:
        raise ValueError(f"its voxels would begin at byte {image.offset:,}")


def _read_voxels(path: Path, image: _Image) -> NDArray[Any]:
    """The stored values ``[i, j, k]``, once the file was read to its end."""
    with opened(image.data) as stream:
        fill(stream, image.offset)
        content = fill(stream, math.prod(image.shape) * image.dtype.itemsize)
        if isinstance(stream, Unpacked):
            _read_to_end(path, stream)
    return np.ndarray(image.shape[:3], image.dtype, content, order="F")


def _read_to_end(path: Path, stream: io.RawIOBase) -> None:
    count, block = 0, bytearray(1 << 16)
    while found := stream.readinto(block):
        count += found
        if count > MOST_BEHIND:
            raise ValueError(f"{path.name} goes on for more than {MOST_BEHIND:,} bytes behind its image")


def _turned(stored: NDArray[Any], image: _Image) -> tuple[NDArray[np.float32], NDArray[np.float64]]:
    """Values in their own units with axes to the right, front and top, and the affine of those axes."""
    from nibabel.orientations import apply_orientation, inv_ornt_aff, io_orientation

    axes: Any = io_orientation(image.affine)
    if np.isnan(axes).any():
        raise DataError(f"{image.data} has no usable affine (an axis without direction)", "no usable affine")
    view: Any = apply_orientation(stored, axes)
    volume = np.empty(view.shape, np.float32)
    with np.errstate(over="ignore", invalid="ignore"):  # what is not finite is refused later
        if (image.slope, image.intercept) == (1.0, 0.0):
            volume[...] = view
        else:  # a slice at a time, so that no copy in double precision is made of the whole
            for k in range(view.shape[2]):
                volume[..., k] = view[..., k].astype(np.float64) * image.slope + image.intercept
    return volume, image.affine @ inv_ornt_aff(axes, stored.shape)
