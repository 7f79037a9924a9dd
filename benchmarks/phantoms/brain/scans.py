"""People with T1, PET and diffusion maps that share what is common to them, as a BIDS tree with derivatives.

A person is a vector of :data:`COMMON` numbers, the first of which is atrophy and higher in Alzheimer's disease. Each
scan shows it through patterns of its kind's own, with noise of its own (:data:`NOISE`), beside numbers that no other
kind of scan knows, and what two scans of a person share without saying anything of the brain: age, sex, site, head
size. All patterns are smooth bumps on an ellipsoid of three tissues, so what the best reader reaches is known: see
:func:`best_auc` and :func:`best_retrieval`.

Tell-tales of a phantom: an ellipsoid is no brain, and nothing but these numbers tells two people apart.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from math import erf, sqrt
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from medgraft.benchmarks.cohorts.tables.reading import PHANTOM_MARKER
from medgraft.benchmarks.phantoms.brain.scans_loni import LoniTree
from medgraft.benchmarks.phantoms.brain.writing import save_volume

Array = NDArray[Any]

GENERATOR_VERSION = "scans-1"
COMMON, SPECIFIC = 6, 3
NOISE = 0.3
"""Deviation of what a scan shows of a common number, beside the number's own of 1."""
DISTANCE = 1.8
"""Of Alzheimer's disease from normal along atrophy, in deviations."""
STRENGTH = 0.2
"""Share by which one deviation of a number changes the signal at a bump's top."""
KINDS = ("t1", "pet", "FA", "MD")
RUN = "bold"
"""A run of fMRI, whose amplitude over time is the image that shows the numbers."""
RUN_SEED = 41
SITES = 4
DRIFT = 0.25
"""Deviation of a common number between two visits of a person."""
PATTERN_SEED = 20_260_411
EDGE_MM = 192.0
_REFERENCE = np.array([0.0, -0.55, -0.6])
_TISSUE = {  # cortex, white matter, fluid
    "t1": (0.75, 1.0, 0.25),
    "pet": (1.5, 0.9, 0.2),
    "FA": (0.18, 0.5, 0.05),
    "MD": (0.0009, 0.00075, 0.0028),
    RUN: (20.0, 10.0, 5.0),
}


@dataclass(frozen=True)
class Person:
    """What is drawn of one person.

    Attributes:
        ill: Alzheimer's disease.
        common: ``[COMMON]`` at the first visit.
        age: Years.
        female: Sex.
        site: From 0.
        head: Size of the head relative to the mean, in deviations.
        visits: One or two.
        scans: Kinds of scan at each visit.
    """

    ill: bool
    common: Array
    age: float
    female: bool
    site: int
    head: float
    visits: int
    scans: tuple[frozenset[str], ...]


def draw_person(rng: np.random.Generator, missing: float) -> Person:
    """A person.

    Args:
        rng: Draws it.
        missing: Probability that a visit lacks PET, and that it lacks diffusion; of T1 a quarter of it.
    """
    ill, female = bool(rng.random() < 0.5), bool(rng.random() < 0.5)
    common = rng.standard_normal(COMMON)
    common[0] += DISTANCE * ill
    visits = 1 + int(rng.random() < 0.25)
    scans = tuple(_scans(rng, missing) for _ in range(visits))
    age = float(np.clip(rng.normal(73, 7), 55, 92))
    head = (-0.8 if female else 0.8) + 0.6 * rng.standard_normal()
    return Person(ill, common, age, female, int(rng.integers(SITES)), head, visits, scans)


def _scans(rng: np.random.Generator, missing: float) -> frozenset[str]:
    shares = {"t1": missing / 4, "pet": missing, "dmri": missing}
    there = frozenset(kind for kind, share in shares.items() if rng.random() >= share)
    return there or frozenset({"t1"})


class Painter:
    """Paints scans on a cube of ``size`` voxels a side.

    Attributes:
        affine: Voxels to mm, ``[4, 4]``.
    """

    def __init__(self, size: int) -> None:
        self.size, self.spacing = size, EDGE_MM / size
        self.affine = np.diag([self.spacing, self.spacing, self.spacing, 1.0])
        self.affine[:3, 3] = -EDGE_MM / 2
        axis = (np.arange(size) + 0.5) / size * 2 - 1
        self._places = np.stack(np.meshgrid(axis, axis, axis, indexing="ij"))

    def geometry(self, head: float) -> tuple[Array, Array]:
        """Places relative to a head of a size, ``[3, n, n, n]``, and how far from its middle they are, 1 its edge."""
        radii = np.array([0.70, 0.84, 0.68]) * (1 + 0.04 * head)
        places = self._places / radii[:, None, None, None]
        return places, np.sqrt((places**2).sum(axis=0))

    def scan(self, kind: str, person: Person, common: Array, rng: np.random.Generator) -> Array:
        """One map ``float32 [n, n, n]``, 0 outside of the head.

        Args:
            kind: Of :data:`KINDS`, or :data:`RUN` for the amplitude over time.
            person: Whose.
            common: Their common numbers as this scan shows them, ``[COMMON]``.
            rng: Draws what is specific, and the noise.
        """
        places, far = self.geometry(person.head)
        cortex, white, fluid = _TISSUE[kind]
        inner = (places / np.array([0.22, 0.42, 0.25])[:, None, None, None]) ** 2
        image = np.where(far > 0.72, cortex, white)
        image = np.where((inner.sum(axis=0) < 1) | (far > 0.94), fluid, image)
        numbers = [*common, *rng.standard_normal(SPECIFIC), (person.age - 73) / 7, *np.eye(SITES)[person.site]]
        change = sum(number * bumps for number, bumps in zip(numbers, _bumps(kind, places), strict=True))
        image = image * np.clip(1 + STRENGTH * change, 0.1, 3)
        if kind == "pet":
            image = np.where(self.reference(person.head), 1.0, image) * np.exp(0.4 * rng.standard_normal()) * 5000
        image = image * (1 + 0.03 * rng.standard_normal(image.shape))
        image = np.clip(image, 0, 0.95) if kind == "FA" else np.clip(image, 0, None)
        return np.where(far < 1, image, 0).astype(np.float32)

    def reference(self, head: float) -> Array:
        """The region without any of the changes, ``bool [n, n, n]``."""
        places, _ = self.geometry(head)
        return ((places - _REFERENCE[:, None, None, None]) ** 2).sum(axis=0) < 0.22**2


def _bumps(kind: str, places: Array) -> list[Array]:
    """A pattern for each number: three bumps of either sign, the same for everybody, ``[n, n, n]`` each."""
    rng = np.random.default_rng([PATTERN_SEED, (*KINDS, RUN).index(kind)])
    patterns = []
    for _ in range(COMMON + SPECIFIC + 1 + SITES):
        total = np.zeros(places.shape[1:])
        for _ in range(3):
            centre, sign = rng.uniform(-0.65, 0.65, 3), rng.choice([-1.0, 1.0])
            total += sign * np.exp(-((places - centre[:, None, None, None]) ** 2).sum(axis=0) / (2 * 0.35**2))
        patterns.append(total)
    return patterns


def axial_and_radial(fa: Array, md: Array) -> tuple[Array, Array]:
    """Diffusivity along and across the axis of a tensor of rotation with an anisotropy and a mean, ``[...]`` each.

    Basser and Pierpaoli, "Microstructural and physiological features of tissues elucidated by quantitative-diffusion-
    tensor MRI", Journal of Magnetic Resonance B 111, 1996: ``FA = |a - r| / sqrt(a^2 + 2 r^2)``.

    Example:
        >>> a, r = axial_and_radial(np.array(0.5), np.array(1.0))
        >>> round(float(abs(a - r) / np.sqrt(a**2 + 2 * r**2)), 6), round(float((a + 2 * r) / 3), 6)
        (0.5, 1.0)
    """
    excess = fa / np.sqrt(3 - 2 * fa**2)
    return md * (1 + 2 * excess), md * (1 - excess)


def write_scans(
    out: Path, *, n_subjects: int, size: int, missing: float, seed: int, layout: str = "bids", volumes: int = 0
) -> None:
    """Writes a cohort; the same arguments give the same bytes.

    Args:
        out: New folder.
        n_subjects: People.
        size: Voxels a side.
        missing: See :func:`draw_person`.
        seed: Defines every file; a larger cohort begins with the smaller one.
        layout: ``bids`` with derivatives, or ``loni`` as ADNI's archive has it, without masks of reference regions.
        volumes: Of a resting-state run at each visit, in ``bids``; 0 for none, which leaves all other files as they
            are.
    """
    painter, rows, archive = Painter(size), [], LoniTree(out)
    for index in range(n_subjects):
        rng = np.random.default_rng([seed, index])
        person = draw_person(rng, missing)
        name, facts = f"sub-PHANTOM{index:04d}", facts_of(person)
        for visit in range(person.visits):
            common = person.common + (DRIFT * rng.standard_normal(COMMON) if visit else 0)
            images = paint_visit(painter, person, person.scans[visit], common, rng)
            if volumes:
                own = np.random.default_rng([seed, index, visit, RUN_SEED])
                images |= paint_run(painter, person, common, missing, volumes, own)
            if layout == "loni":
                archive.write_visit(index, visit, facts, images, painter.affine)
            else:
                _write_visit(out, name, f"ses-M{12 * visit:03d}", painter, person, images)
        rows.append({"participant_id": name, **facts})
    out.mkdir(parents=True, exist_ok=True)
    if layout == "loni":
        archive.write_tables()
    else:
        pd.DataFrame(rows).to_csv(out / "participants.tsv", sep="\t", index=False)
        described = json.dumps({"Name": "phantom; no person", "BIDSVersion": "1.9.0"})
        (out / "dataset_description.json").write_text(described + "\n", encoding="utf-8")
    marker = {
        "generator": GENERATOR_VERSION,
        "seed": seed,
        # Without runs it is the phantom that it was before there were any, marker and revision included.
        "config": {"n_subjects": n_subjects, "size": size, "missing": missing, "layout": layout}
        | ({"volumes": volumes} if volumes else {}),
        "bayes": {f"auc_{kinds}_kinds": round(best_auc(kinds), 4) for kinds in range(1, 5 if volumes else 4)},
        "statement": "generated; no person",
    }
    (out / PHANTOM_MARKER).write_text(json.dumps(marker, indent=1) + "\n", encoding="utf-8")


def facts_of(person: Person) -> dict[str, Any]:
    """What tables say of a person."""
    return {
        "age": round(person.age, 1),
        "sex": "F" if person.female else "M",
        "site": f"S{person.site + 1}",
        "diagnosis": "AD" if person.ill else "CN",
        "head_size": round(1.45e6 * (1 + 0.04 * person.head) ** 3),
    }


def paint_visit(
    painter: Painter, person: Person, scans: frozenset[str], common: Array, rng: np.random.Generator
) -> dict[str, Array]:
    """Kind of image -> ``float32 [n, n, n]``; what is missing is drawn too, so that the rest does not depend on it.

    Args:
        painter: Paints them.
        person: Whose.
        scans: ``t1``, ``pet`` and ``dmri``, whichever there are.
        common: The common numbers at this visit, ``[COMMON]``.
        rng: Draws the noise.
    """
    shown = {kind: common + NOISE * rng.standard_normal(COMMON) for kind in ("t1", "pet", "dmri")}
    images = {kind: painter.scan(kind, person, shown.get(kind, shown["dmri"]), rng) for kind in KINDS}
    along, across = axial_and_radial(images["FA"], images["MD"])
    images |= {"AD": along.astype(np.float32), "RD": across.astype(np.float32)}
    return {kind: image for kind, image in images.items() if (kind if kind in ("t1", "pet") else "dmri") in scans}


def paint_run(
    painter: Painter, person: Person, common: Array, missing: float, volumes: int, rng: np.random.Generator
) -> dict[str, Array]:
    """A run, ``float32 [n, n, n, T]``, under :data:`RUN`; nothing where it is missing.

    Every voxel is noise about 1,000 that is white in time; its amplitude is an image as the others are.

    Args:
        painter: Paints the amplitude.
        person: Whose.
        common: The common numbers at this visit, ``[COMMON]``.
        missing: Probability that there is none.
        volumes: ``T``.
        rng: Draws all of it.
    """
    there = rng.random() >= missing
    amplitude = painter.scan(RUN, person, common + NOISE * rng.standard_normal(COMMON), rng)
    if not there:
        return {}
    run = 1000 + amplitude[..., None] * rng.standard_normal((*amplitude.shape, volumes))
    return {RUN: np.where(amplitude[..., None] > 0, run, 0).astype(np.float32)}


def _write_visit(
    out: Path, subject: str, session: str, painter: Painter, person: Person, images: Mapping[str, Array]
) -> None:
    """All files of one visit as BIDS."""
    stem, inside = f"{subject}_{session}", Path(subject) / session
    if "t1" in images:
        save_volume(out / inside / "anat" / f"{stem}_T1w.nii.gz", images["t1"], painter.affine)
    if "pet" in images:
        folder = out / "derivatives" / "petprep" / inside / "pet"
        save_volume(folder / f"{stem}_space-T1w_trc-18FFDG_pet.nii.gz", images["pet"], painter.affine)
        region = painter.reference(person.head).astype(np.int16)
        save_volume(folder / f"{stem}_space-T1w_label-cerebellum_mask.nii.gz", region, painter.affine)
    if RUN in images:
        folder = out / "derivatives" / "fmriprep" / inside / "func"
        file = folder / f"{stem}_task-rest_space-MNI152NLin2009cAsym_desc-preproc_bold.nii.gz"
        save_volume(file, images[RUN], painter.affine)
    folder = out / "derivatives" / "qsiprep" / inside / "dwi"
    for name in ("FA", "MD", "AD", "RD"):
        if name in images:
            file = folder / f"{stem}_space-T1w_model-tensor_param-{name.lower()}_dwimap.nii.gz"
            save_volume(file, images[name], painter.affine)


# -- what the best reader reaches -------------------------------------------------------------------------------------


def best_auc(kinds: int) -> float:
    """AUC of Alzheimer's disease against normal by whoever reads atrophy off so many kinds of scan of one visit.

    Args:
        kinds: 1 or more.

    Example:
        >>> round(best_auc(1), 3), round(best_auc(3), 3)
        (0.889, 0.895)
    """
    z = DISTANCE / sqrt(2 * (1 + NOISE**2 / kinds))
    return 0.5 * (1 + erf(z / sqrt(2)))


def best_retrieval(gallery: int, ranks: tuple[int, ...] = (1, 5), draws: int = 400) -> dict[int, float]:
    """Share of scans whose partner of another kind is among the first by the best matcher of common numbers alone.

    It ranks a gallery by ``p(x, y) / p(y)``, exact under the generator. Age, sex, site and head size, which it does not
    use, would tell it more.

    Args:
        gallery: Scans to choose from, one of them the partner.
        ranks: How many are looked at.
        draws: Galleries drawn.
    """
    rng = np.random.default_rng(0)
    hits = dict.fromkeys(ranks, 0.0)
    for _ in range(draws):
        common = rng.standard_normal((gallery, COMMON))
        common[:, 0] += DISTANCE * (rng.random(gallery) < 0.5)
        x, y = (common + NOISE * rng.standard_normal(common.shape) for _ in range(2))
        scores = _log_joint(x[:, None], y[None]) - _log_alone(y)[None]
        better = (scores > np.diagonal(scores)[:, None]).sum(axis=1)
        for k in ranks:
            hits[k] += float((better < k).mean()) / draws
    return hits


def _log_joint(x: Array, y: Array) -> Array:
    """Logarithm of the density of two scans of one person, up to a constant."""
    spread = 1 + NOISE**2
    scale = spread**2 - 1

    def form(a: Array, b: Array) -> Array:
        return -0.5 * (spread * a**2 - 2 * a * b + spread * b**2) / scale

    healthy, ill = form(x[..., 0], y[..., 0]), form(x[..., 0] - DISTANCE, y[..., 0] - DISTANCE)
    return np.logaddexp(healthy, ill) + form(x[..., 1:], y[..., 1:]).sum(axis=-1)


def _log_alone(y: Array) -> Array:
    """Logarithm of the density of one scan, up to a constant."""
    forms = -0.5 * y**2 / (1 + NOISE**2)
    ill = -0.5 * (y[..., 0] - DISTANCE) ** 2 / (1 + NOISE**2)
    return np.logaddexp(forms[..., 0], ill) + forms[..., 1:].sum(axis=-1)
