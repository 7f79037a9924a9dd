"""Sentence by sentence: what may stay of a generated text.

A sentence is judged by the statements that :func:`~medgraft.benchmarks.metrics.texts.statements.statements_of` reads in
it. What follows a sentence that goes was written behind it and is judged by itself.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Sequence

import numpy as np

from medgraft.benchmarks.metrics.texts.labeller.findings import NO_FINDING
from medgraft.benchmarks.metrics.texts.statements import Statement, statements_of
from medgraft.benchmarks.texts.findings import found_in

_END = re.compile(r"(?<=[.!?])\s+(?!\d)|\n+")
NOT_ASSESSED = "Not assessed: {}."


def sentences_of(text: str) -> list[str]:
    """Sentences as they were written; numbers with a point do not end one.

    Example:
        >>> sentences_of("A 3.5 mm nodule. No effusion.")
        ['A 3.5 mm nodule.', 'No effusion.']
    """
    return [part.strip() for part in _END.split(text) if part.strip()]


def supported(text: str, supports: Callable[[str], bool], *, negate: bool) -> str:
    """A text without assertions that nothing supports.

    Args:
        text: As it was generated.
        supports: Finding -> whether it may be asserted.
        negate: Say "No <finding>." in the place of such a sentence; otherwise it is left out. What else the sentence
            asserts goes with it.

    Example:
        >>> supported("Left pleural effusion. Clear lungs.", lambda finding: False, negate=True)
        'No pleural effusion. Clear lungs.'
    """
    kept: list[str] = []
    for sentence in sentences_of(text):
        refused = [finding for finding in sorted(found_in(statements_of(sentence))) if not supports(finding)]
        denials = [f"No {finding}." for finding in refused] if negate else []
        kept += [denial for denial in denials if denial not in kept] if refused else [sentence]
    return " ".join(kept)


def abstained(text: str, confidence: Callable[[str, Statement], float], threshold: float) -> str:
    """A text that says "not assessed" of what is less sure than a threshold.

    Args:
        text: A text.
        confidence: Sentence and a statement of it -> how sure that is, from 0 to 1.
        threshold: The least that is stated.

    Example:
        >>> abstained("Left pleural effusion. One film was taken.", lambda sentence, statement: 0.2, 0.5)
        'Not assessed: pleural effusion. One film was taken.'
    """
    kept: list[str] = []
    for sentence in sentences_of(text):
        statements = statements_of(sentence)
        if all(confidence(sentence, each) >= threshold for each in statements):
            kept.append(sentence)
            continue
        names = ", ".join(dict.fromkeys(each.finding for each in statements))
        if (doubt := NOT_ASSESSED.format(names)) not in kept:
            kept.append(doubt)
    return " ".join(kept)


def is_wrong(statement: Statement, truth: Sequence[Statement]) -> bool:
    """Whether what a statement says of a finding's presence is not so; what the truth does not name is absent."""
    if statement.finding == NO_FINDING:
        return statement.present == bool(found_in(truth))
    return statement.present != any(each.present and each.finding == statement.finding for each in truth)


def judged_statements(
    text: str, confidence: Callable[[str, Statement], float], truth: Sequence[Statement]
) -> list[tuple[float, bool]]:
    """Of each statement, how sure the least sure one of its sentence is, and whether it is wrong."""
    judged: list[tuple[float, bool]] = []
    for sentence in sentences_of(text):
        statements = statements_of(sentence)
        least = min((confidence(sentence, each) for each in statements), default=1.0)
        judged += [(least, is_wrong(each, truth)) for each in statements]
    return judged


def threshold_for(judged: Sequence[tuple[float, bool]], level: float) -> float:
    """The lowest confidence of which, and of all that is surer, at most a share is wrong.

    Args:
        judged: Confidence of each statement, and whether it is wrong; of validation samples.
        level: Largest share of wrong ones.

    Returns:
        ``math.inf`` where every threshold leaves more wrong ones, so that nothing is stated.

    Example:
        >>> threshold_for([(0.9, False), (0.8, False), (0.8, True), (0.3, True)], 0.4)
        0.8
    """
    if not judged:
        return 0.0
    sure = np.array([each for each, _ in judged])
    wrong = np.array([each for _, each in judged], float)
    for threshold in np.unique(sure):
        if wrong[sure >= threshold].mean() <= level:
            return float(threshold)
    return math.inf
