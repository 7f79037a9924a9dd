"""Documents on images: reports, reports from a list of findings, a report after an earlier one, and questions.

Notes come from the writer of ADNI's, with scores drawn independently of each other.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from medgraft.benchmarks.cohorts.tables.clinical_text import TEXT_FIELDS, compose_text
from medgraft.benchmarks.pretrain.brain import draw_note_row
from medgraft.benchmarks.pretrain.corpus.documents import Document, chance, pick, shuffled
from medgraft.benchmarks.pretrain.corpus.facts import Domain, as_list, draw, impression, report
from medgraft.benchmarks.pretrain.corpus.questions import question
from medgraft.benchmarks.texts.neighbours import BETWEEN, INTRODUCTION

_ASKED = (
    *("Describe the {}.", "Describe this {}.", "Write a report of the {}.", "Write a radiology report for this {}."),
    *("What does the {} show?", "Report the findings of the {}.", "Please describe the {} in detail.", "Report:"),
    *("Generate a report of the {}.", "Can you provide a caption for this {}?", "Findings of the {}:", "Describe."),
)
_SHORT = ("Summarise the {}.", "What is the impression?", "Give the impression of the {}.", "Conclusion:")


def asked(domain: Domain, rng: np.random.Generator) -> str:
    """A request for a report."""
    return pick(rng, _ASKED).format(pick(rng, domain.names))


def about_images(domain: Domain, rng: np.random.Generator) -> Document:
    """A report without anything to go by, from a list of findings, or after similar ones; perhaps its impression."""
    facts = draw(domain, rng)
    text, request = report(domain, facts, rng), asked(domain, rng)
    form = int(rng.integers(8))
    if form >= 7:
        other = report(domain, draw(domain, rng), rng)
        near = shuffled(rng, (text, other))
        told = "Similar images. " + " ".join(f"Report: {each}" for each in near) + " "
        if chance(rng, 0.5):  # as the prompts of this package have them
            told = f"{INTRODUCTION}{BETWEEN.join(near)}\n"
        return Document(domain.part, ((told + request, text),))
    if form >= 4:
        head = pick(rng, ("Findings: {}. ", "{}. ", "Seen: {}. ", "[{}] "))
        request = head.format(as_list(facts, rng)) + request
    turns = [(request, text)]
    if chance(rng, 0.3):
        turns.append((f" {pick(rng, _SHORT).format(pick(rng, domain.names))}", impression(domain, facts, rng)))
    return Document(domain.part, tuple(turns))


def questions_on_images(domain: Domain, rng: np.random.Generator) -> Document:
    """Questions on one image: after its report, with its findings in the prompt, or with nothing to go by."""
    facts = draw(domain, rng)
    turns = [question(domain, facts, rng) for _ in range(int(rng.integers(3, 8)))]
    part, form = f"questions, {domain.part}", rng.random()
    if form < 0.2:  # what a model without an image knows: how often each answer is right
        return Document(part, tuple(turns[:1]))
    later = tuple((f" {q}", a) for q, a in turns)
    if form < 0.6:
        return Document(part, ((asked(domain, rng), report(domain, facts, rng)), *later))
    told = as_list(facts, rng) + "." if chance(rng, 0.7) else report(domain, facts, rng)
    opening = pick(rng, ("{t} {q}", "Report: {t} Question: {q}", "{t} Question: {q}", "Findings: {t} {q}"))
    first, answer = turns[0]
    return Document(part, ((opening.format(t=told, q=first), answer), *later[1:]))


def clinical_note(rng: np.random.Generator) -> Document:
    """A note in the form of ADNI's phantom, scores drawn at random, and questions on its numbers."""
    row = draw_note_row(rng)
    note = compose_text(row, pick(rng, list(TEXT_FIELDS)), seed=int(rng.integers(2**31)))
    asked = _note_questions(row, note)
    chosen = [(f" {q}", a) for q, a in shuffled(rng, asked)[: int(rng.integers(1, 6))]]
    if chance(rng, 0.7):
        first = (pick(rng, ("Write a clinical note.", "", "Describe the patient.")), note)
    else:
        first, chosen = (note + chosen[0][0], chosen[0][1]), chosen[1:]
    return Document("clinical notes", (first, *chosen))


def _note_questions(row: dict[str, object], note: str) -> Sequence[tuple[str, str]]:
    rows = [("How old is the patient?", str(round(float(str(row["age"]))))), ("Is it a man or a woman?", _sex(row))]
    for name, said, text in (
        ("MMSE", ("MMSE", "Mini-Mental"), "What is the MMSE score?"),
        ("MOCA", ("MoCA",), "What is the MoCA score?"),
        ("FAQ", ("Functional Activities",), "What is the FAQ score?"),
        ("CDRSB", ("CDR",), "What is the CDR sum of boxes?"),
        ("education", ("education",), "How many years of education?"),
    ):
        if name in row and any(each in note for each in said):
            rows.append((text, str(row[name])))
    return rows


def _sex(row: dict[str, object]) -> str:
    return "woman" if row["sex"] == "F" else "man"
