"""ADNI's blood arrays as a phantom: a profile on its side, ADNIMERGE and polygenic scores, with a known best score.

A few genes go up or down along one line from cognitively normal over mild cognitive impairment to Alzheimer's disease;
all else is noise of each gene and a plate's shift of all its samples, which says nothing. APOE e4 and the polygenic
score depend on the diagnosis, too. So the best classifier is known, and what it reaches is in the marker file.
"""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pandas as pd

from medgraft.benchmarks.cohorts.omics.adni_blood import SCORES
from medgraft.cohort import PHANTOM_MARKER

GENERATOR_VERSION = "blood-1"
CLASSES = ("CN", "MCI", "AD")
SHARES = (0.35, 0.40, 0.25)
PLACES = np.array([0.0, 0.5, 1.0])
"""Place of each diagnosis on the line."""
APOE4 = np.array([[0.72, 0.25, 0.03], [0.50, 0.39, 0.11], [0.34, 0.47, 0.19]])
"""Share of 0, 1 and 2 alleles in each diagnosis."""
PRS = np.array([0.0, 0.25, 0.5])
"""Mean of the polygenic score in each, in deviations."""
INFORMATIVE = 40
DISTANCE = 2.0
"""Distance of AD from CN along the genes, in deviations of the noise."""
FURTHER = 0.25
"""Share of the genes that a second, dimmer probe set measures."""


def ptid(index: int) -> str:
    """Subject ``index`` as no real one is called; see :mod:`medgraft.benchmarks.cohorts.files.made_up`."""
    return f"{999 - index // 1000}_S_{9000 - 1000 * (index // 1000) + index % 1000}"


def write_blood(out: Path, *, n_subjects: int, n_genes: int, seed: int) -> None:
    """Writes the three tables and the marker.

    Args:
        out: The folder.
        n_subjects: Subjects, a sample each.
        n_genes: Genes; ``INFORMATIVE`` of them or, of fewer, half say something.
        seed: Defines every file.
    """
    rng = np.random.default_rng([seed, 1])
    dx = rng.choice(3, n_subjects, p=SHARES)
    loads = np.zeros(n_genes)
    informative = rng.choice(n_genes, min(INFORMATIVE, n_genes // 2), replace=False)
    loads[informative] = rng.choice([-1.0, 1.0], len(informative)) * DISTANCE / np.sqrt(len(informative))
    base, spread = rng.uniform(4, 11, n_genes), rng.uniform(0.3, 0.9, n_genes)
    noise = rng.standard_normal((n_subjects, n_genes))
    plates = rng.integers(1, 10, n_subjects)
    values = base + spread * (noise + PLACES[dx][:, None] * loads) + rng.normal(0, 0.05, 10)[plates][:, None]
    alleles = np.array([rng.choice(3, p=APOE4[k]) for k in dx])
    scores = rng.normal(PRS[dx], 1.0)
    out.mkdir(parents=True, exist_ok=True)
    _write_profile(out / "ADNI_Gene_Expression_Profile.csv", values, plates, rng)
    ages = rng.normal(74 + 1.5 * dx, 6.5).round(1)
    pd.DataFrame(
        {
            "RID": [int(ptid(i)[-4:]) for i in range(n_subjects)],
            "PTID": [ptid(i) for i in range(n_subjects)],
            "VISCODE": "bl",
            "SITE": [999 - i % 6 for i in range(n_subjects)],
            "EXAMDATE": "2011-05-02",
            "AGE": ages.clip(55, 95),
            "PTGENDER": rng.choice(["Female", "Male"], n_subjects),
            "PTEDUCAT": rng.integers(8, 21, n_subjects),
            "APOE4": alleles,
            "DX": [("CN", "MCI", "Dementia")[k] for k in dx],
            "Month": 0,
        }
    ).to_csv(out / "ADNIMERGE.csv", index=False)
    names = [ptid(i) for i in range(n_subjects)]
    pd.DataFrame({"PTID": names, "PRS": scores.round(4)}).to_csv(out / SCORES, index=False)
    marker = {
        "generator": GENERATOR_VERSION,
        "seed": seed,
        "config": {"n_subjects": n_subjects, "n_genes": n_genes},
        "bayes": {name: round(value, 4) for name, value in bayes_macro_f1().items()},
        "statement": "generated; no person",
    }
    (out / PHANTOM_MARKER).write_text(json.dumps(marker, indent=1) + "\n", encoding="utf-8")


def _write_profile(path: Path, values: np.ndarray, plates: np.ndarray, rng: np.random.Generator) -> None:
    """ADNI's layout, from values ``[n, G]`` and the plate of each sample ``[n]``."""
    n, genes = values.shape
    facts = {
        "Phase": ["ADNI2"] * n,
        "Visit": ["bl" if i % 3 else "v03" for i in range(n)],
        "SubjectID": [ptid(i) for i in range(n)],
        "260/280": rng.uniform(1.9, 2.2, n).round(2),
        "260/230": rng.uniform(1.0, 2.2, n).round(2),
        "RIN": rng.uniform(6.5, 8.5, n).round(1),
        "Affy Plate": plates,
        "YearofCollection": [2011] * n,
    }
    lines = [",".join([name, "", "", *map(str, cells), ""]) for name, cells in facts.items()]
    lines.append(",".join(["ProbeSet", "LocusLink", "Symbol", *[""] * n, ""]))
    further = set(rng.choice(genes, int(genes * FURTHER), replace=False).tolist())
    number = 0
    for gene in range(genes):
        name = f"GENE{gene:05d}"
        for dim in range(1 + (gene in further)):
            row = values[:, gene] if not dim else values[:, gene] - 2 + rng.normal(0, 0.5, n)
            cells = ",".join(f"{value:.3f}" for value in row)
            lines.append(f"{11715100 + number}_at,LOC{900000 + gene},{name},{cells},[{name}] generated gene {gene}")
            number += 1
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")


def bayes_macro_f1(samples: int = 200_000) -> dict[str, float]:
    """Macro F1 of the classifier that knows the generator: of expression alone, of the genotype alone, of both.

    Args:
        samples: Drawn for it.
    """
    from sklearn.metrics import f1_score

    rng = np.random.default_rng(0)
    dx = rng.choice(3, samples, p=SHARES)
    along = PLACES[dx] * DISTANCE + rng.standard_normal(samples)
    alleles = (rng.random(samples)[:, None] > np.cumsum(APOE4, axis=1)[dx]).sum(axis=1)
    score = rng.normal(PRS[dx], 1.0)
    expression = -0.5 * (along[:, None] - PLACES * DISTANCE) ** 2
    genotype = np.log(APOE4[:, alleles].T) - 0.5 * (score[:, None] - PRS) ** 2
    prior = np.log(SHARES)
    return {
        name: float(f1_score(dx, (prior + evidence).argmax(axis=1), average="macro"))
        for name, evidence in (("expression", expression), ("genotype", genotype), ("both", expression + genotype))
    }
