"""GREEN: findings that match and errors that matter, as a language model counts them in a pair of reports.

Ostmeier et al., "GREEN: Generative Radiology Report Evaluation and Error Notation", Findings of EMNLP 2024 (arXiv
2405.03595), equation 1: matched findings / (matched findings + clinically significant errors of six kinds), and 0 where
nothing matches. The counts stand in the model's answer, a text. An answer that is not in the published form has no
score here; the authors' code takes a missing count for 0, which makes the score 0 or 1.
"""

from __future__ import annotations

import re
from collections.abc import Mapping

import numpy as np

from medgraft.benchmarks.metrics.calibration import weighted_mean
from medgraft.benchmarks.metrics.weighted import share
from medgraft.metric import Metric, Predictions, WeightedStatistic

COLUMN = "green"
"""Column of the matched findings and the significant errors of each kind, ``float64 [n, 7]``; nan where unreadable."""

KINDS = ("a", "b", "c", "d", "e", "f")
"""False finding, missing finding, wrong place, wrong severity, comparison made up, comparison left out."""
NUMBERED = ("1", "2", "3", "4", "5", "6")
SIGNIFICANT, MATCHED = "Clinically Significant Errors", "Matched Findings"
_HEADING = re.compile(r"\[([^\[\]\n]+)\]:")
_NONE = re.compile(r"No(?:ne)?\b")
_LINE = re.compile(r"\(([a-f1-6])\) (.*)")
_COUNT = re.compile(r"(?<=: )\d{1,4}(?=\.)")
_LEADING = re.compile(r"\d{1,4}(?=\.)")


class Green(Metric):
    """``green``, the mean over readable answers, and ``green_undefined``, the share of the others, 0 to 1."""

    title = "GREEN"
    numbers = ("green", "green_undefined")

    def statistics(self, p: Predictions) -> Mapping[str, WeightedStatistic]:
        """See :class:`medgraft.metric.Metric`; ``p`` has the column that :func:`.green_model.green_counts` makes."""
        counts = p.columns[COLUMN]
        unreadable = np.isnan(counts).any(axis=1).astype(float)
        matched, all_of = np.nan_to_num(counts[:, 0]), np.nan_to_num(counts).sum(axis=1)
        scores = np.divide(matched, all_of, out=np.zeros(len(counts)), where=matched > 0)
        return {"green": share(scores, 1 - unreadable), "green_undefined": weighted_mean(unreadable)}


def counts_of(answer: str) -> tuple[int, ...] | None:
    """Matched findings and significant errors of each of the six kinds; ``None`` where the answer cannot be read.

    Each kind stands in a line of its own, ``(a) ...: 2. ...; ...``, or with a number for its letter; a kind without a
    line has no error. "No ..." stands for none of a section. It is unreadable without one of both sections, without a
    count, and with two counts of one kind that differ.

    Example:
        >>> counts_of("[Clinically Significant Errors]: (b) Missing: 2. Edema; Mass. [Matched Findings]: 1. Heart.")
        (1, 0, 2, 0, 0, 0, 0)
    """
    parts = _HEADING.split(answer)
    sections: dict[str, str] = {}
    for name, body in zip(parts[1::2], parts[2::2], strict=True):
        sections.setdefault(name.strip(), re.split(r"\n\s*\n", body.strip())[0])
    if SIGNIFICANT not in sections or MATCHED not in sections:
        return None
    errors, matched = _errors(sections[SIGNIFICANT]), _matched(sections[MATCHED])
    return None if errors is None or matched is None else (matched, *errors)


def _matched(section: str) -> int | None:
    if _NONE.match(section):
        return 0
    found = _LEADING.match(section)
    return None if found is None else int(found[0])


def _errors(section: str) -> tuple[int, ...] | None:
    if _NONE.match(section):
        return (0,) * len(KINDS)
    lines = _LINE.findall(section)
    names = KINDS if any(name in KINDS for name, _ in lines) else NUMBERED
    counted: dict[str, set[int]] = {}
    for name, line in lines:
        if name in names:
            found = _COUNT.search(line)
            if found is None:
                return None
            counted.setdefault(name, set()).add(int(found[0]))
    if not counted or any(len(counts) > 1 for counts in counted.values()):
        return None
    return tuple(max(counted.get(name, {0})) for name in names)
