"""From a raw T1 volume to one on the grid of the template: orientation, bias field, affine registration, intensities.

The steps, in order, and what they follow: axes turned to right, front and top; N4 bias field correction (Tustison et
al., "N4ITK: Improved N3 Bias Correction", IEEE Transactions on Medical Imaging 2010); rigid, then affine registration
to ICBM152 2009a by mutual information (Mattes et al., IEEE Transactions on Medical Imaging 2003), first coarse, then
fine; one linear interpolation onto a 1 mm grid around the brain; intensities divided by their median in the template's
brain.

What is *not* done: no skull stripping (a classical tool needs its own licence or weights, and a poor strip harms more
than none), no non-linear registration, no correction of gradient distortion, no defacing. ``mask`` sets what lies
outside the template's brain to zero; that is a cut along an average head, not a strip along the person's own.
"""

from __future__ import annotations

import functools
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field

from medgraft.benchmarks.cohorts.adni.reader import load_volume
from medgraft.benchmarks.phantoms.brain.template import BOX_EXTENT, BOX_LOW, template_t1
from medgraft.errors import ConfigError, DataError

Array = NDArray[Any]

PREPARE_VERSION = 2
"""Raised whenever the same raw volume would come out differently."""

REGISTRATION_SPACING = 2.0
MASK_MARGIN_MM = 4.0
CEILING = 4.0
"""Largest intensity kept, in medians of the brain."""

LOWEST_SIMILARITY = 0.3
"""Correlation with the template below which a registration is a failure: a sound one has 0.7 and more."""

SCALE_RANGE = (0.4, 2.5)
"""Change of volume that a head can need; beyond it the registration has collapsed or exploded."""


class PrepareConfig(BaseModel):
    """How volumes are prepared.

    Attributes:
        spacing: Edge of an output voxel, mm.
        n4: Correct the bias field.
        n4_shrink: Factor by which the bias field is estimated on a coarser grid.
        mask: Set to zero what lies outside the template's brain, widened by 4 mm.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    spacing: float = Field(1.0, ge=0.5, le=8.0)
    n4: bool = True
    n4_shrink: int = Field(4, ge=1, le=8)
    mask: bool = False


@dataclass(frozen=True)
class Prepared:
    """A prepared volume.

    Attributes:
        volume: ``float32 [x, y, z]``, axes to the right, front and top; 1 is the median of the brain.
        affine: Voxel to MNI mm, ``[4, 4]``.
        similarity: Correlation with the template inside its brain, -1..1.
    """

    volume: Array
    affine: Array
    similarity: float


def simple_itk() -> Any:
    """The SimpleITK module.

    Raises:
        ConfigError: It is not installed.
    """
    try:
        import SimpleITK
    except ImportError as error:
        raise ConfigError(
            "medgraft prepare needs SimpleITK; install it with: pip install 'medgraft[prepare]'"
        ) from error
    return SimpleITK


def prepare_volume(path: Path, config: PrepareConfig) -> Prepared:
    """Prepares one raw volume.

    Args:
        path: NIfTI file, or a folder with the slices of one DICOM series.
        config: Steps and output grid.

    Raises:
        ConfigError: SimpleITK is missing.
        DataError: The file is no usable volume, or its registration to the template failed.
    """
    sitk = simple_itk()
    sitk.ProcessObject.SetGlobalDefaultNumberOfThreads(1)  # one volume per process is the faster way to use the cores
    raw = _read_series(path) if path.is_dir() else _to_sitk(*load_volume(path))
    try:
        moving = sitk.Cast(raw, sitk.sitkFloat32)
        moving = _without_bias(moving, config.n4_shrink) if config.n4 else moving
        transform = _register(moving)
    except RuntimeError as error:  # SimpleITK's own exceptions, many lines long
        raise DataError(f"{path} cannot be registered: {_last_line(error)}") from error
    return _on_grid(path, moving, transform, config)


def _last_line(error: RuntimeError) -> str:
    return str(error).strip().splitlines()[-1].strip()


def _read_series(folder: Path) -> Any:
    """The one DICOM series of a folder, axes to the right, front and top once it is on the grid."""
    sitk = simple_itk()
    reader = sitk.ImageSeriesReader()
    series = reader.GetGDCMSeriesIDs(str(folder))
    if len(series) != 1:
        raise DataError(f"{folder} holds {len(series)} DICOM series; one is expected")
    reader.SetFileNames(reader.GetGDCMSeriesFileNames(str(folder), series[0]))
    try:
        image = reader.Execute()
    except RuntimeError as error:
        raise DataError(f"{folder} cannot be read as a DICOM series: {_last_line(error)}") from error
    if image.GetDimension() != 3 or image.GetNumberOfComponentsPerPixel() != 1 or min(image.GetSize()) < 2:
        raise DataError(f"{folder} is no 3D series of grey values, but of size {image.GetSize()}")
    if not sitk.GetArrayViewFromImage(image).any():
        raise DataError(f"{folder} is zero in every voxel")
    return image


def _to_sitk(volume: Array, affine: Array) -> Any:
    """An array in RAS with its affine as an image of SimpleITK, which counts towards left and back."""
    sitk = simple_itk()
    image = sitk.GetImageFromArray(np.ascontiguousarray(volume.transpose(2, 1, 0)))
    lps = np.diag([-1.0, -1.0, 1.0]) @ affine[:3, :3]
    spacing = np.linalg.norm(lps, axis=0)
    direction = lps / spacing
    if np.abs(direction.T @ direction - np.eye(3)).max() > 0.02:
        raise DataError("the affine shears the volume, which no scanner does; convert it again from DICOM")
    u, _, v = np.linalg.svd(direction)  # rounding in the header; SimpleITK wants an exact rotation
    image.SetSpacing(spacing.tolist())
    image.SetDirection((u @ v).ravel().tolist())
    image.SetOrigin((np.array([-1.0, -1.0, 1.0]) * affine[:3, 3]).tolist())
    return image


def _without_bias(image: Any, shrink: int) -> Any:
    """The image divided by its N4 bias field, which is estimated inside the head on a coarser grid."""
    sitk = simple_itk()
    factors = [max(1, min(shrink, size // 16)) for size in image.GetSize()]
    small = sitk.Shrink(image, factors)
    head = sitk.OtsuThreshold(small, 0, 1, 128)
    corrector = sitk.N4BiasFieldCorrectionImageFilter()
    corrector.SetMaximumNumberOfIterations([30, 20, 10])
    corrector.Execute(sitk.Cast(sitk.Clamp(small, sitk.sitkFloat32, 0.0), sitk.sitkFloat32), head)
    field = corrector.GetLogBiasFieldAsImage(image)
    return sitk.Cast(image / sitk.Cast(sitk.Exp(field), sitk.sitkFloat32), sitk.sitkFloat32)


@functools.lru_cache(maxsize=2)
def _target(spacing: float) -> tuple[Any, Any]:
    """The template and its brain as images of SimpleITK, on a grid of that spacing."""
    sitk = simple_itk()
    t1, affine = template_t1()
    template = _to_sitk(t1, affine)
    brain = _to_sitk((t1 > 0).astype(np.float32), affine)
    grid = _grid(spacing)
    smooth = sitk.SmoothingRecursiveGaussian(template, 0.5 * spacing) if spacing > 1 else template
    head = sitk.Resample(brain, grid, sitk.Transform(), sitk.sitkLinear, 0.0, sitk.sitkFloat32)
    return sitk.Resample(smooth, grid, sitk.Transform(), sitk.sitkLinear, 0.0, sitk.sitkFloat32), head > 0.5


def _grid(spacing: float) -> Any:
    """An empty image on the output grid: the box that heads of the phantom fill too, 192 x 224 x 192 mm."""
    sitk = simple_itk()
    size = [round(float(extent) / spacing) for extent in BOX_EXTENT]
    affine = np.diag([spacing, spacing, spacing, 1.0])
    affine[:3, 3] = BOX_LOW + 0.5 * spacing
    grid = sitk.Image(size, sitk.sitkFloat32)
    grid.SetSpacing([spacing] * 3)
    grid.SetDirection(np.diag([-1.0, -1.0, 1.0]).ravel().tolist())
    grid.SetOrigin((np.array([-1.0, -1.0, 1.0]) * affine[:3, 3]).tolist())
    return grid


def _register(moving: Any) -> Any:
    """The affine transform from template to volume: the best of some starts, rigid first, then affine."""
    sitk = simple_itk()
    fixed, brain = _target(REGISTRATION_SPACING)
    wide = sitk.BinaryDilate(brain, [3, 3, 3])
    starts = []
    for mode in (sitk.CenteredTransformInitializerFilter.MOMENTS, sitk.CenteredTransformInitializerFilter.GEOMETRY):
        start = sitk.CenteredTransformInitializer(fixed, moving, sitk.Euler3DTransform(), mode)
        starts.append(_optimise(fixed, wide, moving, sitk.Euler3DTransform(start), shrink=(4, 2)))
    _, rigid = min(starts, key=lambda candidate: candidate[0])
    affine = sitk.AffineTransform(3)
    affine.SetCenter(rigid.GetCenter())
    affine.SetMatrix(rigid.GetMatrix())
    affine.SetTranslation(rigid.GetTranslation())
    return _optimise(fixed, wide, moving, affine, shrink=(4, 2, 1))[1]


def _optimise(fixed: Any, mask: Any, moving: Any, start: Any, shrink: tuple[int, ...]) -> tuple[float, Any]:
    """Follows the mutual information inside the mask from one start; returns its negative, and the transform."""
    sitk = simple_itk()
    method = sitk.ImageRegistrationMethod()
    method.SetMetricAsMattesMutualInformation(numberOfHistogramBins=32)
    method.SetMetricFixedMask(mask)
    method.SetMetricSamplingStrategy(method.RANDOM)
    method.SetMetricSamplingPercentagePerLevel([min(1.0, 0.03 * step**2) for step in shrink], seed=1)
    method.SetInterpolator(sitk.sitkLinear)
    method.SetOptimizerAsRegularStepGradientDescent(1.0, 1e-3, 80, relaxationFactor=0.6)
    method.SetOptimizerScalesFromPhysicalShift()
    method.SetShrinkFactorsPerLevel(list(shrink))
    method.SetSmoothingSigmasPerLevel([float(step) for step in shrink])
    method.SmoothingSigmasAreSpecifiedInPhysicalUnitsOn()
    method.SetInitialTransform(start, inPlace=True)
    method.Execute(fixed, moving)
    return float(method.GetMetricValue()), start


def _on_grid(path: Path, moving: Any, transform: Any, config: PrepareConfig) -> Prepared:
    """One interpolation onto the output grid, and intensities in medians of the brain."""
    sitk = simple_itk()
    scale = abs(float(np.linalg.det(np.array(transform.GetMatrix()).reshape(3, 3))))
    if not SCALE_RANGE[0] < scale < SCALE_RANGE[1]:
        raise DataError(f"{path} was not registered: the head would change its volume by a factor of {scale:.2f}")
    template, brain = _target(config.spacing)
    image = sitk.Resample(moving, template, transform, sitk.sitkLinear, 0.0, sitk.sitkFloat32)
    volume, head, target = (sitk.GetArrayFromImage(each).transpose(2, 1, 0) for each in (image, brain, template))
    inside = head.astype(bool)
    middle = float(np.median(volume[inside]))
    if not np.isfinite(middle) or middle <= 0:
        raise DataError(f"{path} was not registered: where the brain should be, the median is {middle:g}")
    similarity = float(np.corrcoef(volume[inside], target[inside])[0, 1])
    if not similarity >= LOWEST_SIMILARITY:
        raise DataError(f"{path} was not registered: its correlation with the template is {similarity:.2f}")
    volume = np.clip(volume / middle, 0.0, CEILING)
    if config.mask:
        from scipy import ndimage

        distance: Any = ndimage.distance_transform_edt(~inside)
        volume = np.where(np.asarray(distance) * config.spacing <= MASK_MARGIN_MM, volume, 0.0)
    affine = np.diag([config.spacing] * 3 + [1.0])
    affine[:3, 3] = BOX_LOW + 0.5 * config.spacing
    return Prepared(np.ascontiguousarray(volume, dtype=np.float32), affine, similarity)
