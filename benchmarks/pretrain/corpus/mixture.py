"""Parts of the corpus and their shares, drawn without end from a seed."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from functools import partial

import numpy as np

from medgraft.benchmarks.pretrain.corpus import lookups
from medgraft.benchmarks.pretrain.corpus.documents import Document
from medgraft.benchmarks.pretrain.corpus.domains import BRAIN, CT, FILM
from medgraft.benchmarks.pretrain.corpus.images import about_images, clinical_note, questions_on_images
from medgraft.benchmarks.pretrain.corpus.phantoms import FILMS, VOLUMES, phantom_film, phantom_volume
from medgraft.benchmarks.pretrain.corpus.plain import plain

FIRST_SEED = 930
"""Added to a seed for the patients of the phantoms: other pre-training uses 900, benchmarks small numbers."""

SHARES: Mapping[str, float] = {
    FILMS: 0.19,
    VOLUMES: 0.10,
    "chest films": 0.07,
    "chest CT": 0.06,
    "brain MRI": 0.07,
    "questions, chest films": 0.10,
    "questions, chest CT": 0.08,
    "questions, brain MRI": 0.08,
    "clinical notes": 0.05,
    "plain sentences": 0.10,
    lookups.PART: 0.10,
}
"""Part -> share of the documents."""

EARLY, EARLY_SHARE = 1200, 0.8
"""Streams of numbers below the first, with which a training begins, have this share of look-ups beside their own."""

STEPS_PER_WORD = 100
"""Of those the first hundred streams are of one word, the next of two at most, and so on."""


def makers(seed: int) -> dict[str, Callable[[np.random.Generator], Document]]:
    """Part -> what draws a document of it."""
    made: dict[str, Callable[[np.random.Generator], Document]] = {
        FILMS: partial(phantom_film, seed=FIRST_SEED + seed),
        VOLUMES: partial(phantom_volume, seed=FIRST_SEED + seed),
        "clinical notes": clinical_note,
        "plain sentences": plain,
        lookups.PART: lookups.lookup,
    }
    for domain in (FILM, CT, BRAIN):
        made[domain.part] = partial(about_images, domain)
        made[f"questions, {domain.part}"] = partial(questions_on_images, domain)
    return made


def documents(seed: int, number: int, part: str = "") -> Iterator[Document]:
    """Documents without end.

    Args:
        seed: Of the corpus, not negative; texts of two seeds have nothing in common but the grammar.
        number: Which stream of that seed, such as the number of a training step.
        part: All of one part; empty for the mixture.
    """
    made, names = makers(seed), list(SHARES)
    rng = np.random.default_rng([seed, number])
    while True:
        if not part and number < EARLY and rng.random() < EARLY_SHARE:
            yield lookups.lookup(rng, 1 + number // STEPS_PER_WORD)
            continue
        yield made[part or names[int(rng.choice(len(names), p=list(SHARES.values())))]](rng)
