"""Which films the phantoms of texts have, and the names that they go by there; no real image has such a name."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from medgraft.benchmarks.phantoms.chest.studies import ChestSetting, Study, sample_study

NAMES: Mapping[str, str] = {
    "iu_xray": "CXR{:05d}",
    "vqa_rad": "synpic{:06d}",
    "slake": "xmlab{:05d}",
    "pmc_vqa": "PMC{:08d}_F1",
}
"""Layout -> name of a film by its number."""

FIRST: Mapping[str, int] = {"iu_xray": 90_000, "vqa_rad": 990_000, "slake": 90_000, "pmc_vqa": 99_000_000}
"""Number of the first one; the real ones end below 4,000, 100,000, 700 and 20,000,000."""


def films_of(layout: str, images: int, seed: int, site: ChestSetting) -> dict[str, Study]:
    """Name -> study whose first film it is; each film is of a person of its own, and nothing is rendered."""
    name, first = NAMES[layout], FIRST[layout]
    return {name.format(first + i): sample_study(seed, layout, i, site) for i in range(images)}


def planned(config: Mapping[str, Any], seed: int, site: ChestSetting) -> dict[str, Study]:
    """Name of the film -> its study, of what a marker says."""
    return films_of(config["layout"], int(config["images"]), seed, site)


def parted(names: Sequence[str], test_share: float, val_share: float = 0.0) -> dict[str, str]:
    """Name -> ``train``, ``val`` or ``test``; the last ones are tested, and those before them validated."""
    count = len(names)
    test = max(1, round(count * test_share))
    val = max(1, round(count * val_share)) if val_share else 0
    words = ["train"] * (count - test - val) + ["val"] * val + ["test"] * test
    return dict(zip(names, words[-count:] if count else [], strict=True))


def numbers_of(name: str, seed: int, count: int) -> list[int]:
    """Numbers that choose wordings, the same for a name and seed everywhere."""
    digits = int("".join(filter(str.isdigit, name)) or 0)
    return np.random.default_rng([seed, digits]).integers(0, 2**31, size=count).tolist()
