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
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from medgraft.benchmarks.cohorts.files.streams import DEFLATE_MOST, GZIP, Unpacked, fill, opened, starts_with
from medgraft.benchmarks.cohorts.volumes.affines import affine_of, check_edges, is_usable
from medgraft.errors import DataError
from medgraft.files.limits import within
from medgraft.files.one_file import one_file

if TYPE_CHECKING:
    from medgraft.encoders.slices import SpacedVolume

VOLUMES_VERSION = 2
"""Raised whenever the same file would be read differently; part of what the caches know."""

MOST_BEHIND = 16 << 20
"""Bytes that may stand between the header and the voxels, and behind them: extensions, padding."""

_CUT, _MISNAMED = "no image, or cut", "named otherwise than its content"
NIFTI_1 = (b"n+1", b"ni1")
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
        step: Seconds from a volume of a series to the next; 0 where the header does not say.
    """

    shape: tuple[int, ...]
    dtype: np.dtype[Any]
    affine: NDArray[np.float64]
    offset: int
    slope: float
    intercept: float
    data: Path
    step: float = 0.0


class Series(NamedTuple):
    """Volumes over time.

    Attributes:
        values: ``float32 [T, x, y, z]`` with axes of space towards right, front and top.
        affine: Voxels to mm, ``float64 [4, 4]``.
        step: Seconds from a volume to the next; 0 where the header does not say.
    """

    values: NDArray[np.float32]
    affine: NDArray[np.float64]
    step: float


def load_series(path: str | Path) -> Series:
    """Loads a NIfTI series in RAS orientation; values that are not finite and blank volumes are left to the caller.

    Args:
        path: ``.nii`` or ``.nii.gz``, or a NIfTI pair.

    Raises:
        DataError: As :func:`load_volume`; or it holds one volume, or no series at all.
    """
    path = Path(path)
    if not path.is_file():
        raise DataError(f"{path} does not exist", "no such file")
    with one_file(path, "a series of volumes", _CUT, "download it again"):
        image = _read_header(path, series=True)
        _check_size(path, image)
        volumes, affine = _turned(_read_voxels(path, image), image)
    return Series(volumes, affine, image.step)


def series_step(path: Path) -> float:
    """Seconds between the volumes of a series by its header; 0 where it does not say or cannot be read."""
    try:
        with one_file(path, "a series of volumes", _CUT):
            return _read_header(path, series=True).step
    except DataError:
        return 0.0


def load_volume(path: str | Path, *, analyze: bool = False) -> tuple[NDArray[np.float32], NDArray[np.float64]]:
    """Loads a volume in RAS orientation.

    Of sform and qform, the one that can be counts, the sform before the qform; the unit of the header is honoured. A
    slope that is zero or no number means unscaled values, an intercept that is no number means none.

    Args:
        path: ``.nii`` or ``.nii.gz``; ``.hdr`` or ``.img`` of a NIfTI pair; ``.mgh`` or ``.mgz``.
        analyze: Read pairs of the Analyze 7.5 format, too. It does not say left from right: the first axis is taken to
            run to the left, the second to the front and the third to the top, as SPM, FSL and nibabel take it.

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
        image = _read_header(path, analyze=analyze)
        _check_size(path, image)
        volume, affine = _turned(_read_voxels(path, image), image)
    if not np.isfinite(volume).all():
        raise DataError(f"{path} has voxels that are NaN or infinite", "voxels that are NaN or infinite")
    if not volume.any():
        raise DataError(f"{path} is zero in every voxel", "zero in every voxel")
    return volume, affine


def load_spaced(path: str | Path, *, analyze: bool = False) -> SpacedVolume:
    """The volume of :func:`load_volume` with the size of its voxels, for encoders that cut slices in millimetres.

    Returns:
        ``[x, y, z]``; an array like any other for encoders that do not ask for the size.

    Raises:
        DataError: The file cannot be used; see :func:`load_volume`.
    """
    from medgraft.encoders.slices import spaced

    volume, affine = load_volume(path, analyze=analyze)
    return spaced(volume, np.linalg.norm(affine[:3, :3], axis=0).tolist())


def is_analyze(path: str | Path) -> bool:
    """Whether a file is the header, or has the header, of an image of Analyze 7.5, and not of a NIfTI pair."""
    head, data = parts_of(Path(path))
    try:
        with opened(head) as stream:
            first = bytes(fill(stream, 348))
    except (OSError, ValueError, EOFError):
        return False
    return data != head and _kind(first) == "nifti1" and first[344:347] not in NIFTI_1


def _kind(first: bytes) -> str:
    """``nifti1`` or ``nifti2`` by the size that a header begins with, in either order of bytes; empty for neither."""
    sizes = (int.from_bytes(first[:4], "little"), int.from_bytes(first[:4], "big"))
    return next((_SIZES[size] for size in sizes if size in _SIZES), "")


def _read_header(path: Path, *, analyze: bool = False, series: bool = False) -> _Image:
    head, data = parts_of(path)
    _check_name(head)
    with opened(head) as stream:
        first = bytes(fill(stream, 348))
        kind = _kind(first)
        if kind == "nifti2":
            first += bytes(fill(stream, 540 - 348))
    if data != head:
        if not data.is_file():
            raise DataError(f"{path} is one half of a pair; {data.name} is missing beside it", "half of a pair")
        _check_name(data)
    if kind == "nifti1" and analyze and first[344:347] not in NIFTI_1:
        return _analyze(path, first, data)
    if kind:
        return _nifti(path, kind, first, data, series=series)
    if not series and first[:4] == (1).to_bytes(4, "big"):
        return _mgh(path, first)
    raise ValueError("it does not begin as NIfTI" if series else "it begins as neither NIfTI nor MGH")


def _nifti(path: Path, kind: str, content: bytes, data: Path, *, series: bool) -> _Image:
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
    (_check_series if series else _check_shape)(path, shape, header.get_data_dtype())
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
        _step_of(header) if series else 0.0,
    )


def _step_of(header: Any) -> float:
    """Seconds between volumes; the unit's code is in bits 3 to 5 of ``xyzt_units``, and no code means seconds."""
    step = float(header["pixdim"][4]) * {16: 1e-3, 24: 1e-6}.get(int(header["xyzt_units"]) & 0x38, 1.0)
    return step if math.isfinite(step) and step > 0 else 0.0


def _analyze(path: Path, content: bytes, data: Path) -> _Image:
    """An image of Analyze 7.5, axes to the left, front and top, by the sizes of its voxels."""
    from nibabel.analyze import AnalyzeHeader

    header: Any = AnalyzeHeader(content, check=False)
    rank = int(header["dim"][0])
    shape = tuple(int(n) for n in header["dim"][1 : rank + 1]) if 0 < rank < 8 else ()
    _check_shape(path, shape, header.get_data_dtype())
    sizes = np.abs(np.asarray(header["pixdim"][1:4], np.float64))
    affine = np.diag([-sizes[0], sizes[1], sizes[2], 1.0])
    if not is_usable(affine):
        raise DataError(f"{path} has no usable affine (zero or undefined voxel spacing)", "no usable affine")
    check_edges(path, affine)
    return _Image(shape, header.get_data_dtype(), affine, int(header.get_data_offset()), 1.0, 0.0, data)


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


def parts_of(path: Path) -> tuple[Path, Path]:
    """File of the header and file of the voxels, twice the same for a volume in one file.

    Example:
        >>> [each.name for each in parts_of(Path("a.img.gz"))], [each.name for each in parts_of(Path("a.nii"))]
        (['a.hdr.gz', 'a.img.gz'], ['a.nii', 'a.nii'])
    """
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
    _check_grey(path, dtype)
    _check_limit("MEDGRAFT_MAX_VOXELS", path, math.prod(shape))


def _check_series(path: Path, shape: tuple[int, ...], dtype: np.dtype[Any]) -> None:
    """The same for volumes over time."""
    if len(shape) < 4 or any(n < 1 for n in shape) or any(n != 1 for n in shape[4:]):
        raise DataError(f"{path} has shape {shape}; a run has three axes of space and one of time", "not four axes")
    if shape[3] < 2:
        raise DataError(f"{path} holds one volume; a run has several", "one volume and no run")
    _check_grey(path, dtype)
    _check_limit("MEDGRAFT_MAX_VOXELS", path, math.prod(shape[:3]))
    _check_limit("MEDGRAFT_MAX_SERIES_VOXELS", path, math.prod(shape))


def _check_grey(path: Path, dtype: np.dtype[Any]) -> None:
    if dtype.kind not in "iuf":
        raise DataError(f"{path} holds {dtype} and no grey values", "no grey values")


def _check_limit(name: str, path: Path, voxels: int) -> None:
    within(
        name,
        voxels,
        f"{path} has {voxels:,} voxels by its header",
        lambda sentence: DataError(sentence, "more voxels than allowed"),
    )


def _check_size(path: Path, image: _Image) -> None:
    """Compares what the header promises with the size of the file, before anything is allocated."""
    size, promised = image.data.stat().st_size, image.offset + math.prod(image.shape) * image.dtype.itemsize
    if promised > size * (DEFLATE_MOST if starts_with(image.data, GZIP) else 1):
        reason = f"it is cut, its header promises {promised:,} bytes"
        raise DataError(f"{path} cannot be read as an image: {reason}; download it again", _CUT)
    if not 0 <= image.offset <= MOST_BEHIND:
        raise ValueError(f"its voxels would begin at byte {image.offset:,}")


def _read_voxels(path: Path, image: _Image) -> NDArray[Any]:
    """The stored values ``[i, j, k]``, or ``[i, j, k, T]`` of a series, once the file was read to its end."""
    with opened(image.data) as stream:
        fill(stream, image.offset)
        content = fill(stream, math.prod(image.shape) * image.dtype.itemsize)
        if isinstance(stream, Unpacked):
            _read_to_end(path, stream)
    shape = image.shape[:4] if len(image.shape) > 3 and image.shape[3] > 1 else image.shape[:3]
    return np.ndarray(shape, image.dtype, content, order="F")


def _read_to_end(path: Path, stream: io.RawIOBase) -> None:
    count, block = 0, bytearray(1 << 16)
    while size := stream.readinto(block):
        count += size
        if count > MOST_BEHIND:
            raise ValueError(f"{path.name} goes on for more than {MOST_BEHIND:,} bytes behind its image")


def _turned(stored: NDArray[Any], image: _Image) -> tuple[NDArray[np.float32], NDArray[np.float64]]:
    """Values in their own units with axes to the right, front and top, and the affine of those axes.

    Volumes of a series ``[i, j, k, T]`` become ``[T, x, y, z]``.
    """
    from nibabel.orientations import apply_orientation, inv_ornt_aff, io_orientation

    axes: Any = io_orientation(image.affine)
    if np.isnan(axes).any():
        raise DataError(f"{image.data} has no usable affine (an axis without direction)", "no usable affine")
    view: Any = apply_orientation(stored, axes)
    if view.ndim == 4:
        view = np.moveaxis(view, -1, 0)
    volume = np.empty(view.shape, np.float32)
    with np.errstate(over="ignore", invalid="ignore"):  # what is not finite is refused later
        if (image.slope, image.intercept) == (1.0, 0.0):
            volume[...] = view
        else:  # a slice at a time, so that no copy in double precision is made of the whole
            for k in range(view.shape[-1]):
                volume[..., k] = view[..., k].astype(np.float64) * image.slope + image.intercept
    return volume, image.affine @ inv_ornt_aff(axes, stored.shape[:3])
