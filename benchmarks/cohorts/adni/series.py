"""Kinds of images in ADNI's archive, told by the words of their description: T1, PET, maps of diffusion.

Descriptions are read as the search tables write them (``Coreg, Avg, Std Img and Vox Siz, Uniform Resolution``) and as
the archive names its folders, with ``_`` for blanks.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

MRI, PET = frozenset(("MRI", "MR")), frozenset(("PET", "PT"))
PET_IMAGES = "PET images"
NO_MRI, NO_T1, A_MASK = "not an MRI", "not a T1-weighted series", "a mask, not an image"

_T1_WORDS = re.compile(r"MP[-_ ]?R|SPGR|MT1|\bT1", re.IGNORECASE)
_MASK = re.compile(r"\bmask\b", re.IGNORECASE)
_DIFFUSION = re.compile(r"\bdti|\bdwi|diffus|tensor|aniso")
_MAP_WORDS = {
    "FA": re.compile(r"\bfa\b|fractional aniso"),
    "MD": re.compile(r"\bmd\b|mean diffus"),
    "AD": re.compile(r"\bad\b|axial diffus"),
    "RD": re.compile(r"\brd\b|radial diffus"),
}
_MAP_WHOLE = re.compile(
    r"\b(?:(?:fractional )?aniso\w*|(?:(?:mean|axial|radial) )?diffus\w*|tensor|dti|dwi|fa|md|ad|rd|maps?)\b"
)
"""Words that say which map of what, and not how it was made."""
_COLOURED = re.compile(r"\bcol")
PET_LEVELS = ("uniform resolution", "uniform 6 mm", "standardised grid", "averaged", "dynamic")
"""Processing of a PET image, the preferred one first: what the PET core makes of the co-registered frames."""
_LEVEL_WORDS = ("uniform resolution", "uniform", "standardized image|std img", "averaged|avg", "co-?registered dynamic")


@dataclass(frozen=True)
class Series:
    """One kind of image.

    Attributes:
        name: What they are called in errors, several of them.
        filters: Reason -> rows that are left out, ``bool [n]`` of a table with ``modality``, ``description`` and
            whatever a caller added; an empty reason is not counted.
        rank: Description -> sort key that puts the preferred processing of a scan first.
    """

    name: str
    filters: tuple[tuple[str, Callable[[pd.DataFrame], Any]], ...]
    rank: Callable[[str], tuple[int, ...]]


def words(description: str) -> str:
    """A description in lower case, with single blanks in place of ``_``, ``;`` and ``,``.

    Example:
        >>> words("AV45_Coreg,_Avg,_Std_Img_and_Vox_Siz,_Uniform_6mm_Res")
        'av45 coreg avg std img and vox siz uniform 6mm res'
    """
    return " ".join(re.sub(r"[_;,]+", " ", description).lower().split())


def preference(description: str) -> tuple[int, int, int, int]:
    """Sort key that puts the processed T1 image that ADNI recommends first.

    Scaled images come before N3m, N3 and raw ones; then the one with the most correction steps; then a repeat scan
    (``MPR-R``), which the archive holds where the first had flaws; then ``Scaled_2``.
    """
    text = " ".join(description.replace("_", " ").replace(";", " ").lower().split())
    level = next((i for i, step in enumerate(("scaled", "n3m", "n3", "gradwarp")) if step in text), 4)
    steps = ("gradwarp" in text) + ("b1 correction" in text)
    return level, -steps, int(re.search(r"mp-?r-r", text) is None), int("scaled 2" not in text)


def _masks(rows: pd.DataFrame) -> pd.Series:
    return rows["description"].str.contains(_MASK)


T1 = Series(
    "T1 images",
    (
        (NO_MRI, lambda rows: ~rows["modality"].isin(list(MRI))),
        (NO_T1, lambda rows: ~rows["description"].str.contains(_T1_WORDS)),
        (A_MASK, _masks),
    ),
    preference,
)


def pet_level(description: str) -> int | None:
    """Place of a PET image's processing in :data:`PET_LEVELS`; ``None`` for a raw image.

    Example:
        >>> [pet_level(f"Coreg, Avg, {rest}") for rest in ("Std Img and Vox Siz, Uniform Resolution", "x")]
        [0, 3]
    """
    text = words(description)
    if re.search(r"\braw\b", text):
        return None
    return next((i for i, form in enumerate(_LEVEL_WORDS) if re.search(form, text)), None)


def pet_images(tracer: str) -> Series:
    """PET images of a tracer; rows need a column ``tracer``.

    Args:
        tracer: Its name, or ``any``, which is also that of images that name none.
    """

    def untold(rows: pd.DataFrame) -> Any:
        return np.zeros(len(rows), bool) if tracer == "any" else rows["tracer"] == ""

    def other(rows: pd.DataFrame) -> Any:
        return np.zeros(len(rows), bool) if tracer == "any" else rows["tracer"] != tracer

    return Series(
        PET_IMAGES,
        (
            ("", lambda rows: ~rows["modality"].isin(list(PET))),
            (A_MASK, _masks),
            ("raw PET image, not of co-registered frames", lambda rows: rows["description"].map(pet_level).isna()),
            ("PET image whose tracer nothing tells", untold),
            ("PET image of another tracer", other),
        ),
        lambda description: (pet_level(description) or 0,),
    )


def map_of(description: str) -> str | None:
    """Which map of the diffusion tensor a description names; ``None`` for none, for colours, and for several.

    ``FA`` and its like count beside a word of diffusion only: ``FA 8`` of a T1 image is its flip angle.

    Example:
        >>> map_of("Axial_DTI_FA"), map_of("MPRAGE FA 8"), map_of("DTI color FA"), map_of("Mean Diffusivity")
        ('FA', None, None, 'MD')
    """
    text = words(description)
    if not _DIFFUSION.search(text) or _COLOURED.search(text):
        return None
    named = [name for name, form in _MAP_WORDS.items() if form.search(text)]
    return named[0] if len(named) == 1 else None


def words_beside_map(description: str) -> str:
    """What a description of a map says besides which map it is: the processing, equal for maps of one fit.

    Example:
        >>> words_beside_map("DTI; Eddy; FA"), words_beside_map("Mean Diffusivity, DTI Eddy")
        ('eddy', 'eddy')
    """
    return " ".join(sorted(set(_MAP_WHOLE.sub(" ", words(description)).split())))


def diffusion_maps(name: str) -> Series:
    """Images of one map, ``FA``, ``MD``, ``AD`` or ``RD``, of whatever the archive or a console calls them."""
    return Series(
        f"{name} maps",
        (
            ("", lambda rows: ~rows["modality"].isin([*MRI, "DTI"])),
            ("", lambda rows: rows["description"].map(map_of) != name),
            (A_MASK, _masks),
        ),
        lambda description: (0,),
    )
