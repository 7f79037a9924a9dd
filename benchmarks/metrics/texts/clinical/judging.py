"""One generated report against what holds of its sample: which statements are right, wrong, or nowhere supported.

What each verdict means, with examples, is in ``docs/hallucination.md``, whose examples a test holds.
"""

from __future__ import annotations

import functools
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

from medgraft.benchmarks.metrics.texts.clinical.truth import Truth, below, detailed
from medgraft.benchmarks.metrics.texts.labeller.attributes import lengths_in
from medgraft.benchmarks.metrics.texts.labeller.findings import NO_FINDING
from medgraft.benchmarks.metrics.texts.labeller.sentences import sentences
from medgraft.benchmarks.metrics.texts.statements import Statement, statements_of_sentence

SUPPORTED, UNSUPPORTED, CONTRADICTED = "supported", "unsupported", "contradicted"
ENTAILED, NEUTRAL = "entailed", "neutral"
MILLIMETRES, SHARE = 2.0, 0.1
"""A length is right within 2 mm or a tenth of the true one, whichever is more."""

SIDE, SIZE, PLACE, NUMBER = "side", "size", "place", "number"
DETAILS = (SIDE, SIZE, PLACE, NUMBER)
DEVICES = "support devices"
"""Are there in a report that finds nothing."""


@dataclass(frozen=True)
class Verdict:
    """What the truth says of one statement.

    Attributes:
        statement: The statement.
        verdict: ``supported``, ``unsupported`` or ``contradicted``.
        compared: Details that statement and truth both give.
        wrong: Those of them that differ.
        number_without_field: It gives a length where the truth has none of the finding.
    """

    statement: Statement
    verdict: str
    compared: tuple[str, ...] = ()
    wrong: tuple[str, ...] = ()
    number_without_field: bool = False

    @property
    def asserted(self) -> bool:
        """Whether the statement says without doubt that a finding is there."""
        return self.statement.present and self.statement.certain and self.statement.finding != NO_FINDING

    @property
    def denied(self) -> bool:
        """Whether it says without doubt that something is not there."""
        return self.statement.certain and (not self.statement.present or self.statement.finding == NO_FINDING)

    @property
    def made_up(self) -> bool:
        """Whether it asserts what the truth contradicts or does not support, a length without a field included."""
        return self.asserted and (self.verdict != SUPPORTED or self.number_without_field)


@dataclass(frozen=True)
class Judgement:
    """What the truth says of one report.

    Attributes:
        verdicts: One for each different statement.
        sentences: ``entailed``, ``neutral`` or ``contradicted``, one for each sentence.
        lengths: How many lengths the report gives.
        wrong_lengths: Those that no field of the truth supports.
        missed: Findings that are there without doubt and that it does not name as there.
        findable: All that are there without doubt.
    """

    verdicts: tuple[Verdict, ...]
    sentences: tuple[str, ...]
    lengths: int
    wrong_lengths: int
    missed: frozenset[str]
    findable: frozenset[str]


@functools.lru_cache(maxsize=65536)
def judge(text: str, truth: Truth) -> Judgement:
    """Judges a generated report.

    Example:
        >>> left = Truth((Statement("pleural effusion", True, side="left"),))
        >>> found = judge("Right pleural effusion. No pneumothorax.", left)
        >>> [(each.verdict, each.wrong) for each in found.verdicts], found.sentences
        ([('contradicted', ('side',)), ('unsupported', ())], ('contradicted', 'neutral'))
    """
    parts = sentences(text)
    each = [[verdict_of(statement, truth) for statement in statements_of_sentence(part)] for part in parts]
    verdicts = tuple(dict.fromkeys(verdict for of_sentence in each for verdict in of_sentence))
    named = {v.statement.finding for v in verdicts if v.statement.present}
    findable = frozenset(s.finding for s in truth.present if s.certain)
    missed = frozenset(name for name in findable if not named & {name, *below(name)})
    right = [_lengths(part, of_sentence, truth) for part, of_sentence in zip(parts, each, strict=True)]
    lengths = [length for of_sentence in right for length in of_sentence]
    return Judgement(
        verdicts, tuple(map(_of_sentence, each)), len(lengths), len(lengths) - sum(lengths), missed, findable
    )


def verdict_of(said: Statement, truth: Truth) -> Verdict:
    """What the truth says of one statement; a doubt ("possible pneumonia") asserts nothing, so nothing refutes it."""
    if said.finding == NO_FINDING:
        found = Verdict(said, _of_nothing_found(truth))
    elif said.present:
        found = _of_presence(said, truth)
    else:
        found = _of_absence(said, truth)
    return replace(found, verdict=UNSUPPORTED) if found.verdict == CONTRADICTED and not said.certain else found


def _of_nothing_found(truth: Truth) -> str:
    if any(each.certain and each.finding != DEVICES for each in truth.present):
        return CONTRADICTED
    return SUPPORTED if truth.nothing_found or (truth.absent and not truth.present) else UNSUPPORTED


def _of_absence(said: Statement, truth: Truth) -> Verdict:
    candidates = [each for each in truth.of(said.finding) if each.certain]
    if any(not _wrong(said, each, candidates) and _as_detailed(said, each) for each in candidates):
        return Verdict(said, CONTRADICTED)
    return Verdict(said, SUPPORTED if truth.denies(said.finding) else UNSUPPORTED)


def _of_presence(said: Statement, truth: Truth) -> Verdict:
    candidates = truth.of(said.finding)
    if not candidates:
        return Verdict(said, CONTRADICTED if truth.denies(said.finding) else UNSUPPORTED)
    best = min(candidates, key=lambda each: len(_wrong(said, each, candidates)))
    wrong = _wrong(said, best, candidates)
    bare = said.millimetres is not None and all(each.millimetres is None for each in candidates)
    return Verdict(said, CONTRADICTED if wrong else SUPPORTED, _compared(said, best), wrong, bare)


def _compared(said: Statement, held: Statement) -> tuple[str, ...]:
    both = {
        SIDE: said.side and held.side,
        SIZE: said.size and held.size,
        PLACE: said.place and held.place and _kind(said.place) == _kind(held.place),
        NUMBER: said.millimetres is not None and held.millimetres is not None,
    }
    return tuple(name for name in DETAILS if both[name])


def _wrong(said: Statement, held: Statement, candidates: Sequence[Statement]) -> tuple[str, ...]:
    """Details that differ; a side is also right where several places of the finding make it up together."""
    compared = _compared(said, held)
    sides = _sides(each.side for each in candidates)
    differs = {
        SIDE: not _sides([said.side]) <= (sides if said.side == "both" else _sides([held.side])),
        SIZE: said.size != held.size,
        PLACE: not _same_place(said.place, held.place),
        NUMBER: not (said.millimetres is None or held.millimetres is None)
        and not near(said.millimetres, held.millimetres),
    }
    return tuple(name for name in compared if differs[name])


def _as_detailed(denied: Statement, held: Statement) -> bool:
    """Whether what is denied is told of what holds: "no left effusion" says nothing of one whose side is not known."""
    if not detailed(denied):
        return True
    given = {
        SIDE: denied.side,
        SIZE: denied.size,
        PLACE: denied.place,
        NUMBER: denied.millimetres is not None,
    }
    return {name for name, value in given.items() if value} <= set(_compared(denied, held))


def _sides(named: Iterable[str]) -> set[str]:
    return {side for each in named for side in (("left", "right") if each == "both" else (each,)) if side}


def _kind(place: str) -> str:
    return "lobe of a lung" if _lobe_of_lung(place) else "zone" if place.endswith(" zone") else "region"


def _lobe_of_lung(place: str) -> bool:
    return place == "lingula" or place.endswith(("upper lobe", "middle lobe", "lower lobe"))


def _same_place(said: str, held: str) -> bool:
    """Whether two places of one kind can be the same; a lobe without a side fits either, the lingula is a part."""
    if said == held:
        return True
    if not (_lobe_of_lung(said) and _lobe_of_lung(held)):
        return False
    whole = ["left upper lobe" if place == "lingula" else place for place in (said, held)]
    if said == "left upper lobe" and held == "lingula":
        return True
    if said == "lingula":
        return False
    return whole[1].endswith(whole[0]) or whole[0].endswith(whole[1])


def near(said: float, held: float) -> bool:
    """Whether a length in millimetres is right.

    Example:
        >>> near(9.0, 8.0), near(12.0, 8.0), near(54.0, 50.0)
        (True, False, True)
    """
    return abs(said - held) <= max(MILLIMETRES, SHARE * held) + 1e-9


def _lengths(sentence: str, verdicts: Sequence[Verdict], truth: Truth) -> list[bool]:
    """Of each length in a sentence, whether a field supports it: of the finding that it is said of, or else of any."""
    of_findings = {
        v.statement.millimetres: NUMBER in v.compared and NUMBER not in v.wrong
        for v in verdicts
        if v.statement.present and v.statement.millimetres is not None
    }
    fields = [each.millimetres for each in truth.present if each.millimetres is not None]
    return [
        of_findings[length] if length in of_findings else any(near(length, field) for field in fields)
        for length in lengths_in(sentence)
    ]


def _of_sentence(verdicts: Sequence[Verdict]) -> str:
    """A sentence is contradicted where a statement of it is, entailed where all are supported, else neutral."""
    if any(each.verdict == CONTRADICTED for each in verdicts):
        return CONTRADICTED
    sound = all(each.verdict == SUPPORTED and not each.number_without_field for each in verdicts)
    return ENTAILED if verdicts and sound else NEUTRAL
