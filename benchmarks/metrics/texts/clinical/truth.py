"""What holds of each sample: the statements of a task that knows them, else those that its reference report makes."""

from __future__ import annotations

import functools
from collections.abc import Mapping
from dataclasses import dataclass, replace

from medgraft.benchmarks.metrics.texts.columns import GENERATED, REFERENCE, texts_of
from medgraft.benchmarks.metrics.texts.labeller.attributes import places_in, side_in
from medgraft.benchmarks.metrics.texts.labeller.findings import NO_FINDING, finding_named
from medgraft.benchmarks.metrics.texts.statements import Statement, from_json, statements_of
from medgraft.metric import Predictions

TRUTH = "truth"
"""Column of the statements that hold, as JSON."""

BELOW: Mapping[str, frozenset[str]] = {
    "lung opacity": frozenset({"consolidation", "pneumonia", "atelectasis", "edema", "lung nodule"}),
    "consolidation": frozenset({"pneumonia"}),
    "enlarged cardiomediastinum": frozenset({"cardiomegaly"}),
}
"""Finding -> those that are cases of it, as in the hierarchy of CheXpert's labels (Irvin et al., AAAI 2019)."""


def below(finding: str) -> frozenset[str]:
    """Findings that are cases of another, such as a consolidation of an opacity."""
    return BELOW.get(finding, frozenset())


@dataclass(frozen=True)
class Truth:
    """What holds of one sample.

    Attributes:
        present: Findings that are there, with what is known of them; doubted ones included.
        absent: Names of findings that are known not to be there.
        nothing_found: It is stated that nothing is.
    """

    present: tuple[Statement, ...] = ()
    absent: frozenset[str] = frozenset()
    nothing_found: bool = False

    def of(self, finding: str) -> list[Statement]:
        """What is there of a finding, or where it is not itself known, of its cases."""
        own = [each for each in self.present if each.finding == finding]
        if own or finding in self.absent:
            return own
        return [each for each in self.present if each.finding in below(finding)]

    def denies(self, finding: str) -> bool:
        """Whether a finding is known not to be there, itself or what it is a case of."""
        if self.of(finding):
            return False
        return finding in self.absent or any(finding in below(name) for name in self.absent)


def truths_of(p: Predictions) -> list[Truth]:
    """What holds of each sample, see :func:`known`.

    Raises:
        DataError: The column ``truth`` holds no statements.
    """
    if known(p):
        return [truth_of_json(text) for text in texts_of(p.columns[TRUTH])]
    return [truth_of_report(text) for text in texts_of(p.columns[REFERENCE])]


def known(p: Predictions) -> bool:
    """Whether the task knows what holds, in the column ``truth``; else the reference is read."""
    return TRUTH in p.columns


def texts_and_truths(p: Predictions) -> list[tuple[str, Truth]]:
    """Generated text and truth of each sample."""
    return list(zip(texts_of(p.columns[GENERATED]), truths_of(p), strict=True))


@functools.lru_cache(maxsize=65536)
def truth_of_json(text: str) -> Truth:
    """The truth of a column's JSON, names of findings, sides and places as the labeller has them."""
    return truth_of([_in_words_of_reports(each) for each in from_json(text)])


@functools.lru_cache(maxsize=65536)
def truth_of_report(text: str) -> Truth:
    """What a reference report states."""
    return truth_of(statements_of(text))


def truth_of(statements: list[Statement]) -> Truth:
    """What holds where these statements do; a finding that is there somewhere is not absent.

    A denial of a place or size ("no large effusion") does not make the finding absent.
    """
    present = tuple(each for each in statements if each.present and each.finding != NO_FINDING)
    named = {each.finding for each in present}
    denied = {each.finding for each in statements if not each.present and each.certain and not detailed(each)}
    nothing = any(each.present and each.certain and each.finding == NO_FINDING for each in statements)
    return Truth(present, frozenset(denied - named), nothing)


def detailed(statement: Statement) -> bool:
    """Whether a statement is about one side, size, place or length of a finding only."""
    return bool(statement.side or statement.size or statement.place or statement.millimetres is not None)


def _in_words_of_reports(each: Statement) -> Statement:
    place = " ".join(each.place.lower().split())
    finding, named = finding_named(each.finding, place), places_in(place)
    if finding == "hippocampal atrophy":  # which has its place in its name, and is denied of no other
        named, place = [], ""
    return replace(
        each, finding=finding, side=each.side or side_in(each.place.lower()), place=named[0] if named else place
    )
