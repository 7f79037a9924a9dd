"""Questions about a chest film and their answers, made of the statements that hold; nothing is asked that none says."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from medgraft.benchmarks.cohorts.chest.findings import SPOKEN
from medgraft.benchmarks.metrics.texts.statements import Statement

WORDINGS: Mapping[str, tuple[tuple[str, ...], tuple[str, ...]]] = {
    "presence": (
        ("Is there {a}?", "Does the film show {a}?", "Can {a} be seen?", "Is {a} present?"),
        ("Do you see {a} on this film?", "Is {a} visible?"),
    ),
    "side": (
        ("On which side is the {f}?", "Which side is the {f} on?", "Where is the {f}, left or right?"),
        ("Is the {f} on the left, on the right or on both sides?", "Which lung has the {f}?"),
    ),
    "size": (
        ("How large is the {f}?", "What size is the {f}?", "Is the {f} small, moderate or large?"),
        ("How big is the {f}?", "Tell the size of the {f}."),
    ),
    "place": (
        ("In which zone of the lung is the {f}?", "Which lung zone has the {f}?"),
        ("Is the {f} in the upper, the mid or the lower zone?", "At what level of the lung is the {f}?"),
    ),
    "plane": (
        ("Is this an AP or a PA film?", "Which projection is this?", "In which projection was this film taken?"),
        ("Was this film taken AP or PA?", "What is the projection of this film?"),
    ),
    "abnormality": (
        ("What is abnormal on this film?", "Which findings does the film show?", "Name the findings."),
        ("List what is abnormal here.", "What are the findings on this film?"),
    ),
}
"""Question's type -> wordings that training asks, and those that are kept for the test; ``{a}`` with an article."""

OPTIONS: Mapping[str, tuple[str, ...]] = {
    "presence": ("Yes", "No"),
    "side": ("Left", "Right", "Both sides"),
    "size": ("Small", "Moderate", "Large"),
    "place": ("Upper zone", "Mid zone", "Lower zone"),
    "plane": ("AP", "PA"),
}
"""Answers of the questions that have few."""

NOTHING = "Nothing"
_SIDES = {"left": "Left", "right": "Right", "both": "Both sides"}
_SIDED = ("lung nodule", "consolidation", "atelectasis", "pneumothorax", "pleural effusion")
_SIZED = ("pneumothorax", "pleural effusion")
_PLACED = ("consolidation",)


@dataclass(frozen=True)
class FilmQuestion:
    """A question and its answer.

    Attributes:
        type: Key of :data:`WORDINGS`.
        finding: What it is about; empty where it is about the film.
        answer: In words, one of :data:`OPTIONS` where there are some.
    """

    type: str
    finding: str
    answer: str

    @property
    def options(self) -> tuple[str, ...]:
        """The answers to choose among; empty where they cannot be listed."""
        return OPTIONS.get(self.type, ())

    def words(self, number: int, *, held_out: bool = False) -> str:
        """One of its wordings, by any number."""
        pool = WORDINGS[self.type][held_out]
        article = SPOKEN.get(self.finding, self.finding)
        plain = article.removeprefix("a ")
        return pool[number % len(pool)].replace("{a}", article).replace("{f}", plain)


def questions_of(statements: Sequence[Statement], view: str = "") -> Iterator[FilmQuestion]:
    """All questions whose answers the statements give.

    Args:
        statements: What holds; a finding that none is about is not asked for.
        view: ``AP`` or ``PA``; empty where unknown.

    Yields:
        Whether a finding is there, for those that are its side, size and zone where they are told; the film's
        projection; and what is abnormal, where every finding of :data:`~.findings.SPOKEN` is told of.

    Example:
        >>> [(q.type, q.answer) for q in questions_of([Statement("pneumothorax", True, side="left", size="small")])]
        [('presence', 'Yes'), ('side', 'Left'), ('size', 'Small')]
    """
    told = {each.finding: each for each in statements if each.finding in SPOKEN and each.certain}
    for finding, said in told.items():
        yield FilmQuestion("presence", finding, "Yes" if said.present else "No")
        if said.present and said.side and finding in _SIDED:
            yield FilmQuestion("side", finding, _SIDES[said.side])
        if said.present and said.size and finding in _SIZED:
            yield FilmQuestion("size", finding, said.size.capitalize())
        if said.present and finding in _PLACED and said.place.capitalize() in OPTIONS["place"]:
            yield FilmQuestion("place", finding, said.place.capitalize())
    if view in OPTIONS["plane"]:
        yield FilmQuestion("plane", "", view)
    if told.keys() == SPOKEN.keys():
        seen = [SPOKEN[finding].removeprefix("a ") for finding, said in told.items() if said.present]
        yield FilmQuestion("abnormality", "", ", ".join(seen).capitalize() if seen else NOTHING)
