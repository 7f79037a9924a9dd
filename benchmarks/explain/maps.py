"""Maps of where a graft's decision on one sample comes from, by one of three methods."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from medgraft.benchmarks.explain.geometry import MODES, resized, shows_whole
from medgraft.benchmarks.explain.gradcam import gradcam
from medgraft.benchmarks.explain.occlusion import occlusion
from medgraft.benchmarks.explain.pictures import draw_image, draw_volume
from medgraft.benchmarks.explain.rollout import rollout
from medgraft.benchmarks.explain.scorer import Scorer
from medgraft.benchmarks.results.writing import write_atomically
from medgraft.errors import ConfigError, UnknownNameError
from medgraft.modality import find_modality


@dataclass(frozen=True)
class Method:
    """A way to make maps.

    Attributes:
        draw: Scorer, prepared input ``[1, C, *size]`` and number of the class -> map ``[*any]``.
        title: For the picture.
        unit: Of the map's values.
        of_class: The map is of one class.
    """

    draw: Callable[..., Tensor]
    title: str
    unit: str
    of_class: bool = True


METHODS: dict[str, Method] = {
    "rollout": Method(rollout, "attention rollout, the same for every class", "share of the attention", of_class=False),
    "gradcam": Method(gradcam, "Grad-CAM", "positive weight for the class"),
    "occlusion": Method(occlusion, "occlusion", "evidence lost where hidden"),
}


@dataclass(frozen=True)
class Explanation:
    """A map and what it is of.

    Attributes:
        method: ``rollout``, ``gradcam`` or ``occlusion``.
        target: Name of the class; empty for numbers and risks.
        score: What the graft's objective gives it: a probability, or the predicted number.
        modality: Of the input that the map is of.
        heat: The map on the prepared input, ``float32 [*size]``: what the encoder sees. Its unit depends on the method:
            shares, weights, or lost evidence (log odds of the class, or the predicted number).
        seen: The prepared input's first channel, ``float32 [*size]``.
        raw: The sample as it was read, ``[H, W]`` or ``[D, H, W]``.
        whole: The prepared input is the whole sample resized, so that the map can be laid over it.
    """

    method: str
    target: str
    score: float
    modality: str
    heat: np.ndarray
    seen: np.ndarray
    raw: np.ndarray
    whole: bool

    @property
    def on_sample(self) -> np.ndarray:
        """The map on the sample's own grid, ``float32 [H, W]`` or ``[D, H, W]``.

        Raises:
            ConfigError: The encoder sees a crop or slices of the sample, so that the map has no place on it.
        """
        if not self.whole:
            raise ConfigError(
                "the encoder sees a crop, slices or padding of the sample, so the map is drawn on what it sees and not "
                "on the sample; read heat and seen"
            )
        return resized(self.heat, self.raw.shape)

    @property
    def title(self) -> str:
        """What the map is of, in words."""
        of = f"{self.target}: {self.score:.3f}" if self.target else f"predicted: {self.score:.4g}"
        return f"{of}   {METHODS[self.method].title}"

    def picture(self) -> bytes:
        """The map over the sample (or over what the encoder sees of it), as PNG."""
        under, heat = (np.asarray(self.raw), self.on_sample) if self.whole else (self.seen, self.heat)
        unit = METHODS[self.method].unit
        if heat.ndim == 2:
            return draw_image(under, heat, self.title, unit)
        return draw_volume(under, heat, self.title, unit, oriented=self.whole)

    def save(self, path: str | Path) -> Path:
        """Writes :meth:`picture` as a PNG file, whole or not at all."""
        path = Path(path)
        path.parent.mkdir(parents=True, exist_ok=True)
        content = self.picture()
        write_atomically(path, lambda handle: handle.write(content))
        return path

    def save_nifti(self, path: str | Path, affine: np.ndarray) -> Path:
        """Writes the map of a volume as NIfTI, in the volume's space.

        Args:
            path: ``.nii`` or ``.nii.gz``.
            affine: Of the volume, voxels ``[x, y, z]`` to millimetres, ``[4, 4]``.

        Raises:
            ConfigError: The map is of no volume, or has no place on it.
        """
        import nibabel as nib

        if self.raw.ndim != 3:
            raise ConfigError(f"a map of a sample of {self.raw.ndim} axes is no volume; save a picture of it")
        path = Path(path)
        path.parent.mkdir(parents=True, exist_ok=True)
        image = nib.Nifti1Image(self.on_sample.astype(np.float32), affine)  # pyright: ignore
        part = path.with_name(f".{path.name}.part{''.join(path.suffixes[-2:])}")
        try:
            nib.save(image, part)  # pyright: ignore
            part.replace(path)
        finally:
            part.unlink(missing_ok=True)
        return path


def spatial_modality(inputs: tuple[str, ...]) -> str:
    """The modality of a sample that a map can be drawn of.

    Raises:
        ConfigError: None of them has places: texts, signals and tables.
    """
    spatial = [name for name in inputs if find_modality(name).axes in MODES]
    if not spatial:
        raise ConfigError(f"a map is drawn on an image or a volume, and the graft reads {' and '.join(inputs)}")
    return spatial[0]


def explain(
    scorer: Scorer, raw: np.ndarray, method: str, classes: tuple[str, ...], target: str | None = None, **options: Any
) -> Explanation:
    """Makes one map.

    Args:
        scorer: The graft, with what else the sample has.
        raw: The image ``[H, W]`` or the volume ``[D, H, W]``.
        method: Name of one of :data:`METHODS`.
        classes: Names of the classes; empty for numbers and risks.
        target: The class to explain; the one with the highest score by default.
        **options: Of the method; ``window`` and ``stride`` of occlusion.

    Raises:
        UnknownNameError: No such method, or no such class.
        ConfigError: The method does not apply to the encoder; the sentence says why and what to use.
    """
    check(method, classes, target)
    tower = scorer.tower
    x = torch.as_tensor(tower.prepare(raw))[None].to(tower.device)
    with torch.no_grad():
        scores = scorer.objective.activated(scorer(x))[0]
    number = classes.index(target) if target else int(scores.argmax())
    heat = METHODS[method].draw(scorer, x, number, **options).detach().float()
    size = tuple(tower.spec.input_size)
    if tuple(heat.shape) != size:
        heat = F.interpolate(heat[None, None], size=size, mode=MODES[len(size)], align_corners=False)[0, 0]
    return Explanation(
        method=method,
        target=classes[number] if classes else "",
        score=float(scores[number]),
        modality=scorer.modality,
        heat=heat.cpu().numpy(),
        seen=x[0, 0].float().cpu().numpy(),
        raw=raw,
        whole=shows_whole(tower, raw),
    )


def check(method: str, classes: tuple[str, ...], target: str | None) -> None:
    """Refuses names that do not exist, before anything runs.

    Raises:
        UnknownNameError: No such method, or no such class.
        ConfigError: A class is named and the graft predicts numbers.
    """
    if method not in METHODS:
        raise UnknownNameError("method of explanation", method, METHODS)
    if target and not classes:
        raise ConfigError(f"class {target!r} cannot be explained: the graft predicts a number")
    if target and target not in classes:
        raise UnknownNameError("class of the graft", target, classes)
