"""Clinical note made from table fields, for encoders that read an image together with text.

Cohorts such as ADNI publish no radiology reports, so the text is composed from demographics, genotype and test scores,
in the words that a clinician would use: small text encoders hardly read numbers, so a score comes with its verbal band.
The diagnosis itself, the research group and the reader's own label are never among the fields.

Circularity: MMSE and CDR are inclusion criteria of ADNI (CN: CDR 0, MMSE 24-30; MCI: CDR 0.5; AD: CDR 0.5-1, MMSE
20-26). Text of the policy ``cognitive``, and far more so ``full``, therefore knows much of the label by construction;
``without_criteria`` leaves both scores out and keeps the tests that define nothing (which still correlate with them).
Compare models under one policy only, and always show the text-only row beside image and text.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Mapping
from typing import Any, Literal

import numpy as np
import pandas as pd

from medgraft.errors import UnknownNameError

TextPolicy = Literal["demographic", "genetic", "without_criteria", "cognitive", "full"]

DEFINING = ("MMSE", "CDRSB")
"""Scores that ADNI's diagnoses are made from."""

_DEMOGRAPHIC = ("age", "sex", "education")
_GENETIC = (*_DEMOGRAPHIC, "apoe4")
_COGNITIVE = (*_GENETIC, "MMSE", "MOCA", "ADAS13", "RAVLT_immediate", "FAQ")
TEXT_FIELDS: dict[str, tuple[str, ...]] = {
    "demographic": _DEMOGRAPHIC,
    "genetic": _GENETIC,
    "without_criteria": tuple(name for name in _COGNITIVE if name not in DEFINING),
    "cognitive": _COGNITIVE,
    "full": (*_COGNITIVE, "CDRSB"),
}
"""Columns that each policy may use, from the least to the most that text can give away. A result records them."""

# Verbal bands: the first limit that the score stays on the good side of decides. True where a high score is a bad one.
_BANDS: dict[str, tuple[bool, tuple[float, ...], tuple[str, ...]]] = {
    "MMSE": (False, (28, 26, 24), ("Normal range.", "Borderline.", "Mildly impaired.", "Impaired.")),
    "ADAS13": (
        True,
        (11, 17, 26),
        ("Within normal limits.", "Slightly elevated.", "Elevated.", "Markedly elevated."),
    ),
    "RAVLT_immediate": (False, (42, 34, 26), ("Good recall.", "Average recall.", "Reduced recall.", "Poor recall.")),
}

_FAQ_BANDS = (
    "independent in daily activities",
    "some help needed with daily activities",
    "dependent in several daily activities",
)


def compose_text(row: Mapping[Any, Any], policy: str = "cognitive", seed: int = 0) -> str:
    """Writes the note of one visit.

    Wording and order of the sentences vary from row to row, but only with the row's own values and ``seed``: the same
    row gives the same note everywhere.

    Args:
        row: A row of :class:`~medgraft.benchmarks.cohorts.tables.visit_table.VisitTable`, or any mapping with
            those column names. Only the columns of ``TEXT_FIELDS[policy]`` are looked at; a missing or empty one is
            left out.
        policy: How much the note may give away.
        seed: Changes wording and order.

    Raises:
        UnknownNameError: No such policy.
    """
    values = _values(row, policy)
    key = hashlib.sha256(repr((seed, [(name, str(value)) for name, value in values.items()])).encode()).digest()
    rng = np.random.default_rng(int.from_bytes(key[:8], "little"))
    opening = [_demographics(values)]
    if "apoe4" in values:
        count = int(values["apoe4"])
        opening.append(f"Carries {('no', 'one', 'two')[count]} APOE e4 allele{'s' if count == 2 else ''}.")
    body = _score_sentences(values, rng)
    return " ".join([*opening, *(body[i] for i in rng.permutation(len(body)))])


def fields_in(row: Mapping[Any, Any], policy: str = "cognitive") -> tuple[str, ...]:
    """Names of the fields that the note of this row holds; none of them where it would say nothing.

    Raises:
        UnknownNameError: No such policy.
    """
    return tuple(_values(row, policy))


def _values(row: Mapping[Any, Any], policy: str) -> dict[str, Any]:
    """The fields of the policy that the row has."""
    if policy not in TEXT_FIELDS:
        raise UnknownNameError("text policy", policy, TEXT_FIELDS)
    return {name: row.get(name) for name in TEXT_FIELDS[policy] if not _is_missing(row.get(name))}


def _demographics(values: Mapping[str, Any]) -> str:
    noun = {"F": "woman", "M": "man"}.get(str(values.get("sex")), "person")
    age = f"{round(float(values['age']))}-year-old " if "age" in values else ""
    education = f" with {int(values['education'])} years of education" if "education" in values else ""
    sentence = f"{age}{noun}{education}."
    return sentence[0].upper() + sentence[1:]


def _score_sentences(values: Mapping[str, Any], rng: np.random.Generator) -> list[str]:
    """One sentence per score that is there, each with its verbal band."""
    out = []
    if "MMSE" in values:
        score = int(values["MMSE"])
        forms = (f"Mini-Mental State Examination score was {score} out of 30.", f"MMSE {score}/30.")
        out.append(f"{forms[int(rng.integers(2))]} {_band('MMSE', values)}")
    if "MOCA" in values:
        out.append(f"MoCA {int(values['MOCA'])}/30.")
    if "ADAS13" in values:
        out.append(f"ADAS-Cog 13 total {float(values['ADAS13']):.1f}. {_band('ADAS13', values)}")
    if "RAVLT_immediate" in values:
        recall = int(values["RAVLT_immediate"])
        out.append(f"RAVLT immediate recall {recall} words. {_band('RAVLT_immediate', values)}")
    if "FAQ" in values:
        score = int(values["FAQ"])
        reading = _FAQ_BANDS[sum(score >= limit for limit in (3, 10))]
        out.append(f"Functional Activities Questionnaire {score}, {reading}.")
    if "CDRSB" in values:
        out.append(f"CDR sum of boxes {float(values['CDRSB']):.1f}.")
    return out


def _band(name: str, values: Mapping[str, Any]) -> str:
    """The verbal band of a score."""
    high_is_bad, limits, words = _BANDS[name]
    score = float(values[name])
    return words[sum(score > limit if high_is_bad else score < limit for limit in limits)]


def _is_missing(value: Any) -> bool:
    return value is None or value is pd.NA or value == "" or (isinstance(value, float) and math.isnan(value))
