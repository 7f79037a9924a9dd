"""Documents from the chest phantoms' own writers: films (CheXpert Plus, MIMIC-CXR) and CT (CT-RATE, M3D).

All films come from the phantom's stream ``pretrain``, so none of them is any benchmark's, whatever the seed. Of CT the
words are the phantom's alone: findings are drawn here, independently of each other, and no volume has them.
"""

from __future__ import annotations

from itertools import islice

import numpy as np

from medgraft.benchmarks.phantoms.chest.cohort import plus_report
from medgraft.benchmarks.phantoms.chest.mimic import report_of
from medgraft.benchmarks.phantoms.chest.studies import Study, iter_studies
from medgraft.benchmarks.phantoms.ct.anatomy import LOBES, sample_body
from medgraft.benchmarks.phantoms.ct.findings import KINDS, Finding
from medgraft.benchmarks.phantoms.ct.questions import Choice, choices_on
from medgraft.benchmarks.phantoms.ct.renderer import Person
from medgraft.benchmarks.phantoms.ct.reports import write_report
from medgraft.benchmarks.pretrain.corpus.documents import Document, chance, pick
from medgraft.benchmarks.pretrain.corpus.domains import CT, FILM
from medgraft.benchmarks.pretrain.corpus.images import asked
from medgraft.benchmarks.pretrain.corpus.questions import LETTERS, Turn

FILMS, VOLUMES = "phantom films", "phantom CT"
_STREAM = "pretrain"


def phantom_film(rng: np.random.Generator, seed: int) -> Document:
    """Reports of a phantom patient's films, in the form of one of the cohorts; later ones after earlier ones."""
    again = chance(rng, 0.2)
    studies = list(islice(iter_studies(seed, _STREAM, int(rng.integers(2**31)), "pretrain"), 1 + again))
    form = int(rng.integers(3))
    texts = [_in_form(study, form) for study in studies]
    if len(texts) > 1:
        return Document(FILMS, ((asked(FILM, rng), texts[0]), (f" Later film. {asked(FILM, rng)}", texts[1])))
    head = _labels(studies[0]) if chance(rng, 0.4) else ""
    return Document(FILMS, ((head + asked(FILM, rng), texts[0]),))


def _in_form(study: Study, form: int) -> str:
    """The report as it stands in CheXpert Plus, in MIMIC-CXR, or bare, on one line."""
    text = plus_report(study) if form == 0 else report_of(study) if form == 1 else study.report
    return " ".join(text.split())


def _labels(study: Study) -> str:
    told = {1.0: "{}", 0.0: "no {}", -1.0: "possible {}"}
    rows = [told[value].format(name.lower()) for name, value in study.reported.items() if value in told]
    return f"Findings: {', '.join(rows) or 'none'}. "


def phantom_volume(rng: np.random.Generator, seed: int) -> Document:
    """The report of a phantom volume, perhaps with questions on it; or questions with nothing to go by."""
    found = tuple(_finding(name, rng) for name, kind in KINDS.items() if chance(rng, kind.share))
    person = Person(sample_body(rng, enhanced=0.4), found)
    told = write_report(person, seed, _STREAM, int(rng.integers(2**31)))
    turns = [_turn(choice, rng) for choice in choices_on(person, pick(rng, ("Axial", "Coronal", "Sagittal")), rng)]
    if chance(rng, 0.2):
        return Document(VOLUMES, (pick(rng, turns),))
    forms = ("{f}", "{f} {i}", "Findings: {f} Impression: {i}", "FINDINGS: {f} IMPRESSION: {i}", "{t} {f}")
    text = pick(rng, forms).format(f=told.findings, i=told.impression, t=told.technique)
    later = [(f" {q}", a) for q, a in turns] if chance(rng, 0.5) else []
    return Document(VOLUMES, ((asked(CT, rng), text), *later))


def _finding(name: str, rng: np.random.Generator) -> Finding:
    kind = KINDS[name]
    side = pick(rng, ("left", "right", "both")) if kind.place == "side" else kind.side
    lobe = pick(rng, LOBES) if kind.place == "lobe" else ""
    return Finding(name, side, lobe, float(rng.uniform(*kind.millimetres)))


def _turn(choice: Choice, rng: np.random.Generator) -> Turn:
    """A question with its options, or answered by the text of the right one."""
    right = choice.options[choice.answer]
    if chance(rng, 0.3):
        return choice.question, right
    rows = [f"{x}. {option}" for x, option in zip(LETTERS, choice.options, strict=False) if option != "NA"]
    return f"{choice.question} Choices: {' '.join(rows)}", f"{LETTERS[choice.answer]}. {right}"
