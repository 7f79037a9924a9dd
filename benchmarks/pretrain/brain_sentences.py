"""Sentences about brain scans, and what each is about: what the text tower of ``embedded:slices`` learns to read.

Every sentence is composed from a frame and a phrase of one topic. Frames and phrases are plain English about reading a
scan; no sentence is taken from a task of the benchmark, and a test keeps it so.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from medgraft.encoders.embedded import SPECIALS, WORD

TOPICS: dict[str, tuple[str, ...]] = {
    "cognition": (
        "the diagnosis", "the cognition of the person", "dementia", "a mild impairment of memory",
        "normal or impaired cognition", "how severe the impairment is", "alzheimer disease",
        "the memory of the patient",
        "mci", "ad", "cn", "whether the person is demented", "a cognitively normal person", "marked impairment",
    ),
    "age": (
        "the age", "the age in years", "how old the patient is", "the age group", "the years of age", "an old person",
        "a young person", "whether the subject is over 60 years", "the decade of life", "the age of the brain",
        "a person of 75 years", "being younger or older than 65", "how many years have passed since birth",
    ),
    "sex": (
        "the sex", "a man", "a woman", "male or female", "the sex of the subject", "whether the patient is female",
        "whether the patient is male", "a female brain", "a male brain", "men and women", "the gender",
        "a woman rather than a man", "a man rather than a woman",
    ),
    "ventricles": (
        "the ventricles", "the ventricular volume", "the size of the ventricles", "large ventricles",
        "small ventricles", "enlarged lateral ventricles", "ventricles of medium size", "ventricular enlargement",
        "wide ventricles", "narrow ventricles", "the third ventricle", "how wide the ventricles are",
        "borderline ventricles", "elevated volume of the ventricles",
    ),
    "hippocampus": (
        "the hippocampus", "hippocampal volume", "the size of the hippocampus", "a small hippocampus",
        "hippocampal atrophy", "the left hippocampus", "the right hippocampus", "medial temporal atrophy",
        "the medial temporal lobe", "loss of volume of the hippocampus",
    ),
    "cortex": (
        "the sulci", "cortical atrophy", "wide sulci", "narrow sulci", "the gyri", "the cortex", "the grey matter",
        "loss of grey matter", "atrophy of the brain", "the volume of the whole brain", "global atrophy",
    ),
    "head": (
        "the head", "the size of the head", "intracranial volume", "the skull", "a large head", "a small head",
        "the volume inside the skull", "how large the head is",
    ),
    "scanner": (
        "the scanner", "the contrast of the image", "noise", "the quality of the scan", "motion", "the field strength",
        "blur", "the site of the scan", "the protocol", "artefacts in the image",
    ),
}  # fmt: skip
"""Topic -> noun phrases."""

FRAMES = (
    "{}", "what about {}?", "tell me about {}", "this scan shows {}", "is it {}?", "does the image show {}?",
    "describe {}", "report {} in this volume", "estimate {} from the image", "is there any sign of {}?",
    "the question is about {}", "which answer fits {}?", "please assess {}", "we want to know {}",
    "how would you judge {}?", "look at {} and answer", "are there findings on {}?", "grade {}",
    "in the scan of this person, judge {}", "which is it, given {}?", "tell whether this is about {}",
)  # fmt: skip
"""Sentences with a place for a phrase."""

FILLERS = (
    "", "", "", "answer with one word.", "small, medium or large?", "normal, borderline or abnormal?", "yes or no?",
    "choose one.", "in this person.", "please.", "slightly or markedly?", "low or high?",
)  # fmt: skip
"""What may follow, whatever the topic, so that such words tell nothing."""


def draw_sentences(rng: np.random.Generator, count: int) -> tuple[list[str], np.ndarray]:
    """Sentences and the number of each one's topic in :data:`TOPICS`, ``int64 [count]``."""
    phrases = list(TOPICS.values())
    topics = rng.integers(0, len(phrases), count)
    sentences = []
    for topic in topics:
        phrase = _pick(rng, phrases[topic])
        sentences.append(f"{_pick(rng, FRAMES).format(phrase)} {_pick(rng, FILLERS)}".strip())
    return sentences, topics.astype(np.int64)


def _pick(rng: np.random.Generator, options: Sequence[str]) -> str:
    return options[int(rng.integers(len(options)))]


def sentence_vocabulary() -> list[str]:
    """Special tokens, then every word of the sentences, sorted."""
    texts = [*FRAMES, *FILLERS, *(phrase for phrases in TOPICS.values() for phrase in phrases)]
    return [*SPECIALS, *sorted({word for text in texts for word in WORD.findall(text.lower())} - set("{}"))]
