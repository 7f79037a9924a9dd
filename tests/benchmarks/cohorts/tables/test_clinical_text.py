"""The clinical note: never a diagnosis, only the fields of its policy, the same note for the same row."""

from __future__ import annotations

import re
from itertools import pairwise

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from medgraft.benchmarks.cohorts.tables.clinical_text import TEXT_FIELDS, compose_text
from medgraft.benchmarks.phantoms.brain.cohort import subject_visits
from medgraft.benchmarks.phantoms.brain.latents import SETTINGS
from medgraft.errors import UnknownNameError

DIAGNOSIS_WORDS = re.compile(
    r"\b(AD|MCI|EMCI|LMCI|SMC|CN|NL)\b|alzheimer|dement|impairment|normal control|cognitively normal|diagnos",
    re.IGNORECASE,
)
ROW = {
    "age": 74.6, "sex": "F", "education": 16.0, "apoe4": 1.0, "MMSE": 25.0, "MOCA": 20.0, "ADAS13": 18.33,
    "RAVLT_immediate": 30.0, "FAQ": 5.0, "CDRSB": 1.5, "dx": "MCI", "session": "bl", "subject": "999_S_9001",
}  # fmt: skip


def _maybe(values: st.SearchStrategy) -> st.SearchStrategy:
    return st.one_of(values, st.just(float("nan")), st.none())


ROWS = st.fixed_dictionaries(
    {
        "age": _maybe(st.floats(40, 100)),
        "sex": _maybe(st.sampled_from(["F", "M"])),
        "education": _maybe(st.integers(0, 25).map(float)),
        "apoe4": _maybe(st.sampled_from([0.0, 1.0, 2.0])),
        "MMSE": _maybe(st.integers(0, 30).map(float)),
        "MOCA": _maybe(st.integers(0, 30).map(float)),
        "ADAS13": _maybe(st.floats(0, 85)),
        "RAVLT_immediate": _maybe(st.integers(0, 75).map(float)),
        "FAQ": _maybe(st.integers(0, 30).map(float)),
        "CDRSB": _maybe(st.integers(0, 36).map(lambda n: n / 2)),
        "dx": st.sampled_from(["CN", "MCI", "AD", "Dementia"]),
        "description": st.just("Alzheimer's disease cohort, normal control"),
    }
)


@settings(max_examples=300, deadline=None)
@given(row=ROWS, policy=st.sampled_from(sorted(TEXT_FIELDS)), seed=st.integers(0, 5))
def test_text_never_names_a_diagnosis(row, policy, seed):
    text = compose_text(row, policy, seed)
    assert not DIAGNOSIS_WORDS.search(text), text
    assert "nan" not in text.lower() and "none" not in text.lower()
    assert text.endswith(".") and text[0].upper() == text[0] and "  " not in text


@settings(max_examples=100, deadline=None)
@given(row=ROWS, policy=st.sampled_from(sorted(TEXT_FIELDS)), dx=st.sampled_from(["CN", "MCI", "AD"]))
def test_text_depends_on_its_fields_only(row, policy, dx):
    fields = {name: row[name] for name in TEXT_FIELDS[policy]}
    assert compose_text(row, policy) == compose_text(fields, policy) == compose_text({**row, "dx": dx}, policy)


def test_policies_give_away_more_and_more():
    fields = [set(TEXT_FIELDS[policy]) for policy in ("demographic", "genetic", "cognitive", "full")]
    assert all(a < b for a, b in pairwise(fields))
    assert not {"dx", "dx_source", "DX", "DX_bl", "Group", "subject", "site"} & fields[-1]
    lengths = [len(compose_text(ROW, policy)) for policy in ("demographic", "genetic", "cognitive", "full")]
    assert lengths == sorted(lengths) and len(set(lengths)) == 4
    assert compose_text(ROW, "demographic") == "75-year-old woman with 16 years of education."
    assert compose_text(ROW, "genetic").endswith("Carries one APOE e4 allele.")


def test_full_note_reads_the_scores():
    text = compose_text(ROW, "full")
    for part in (
        "25", "Mildly impaired.", "MoCA 20/30.", "ADAS-Cog 13 total 18.3. Elevated.",
        "RAVLT immediate recall 30 words. Reduced recall.", "CDR sum of boxes 1.5.",
        "Functional Activities Questionnaire 5, some help needed with daily activities.",
    ):  # fmt: skip
        assert part in text


@pytest.mark.parametrize(
    ("field", "value", "words"),
    [
        ("MMSE", 28, "Normal range."),
        ("MMSE", 27, "Borderline."),
        ("MMSE", 24, "Mildly impaired."),
        ("MMSE", 23, "Impaired."),
        ("ADAS13", 11.0, "Within normal limits."),
        ("ADAS13", 11.1, "Slightly elevated."),
        ("ADAS13", 26.1, "Markedly elevated."),
        ("RAVLT_immediate", 42, "Good recall."),
        ("RAVLT_immediate", 25, "Poor recall."),
        ("FAQ", 2, "independent"),
        ("FAQ", 10, "dependent in several"),
    ],
)
def test_bands(field, value, words):
    assert words in compose_text({**ROW, field: value})


def test_same_row_same_note_and_rows_differ():
    assert compose_text(ROW) == compose_text(dict(reversed(ROW.items())))
    np.random.seed(1)
    first = compose_text(ROW)
    np.random.seed(2)
    assert compose_text(ROW) == first, "no global random numbers"
    orders = {re.sub(r"[\d.]+", "#", compose_text({**ROW, "ADAS13": 12.0 + i / 10})) for i in range(30)}
    assert len(orders) > 5, "the order of the sentences varies"
    assert len({compose_text(ROW, seed=seed) for seed in range(10)}) > 1


def test_missing_fields_are_left_out():
    text = compose_text({"age": 70.2, "sex": None, "MMSE": float("nan"), "MOCA": pd.NA, "FAQ": ""})
    assert text == "70-year-old person."
    assert compose_text({}) == "Person."


def test_row_of_a_data_frame():
    frame = pd.DataFrame([ROW])
    assert compose_text(frame.iloc[0].to_dict()) == compose_text(ROW)


def test_notes_of_a_cohort_carry_the_signal_but_no_label():
    words = {"CN": [], "MCI": [], "AD": []}
    for index in range(150):
        visit = subject_visits(SETTINGS["default"], 0, index, max_visits=1)[0]
        row = {"age": visit.subject.age, "sex": "F", "education": visit.subject.education, **visit.scores}
        text = compose_text(row)
        assert not DIAGNOSIS_WORDS.search(text)
        words[visit.dx].append("Markedly elevated." in text)
    assert np.mean(words["AD"]) > 0.5 > 0.1 > np.mean(words["CN"])


def test_unknown_policy_is_named():
    with pytest.raises(UnknownNameError, match="did you mean cognitive"):
        compose_text(ROW, "cognitiv")
