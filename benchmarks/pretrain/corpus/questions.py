"""Questions on images and their answers, in several wordings: yes or no, side, size, place, counts, lists, choices."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from medgraft.benchmarks.pretrain.corpus.documents import capital, chance, listed, pick, shuffled
from medgraft.benchmarks.pretrain.corpus.facts import SIDES, Domain, Fact, article, positives

Turn = tuple[str, str]
LETTERS = "ABCDEFG"
_SENTENCE = (" Answer in a sentence.", " Answer with a full sentence.")


def question(domain: Domain, facts: Sequence[Fact], rng: np.random.Generator) -> Turn:
    """A question on an image and its answer.

    Args:
        domain: Kind of the image.
        facts: What it shows.
        rng: Draws which question, and its wording.
    """
    found = positives(facts)
    makers: list[Callable[[], Turn]] = [
        lambda: yes_or_no(domain, facts, rng),
        lambda: yes_or_no(domain, facts, rng),
        lambda: which(domain, facts, rng),
        lambda: about_the_image(domain, rng),
    ]
    for wanted, maker in (("side", side), ("extent", extent), ("place", place), ("millimetres", diameter)):
        if told := [fact for fact in found if getattr(fact, wanted)]:
            fact = pick(rng, told)
            makers += [lambda maker=maker, fact=fact: maker(domain, fact, rng)] * 2
    asked, answer = pick(rng, makers)()
    return asked, capital(answer) if chance(rng, 0.4) else answer


def _the(domain: Domain, rng: np.random.Generator) -> str:
    return pick(
        rng, ("the image", "this image", "the scan", f"this {domain.names[0]}", f"the {pick(rng, domain.names)}")
    )


def yes_or_no(domain: Domain, facts: Sequence[Fact], rng: np.random.Generator) -> Turn:
    """Whether a finding is there; half of those asked for are there, where any is."""
    there = [fact for fact in facts if fact.present]
    fact = pick(rng, there) if there and chance(rng, 0.4) else pick(rng, facts)
    sided = bool(fact.side in ("left", "right") and chance(rng, 0.35))
    asked = pick(rng, ("left", "right")) if sided else ""
    name = f"{asked} {fact.kind.name}".strip()
    thing, be = article(name), fact.kind.verb
    forms = (
        *(
            f"{capital(be)} there {thing}?",
            f"Does {_the(domain, rng)} show {thing}?",
            f"{capital(be)} {thing} present?",
        ),
        *(f"Can {thing} be seen in {_the(domain, rng)}?", f"{capital(name)}?", f"Is there any evidence of {name}?"),
        *(f"Does the patient have {thing}?", f"Are there signs of {name}?"),
    )
    form, holds = pick(rng, forms), fact.present and asked in ("", fact.side)
    if not fact.certain and fact.present:
        return f"{form}", pick(rng, ("Possible", "Uncertain")) if chance(rng, 0.5) else "Yes"
    if chance(rng, 0.2):
        said = f"Yes, there {be} {thing}." if holds else f"No, there {be} no {name}."
        return form + pick(rng, _SENTENCE), said
    if chance(rng, 0.15):
        return choices(form, "yes" if holds else "no", ["yes", "no"], rng, keep_order=True)
    return form, "Yes" if holds else "No"


def side(domain: Domain, fact: Fact, rng: np.random.Generator) -> Turn:
    """On which side a finding is."""
    name, be = fact.kind.name, fact.kind.verb
    forms = (
        *(
            f"On which side {be} the {name}?",
            f"Which side {be} the {name} on?",
            f"{capital(be)} the {name} left, right or both?",
        ),
        *(f"Which side of the {domain.organs[0]} shows {name}?", f"What is the side of the {name}?"),
    )
    form = pick(rng, forms)
    if chance(rng, 0.35):
        return choices(form, fact.side, SIDES, rng)
    if chance(rng, 0.2):
        where = "on both sides" if fact.side == "both" else f"on the {fact.side} side"
        return form + pick(rng, _SENTENCE), f"The {name} {be} {where}."
    return form, {"both": pick(rng, ("both", "both sides"))}.get(fact.side, fact.side)


def extent(domain: Domain, fact: Fact, rng: np.random.Generator) -> Turn:
    """How large or how severe a finding is."""
    name, be = fact.kind.name, fact.kind.verb
    forms = (
        (f"How large {be} the {name}?", f"What is the size of the {name}?")
        if fact.kind.words == "size"
        else (f"How severe {be} the {name}?", f"What is the degree of the {name}?", f"What grade {be} the {name}?")
    )
    form = pick(rng, forms)
    if chance(rng, 0.35):
        return choices(form, fact.extent, fact.kind.extents, rng, keep_order=chance(rng, 0.5))
    if chance(rng, 0.2):
        return form + pick(rng, _SENTENCE), f"The {name} {be} {fact.extent}."
    return form, fact.extent


def place(domain: Domain, fact: Fact, rng: np.random.Generator) -> Turn:
    """Where a finding is."""
    name, be = fact.kind.name, fact.kind.verb
    part = "lobe" if "lobe" in fact.place or fact.place == "lingula" else "region"
    forms = (
        *(f"Where {be} the {name}?", f"In which {part} {be} the {name}?", f"Which {part} shows {name}?"),
        *(f"What is the location of the {name}?", f"Which {part} is affected by the {name}?"),
    )
    form = pick(rng, forms)
    if chance(rng, 0.35):
        others = [each for each in fact.kind.places if each != fact.place]
        return choices(form, fact.place, [fact.place, *shuffled(rng, others)[:3]], rng)
    if chance(rng, 0.2):
        return form + pick(rng, _SENTENCE), f"The {name} {be} in the {fact.place}."
    return form, fact.place


def diameter(domain: Domain, fact: Fact, rng: np.random.Generator) -> Turn:
    """How many millimetres a finding measures."""
    name, size = fact.kind.name, fact.millimetres
    forms = (
        *(f"What is the diameter of the {name}?", f"How many mm does the {name} measure?"),
        *(f"What is the size of the {name} in mm?", f"How large is the {name} in millimetres?"),
    )
    form = pick(rng, forms)
    if chance(rng, 0.3):
        others = {max(1, size + int(d)) for d in rng.choice((-15, -11, -8, -5, -3, 4, 6, 9, 14), 3, replace=False)}
        return choices(form, f"{size} mm", [f"{size} mm", *(f"{each} mm" for each in sorted(others - {size}))], rng)
    if chance(rng, 0.2):
        return form + pick(rng, _SENTENCE), f"The {name} measures {size} mm."
    return form, f"{size} mm"


def which(domain: Domain, facts: Sequence[Fact], rng: np.random.Generator) -> Turn:
    """Which findings there are, how many, or which of some."""
    found = positives(facts)
    names = [fact.kind.name for fact in found]
    form = int(rng.integers(3))
    if form == 0:
        text = pick(rng, (f"Which findings does {_the(domain, rng)} show?", "List the findings.", "What is abnormal?"))
        return text, listed(names) if names else pick(rng, ("none", "no finding"))
    if form == 1:
        return pick(rng, ("How many findings are there?", "Count the findings.")), str(len(names))
    if not names:
        text = pick(rng, ("Is the image normal?", f"Is {_the(domain, rng)} normal?", "Is it free of abnormalities?"))
        return text, "Yes"
    right = pick(rng, names)
    absent = [fact.kind.name for fact in facts if not fact.present]
    text = pick(rng, ("Which finding is present?", f"What does {_the(domain, rng)} show?", "Which of these is seen?"))
    return choices(text, right, [right, *shuffled(rng, absent)[:3]], rng)


def about_the_image(domain: Domain, rng: np.random.Generator) -> Turn:
    """What kind of image it is, which organ and which plane."""
    form = int(rng.integers(3))
    if form == 0:
        answer, others = domain.organs[0], ["chest", "brain", "abdomen", "pelvis", "knee", "liver", "heart", "spine"]
        text = pick(rng, ("Which organ is shown?", "Which part of the body is this?", "What organ is in the image?"))
    elif form == 1:
        answer, others = pick(rng, domain.planes), ["axial", "coronal", "sagittal", "frontal", "lateral"]
        text = pick(rng, ("Which plane is this?", "What is the plane of the image?", "In which plane is the image?"))
    else:
        answer, others = (
            domain.names[0],
            ["chest radiograph", "chest CT", "brain MRI", "ultrasound", "mammogram", "PET"],
        )
        text = pick(rng, ("What kind of image is this?", "Which modality is it?", "How was the image made?"))
    if chance(rng, 0.6):
        rest = [each for each in others if each != answer and each not in domain.organs]
        return choices(text, answer, [answer, *shuffled(rng, rest)[:3]], rng)
    return text, answer


def choices(
    text: str, answer: str, options: Sequence[str], rng: np.random.Generator, *, keep_order: bool = False
) -> Turn:
    """A question with lettered options; the answer is the letter and the option, now and then the letter alone.

    Args:
        text: The question.
        answer: The right option.
        options: All of them.
        rng: Draws their order and the form.
        keep_order: They stand as they are given.
    """
    order = list(options) if keep_order else shuffled(rng, options)
    rows = [f"{letter}. {option}" for letter, option in zip(LETTERS, order, strict=False)]
    form = int(rng.integers(5))
    told = f"{text} Choices: {' '.join(rows)}" if form < 2 else f"{text} {' '.join(rows)}"
    if form == 3:
        told = f"{text} Options: {'; '.join(rows)}"
    letter = LETTERS[order.index(answer)]
    if form == 4:
        return f"{told} Answer with the letter.", f"{letter}."
    return told, f"{letter}. {answer}"
