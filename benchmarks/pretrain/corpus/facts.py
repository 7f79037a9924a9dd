"""What an image may show, drawn at random with the prevalence of each finding, and its words in a report.

No finding depends on anything that a prompt tells, unless the prompt tells the finding: a model of these texts can know
how often an effusion is on the left, and never that this one is.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from medgraft.benchmarks.pretrain.corpus.documents import capital, chance, listed, pick, shuffled

LOBES = (
    *("right upper lobe", "right middle lobe", "right lower lobe"),
    *("left upper lobe", "left lower lobe", "lingula"),
)
SIDES = ("left", "right", "both")
SIZES = ("small", "moderate", "large")
GRADES = ("mild", "moderate", "severe")
UNCERTAIN = ("possible {}", "{} cannot be excluded", "questionable {}", "may represent {}", "suspicion of {}")


@dataclass(frozen=True)
class Kind:
    """A finding that there can be.

    Attributes:
        name: In lower case, as in reports.
        prevalence: Share of images that show it.
        words: How its extent is said: ``size``, ``grade`` or not at all.
        sided: Whether it has a side.
        places: Where it can be; none for a finding that has only one place.
        millimetres: Least and greatest diameter; none for what is not measured.
    """

    name: str
    prevalence: float
    words: str = ""
    sided: bool = False
    places: tuple[str, ...] = ()
    millimetres: tuple[int, int] | None = None

    @property
    def verb(self) -> str:
        """``is`` or ``are``."""
        return "are" if self.name.endswith(("s", "sulci")) and not self.name.endswith("sis") else "is"

    @property
    def extents(self) -> tuple[str, ...]:
        """Words of its extent, from the least."""
        return {"size": SIZES, "grade": GRADES}.get(self.words, ())


@dataclass(frozen=True)
class Fact:
    """A finding of one image.

    Attributes:
        kind: Which.
        present: Whether it is there.
        certain: Whether the report says so without a hedge.
        side: One of :data:`SIDES`, or empty; likewise the others.
        extent: Of its kind's.
        place: Of its kind's.
        millimetres: Diameter; 0 where it is not told.
    """

    kind: Kind
    present: bool
    certain: bool = True
    side: str = ""
    extent: str = ""
    place: str = ""
    millimetres: int = 0

    @property
    def phrase(self) -> str:
        """The finding with extent and side in front and its place behind, without an article."""
        side = {"both": "bilateral"}.get(self.side, self.side)
        front = " ".join(word for word in (self.extent, side, self.kind.name) if word)
        return f"{front} in the {self.place}" if self.place else front


@dataclass(frozen=True)
class Domain:
    """A kind of image.

    Attributes:
        part: Part of the corpus.
        names: What the image is called.
        organs: What it shows.
        planes: Planes that it may lie in.
        kinds: Findings.
        normal: Sentences where nothing is found.
        technique: Sentences on how it was made.
    """

    part: str
    names: tuple[str, ...]
    organs: tuple[str, ...]
    planes: tuple[str, ...]
    kinds: tuple[Kind, ...]
    normal: tuple[str, ...]
    technique: tuple[str, ...]


def draw(domain: Domain, rng: np.random.Generator) -> list[Fact]:
    """The findings of an image, present or not, one of each kind, in the order of the domain."""
    severity = float(rng.choice([0.3, 1.0, 1.8]))  # images with one finding have others, too
    return [_fact(kind, chance(rng, min(0.9, kind.prevalence * severity)), rng) for kind in domain.kinds]


def _fact(kind: Kind, present: bool, rng: np.random.Generator) -> Fact:
    certain = not chance(rng, 0.12 if present else 0.03)
    if not present:
        return Fact(kind, not certain, certain)
    side = pick(rng, (*SIDES, "left", "right")) if kind.sided else ""
    place = pick(rng, kind.places) if kind.places and chance(rng, 0.85) else ""
    extent = pick(rng, kind.extents) if kind.extents and chance(rng, 0.85) else ""
    low, high = kind.millimetres or (0, 0)
    size = int(rng.integers(low, high + 1)) if high and chance(rng, 0.7) else 0
    return Fact(kind, True, certain, side, extent, place, size)


def positives(facts: Sequence[Fact]) -> list[Fact]:
    """Those that are there for certain."""
    return [fact for fact in facts if fact.present and fact.certain]


def article(phrase: str) -> str:
    """The phrase with ``a`` or ``an`` where it is one thing."""
    head = phrase.split(" in the ")[0]
    countless = ("s", "edema", "emphysema", "consolidation", "atelectasis", "thickening", "opacity", "atrophy", "y")
    if head.endswith(countless) or head.startswith("bilateral"):
        return phrase
    return f"{'an' if phrase[0] in 'aeiou' else 'a'} {phrase}"


def sentence(fact: Fact, rng: np.random.Generator) -> str:
    """A sentence of a report that says a fact."""
    name = fact.kind.name
    if not fact.present:
        forms = (
            *("No {n}.", "No {n}.", "No evidence of {n}.", "There {v} no {n}.", "{c} {v} not seen.", "{c}: none."),
            *("Negative for {n}.", "Without {n}.", "No {n} {v} identified."),
        )
        return pick(rng, forms).format(n=name, c=capital(name), v=fact.kind.verb)
    phrase = fact.phrase
    if fact.millimetres:
        phrase += pick(rng, (", {} mm", " measuring {} mm", " of {} mm", " ({} mm)")).format(fact.millimetres)
    if not fact.certain:
        return f"{capital(pick(rng, UNCERTAIN).format(phrase))}."
    forms = (
        "{p}.",
        "{p}.",
        "{p}.",
        "There is {a}.",
        "{p} is seen.",
        "{p} is noted.",
        "Also {a}.",
        "Findings show {a}.",
    )
    return (
        capital(pick(rng, forms).format(p=phrase, a=article(phrase)))
        .replace("is seen", _verb(name, "seen"))
        .replace("is noted", _verb(name, "noted"))
    )


def _verb(name: str, word: str) -> str:
    return f"are {word}" if name.endswith("s") and not name.endswith("sis") else f"is {word}"


def report(domain: Domain, facts: Sequence[Fact], rng: np.random.Generator) -> str:
    """A report in one of several forms; what is not there is mentioned in part."""
    told = [fact for fact in facts if fact.present or chance(rng, 0.35)]
    order = told if chance(rng, 0.5) else shuffled(rng, told)
    body = " ".join(sentence(fact, rng) for fact in order) or pick(rng, domain.normal)
    form = int(rng.integers(5))
    if form < 2:
        return body
    technique = f"{pick(rng, domain.technique)} " if chance(rng, 0.4) else ""
    if form == 2:
        return technique + body
    heads = ("FINDINGS:", "IMPRESSION:") if form == 3 else ("Findings:", "Impression:")
    return f"{technique}{heads[0]} {body} {heads[1]} {impression(domain, facts, rng)}"


def impression(domain: Domain, facts: Sequence[Fact], rng: np.random.Generator) -> str:
    """What a report ends with: its positive findings, or that there is none."""
    found = positives(facts)
    if not found:
        return pick(rng, domain.normal)
    if chance(rng, 0.5):
        return f"{capital(listed([fact.phrase for fact in found[:4]]))}."
    return " ".join(f"{i}. {capital(fact.phrase)}." for i, fact in enumerate(found[:5], 1))


def as_list(facts: Sequence[Fact], rng: np.random.Generator) -> str:
    """The positive findings as a bare list, in one of two forms."""
    found = positives(facts)
    if not found:
        return "none"
    if chance(rng, 0.5):
        return "; ".join(fact.phrase + (f" {fact.millimetres} mm" if fact.millimetres else "") for fact in found)
    rows = []
    for fact in found:
        told = [fact.side, fact.extent, fact.place, f"{fact.millimetres} mm" if fact.millimetres else ""]
        rows.append(f"{fact.kind.name}: {', '.join(filter(None, told)) or 'yes'}")
    return "; ".join(rows)
