"""Connectomes of made-up people with a known best score: correlations, streamlines, and a table of the people.

The label lies in some connections alone. A correlation's Fisher z, and the logarithm of one more than a number of
streamlines, is normal about the connection's own mean, with the same deviation in everybody and no tie between
connections; in Alzheimer's disease the mean of :data:`INFORMATIVE` of them is elsewhere, and that of as many others
depends on the sex. So the best reader is a linear one, and what it reaches is :func:`best_scores`.

Tell-tales of a phantom: correlations are drawn one by one and need not be those of any series, and streamlines have
fractions.
"""

from __future__ import annotations

import json
from math import erf, sqrt
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from medgraft.benchmarks.cohorts.connectomes.reader import whole
from medgraft.cohort import PHANTOM_MARKER

GENERATOR_VERSION = "connectomes-1"
KINDS = ("correlation", "streamlines")
INFORMATIVE = 30
"""Connections of each label, or a quarter of all that there are if that is less."""
DISTANCE = {"correlation": 2.0, "streamlines": 1.5}
"""Of the two classes along their connections, in deviations."""
SPREAD = {"correlation": 0.2, "streamlines": 0.6}
SITES = 3


def write_connectomes(out: Path, *, n_subjects: int, regions: int, kinds: str, seed: int) -> None:
    """Writes a cohort; the same arguments give the same numbers.

    Args:
        out: New folder.
        n_subjects: People; diagnoses take turns, and sexes within them.
        regions: Of the atlas.
        kinds: ``correlation``, ``streamlines`` or ``both``.
        seed: Defines every file; a larger cohort begins with the smaller one.
    """
    written = KINDS if kinds == "both" else (kinds,)
    pairs = regions * (regions - 1) // 2
    means, shifts = _patterns(pairs, seed)
    rows = []
    for index in range(n_subjects):
        rng = np.random.default_rng([seed, 7, index])
        ill, female = bool(index % 2), bool(index // 2 % 2)
        name = f"sub-PHANTOM{index:04d}"
        for kind in KINDS:
            values = means[kind] + SPREAD[kind] * rng.standard_normal(pairs)
            values += SPREAD[kind] * (shifts[kind][0] * (ill - 0.5) + shifts[kind][1] * (female - 0.5))
            if kind in written:
                file = out / name / "connectivity" / f"{name}_meas-{kind}_relmat.tsv"
                _write(file, np.tanh(values) if kind == "correlation" else np.expm1(values))
        rows.append(
            {
                "participant_id": name,
                "age": round(float(rng.normal(72, 7)), 1),
                "sex": "F" if female else "M",
                "site": f"S{index // 4 % SITES + 1}",
                "diagnosis": "AD" if ill else "CN",
            }
        )
    pd.DataFrame(rows).to_csv(out / "participants.tsv", sep="\t", index=False)
    marker = {
        "generator": GENERATOR_VERSION,
        "seed": seed,
        "config": {"n_subjects": n_subjects, "regions": regions, "kinds": kinds},
        "bayes": {name: round(best_scores(seen)["f1_macro"], 4) for name, seen in _seen(written).items()},
        "statement": "generated; no person",
    }
    (out / PHANTOM_MARKER).write_text(json.dumps(marker, indent=1) + "\n", encoding="utf-8")


def _seen(written: tuple[str, ...]) -> dict[str, tuple[str, ...]]:
    return {**{kind: (kind,) for kind in written}, **({"both": KINDS} if written == KINDS else {})}


def _patterns(pairs: int, seed: int) -> tuple[dict[str, NDArray[Any]], dict[str, NDArray[Any]]]:
    """Mean of each connection, ``[P]``, and where it goes by diagnosis and by sex in deviations, ``[2, P]``."""
    rng = np.random.default_rng([seed, 6])
    means, shifts = {}, {}
    for kind in KINDS:
        means[kind] = rng.normal(0.3, 0.25, pairs) if kind == "correlation" else rng.uniform(4, 7, pairs)
        count = max(1, min(INFORMATIVE, pairs // 4))
        places = rng.permutation(pairs)[: 2 * count].reshape(2, count)
        shifts[kind] = np.zeros((2, pairs))
        for row, chosen in zip(shifts[kind], places, strict=True):
            row[chosen] = rng.choice([-1.0, 1.0], count) * DISTANCE[kind] / sqrt(count)
    return means, shifts


def _write(path: Path, values: NDArray[Any]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    np.savetxt(path, whole(values[None])[0], delimiter="\t", fmt="%.6g")


def best_scores(kinds: tuple[str, ...]) -> dict[str, float]:
    """What the best reader reaches of either label: two normal classes of one spread, equally frequent.

    With ``d`` the distance of the classes in deviations, its accuracy is ``Phi(d / 2)``, which is the macro F1 of large
    samples by symmetry, and its AUC ``Phi(d / sqrt(2))``.

    Args:
        kinds: The weights that it sees, of :data:`KINDS`.

    Example:
        >>> {name: round(value, 3) for name, value in best_scores(("correlation",)).items()}
        {'f1_macro': 0.841, 'auc': 0.921}
    """
    d = sqrt(sum(DISTANCE[kind] ** 2 for kind in kinds))
    return {"f1_macro": _phi(d / 2), "auc": _phi(d / sqrt(2))}


def _phi(x: float) -> float:
    return 0.5 * (1 + erf(x / sqrt(2)))
