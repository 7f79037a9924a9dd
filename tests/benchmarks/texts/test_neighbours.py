"""Retrieval: exact, of other subjects alone, within the context; hostile indices."""

from __future__ import annotations

import numpy as np
import pytest
from safetensors.numpy import load_file

from medgraft.benchmarks.texts import neighbours
from medgraft.benchmarks.texts.neighbours import ReportIndex, by_scikit_learn, unit
from medgraft.benchmarks.texts.prompting import retrieved
from medgraft.errors import CheckpointError, DataError
from medgraft.testing.tiny_language import LANGUAGE_ENCODERS


def index(n: int = 40, subjects: int = 7, seed: int = 0) -> ReportIndex:
    draw = np.random.default_rng(seed)
    return ReportIndex(draw.normal(size=(n, 5)), [f"report {i}" for i in range(n)], draw.integers(subjects, size=n))


@pytest.mark.parametrize("seed", range(3))
def test_neighbours_are_the_nearest_of_other_subjects(seed):
    made, draw = index(seed=seed), np.random.default_rng(seed + 9)
    queries, subjects = draw.normal(size=(12, 5)), [str(s) for s in draw.integers(9, size=12)]
    for row, query, subject in zip(made.nearest(queries, 4, subjects), queries, subjects, strict=True):
        cosines = made.features.astype(float) @ (query / np.linalg.norm(query))
        cosines[made.subjects == subject] = -2
        assert row == list(np.argsort(-cosines)[:4])
        assert subject not in made.subjects[row]


def test_faiss_and_scikit_learn_find_the_same(monkeypatch):
    draw = np.random.default_rng(3)
    keys, queries = unit(draw.normal(size=(60, 8))), unit(draw.normal(size=(9, 8)))
    keys[30:] = keys[:30]  # equal ones, which each library orders as it likes
    with_faiss = neighbours._search(keys, queries, 6)
    monkeypatch.setattr(neighbours.importlib.util, "find_spec", lambda name: None)
    assert (neighbours._search(keys, queries, 6) == with_faiss).all()
    assert set(by_scikit_learn(keys, queries, 60)[0]) == set(range(60))


def test_fewer_reports_than_neighbours_and_none_of_another_subject():
    made = ReportIndex(np.eye(3), ["a", "b", "c"], ["x", "x", "y"])
    assert made.nearest(np.eye(3)[:1], 5, [None]) == [[0, 1, 2]]
    assert made.nearest(np.eye(3)[:1], 5, ["x"]) == [[2]]
    alone = ReportIndex(np.eye(2), ["a", "b"], ["x", "x"])
    assert alone.nearest(np.eye(2), 2, ["x", "z"]) == [[], [1, 0]]
    assert ReportIndex(np.zeros((0, 2)), [], []).nearest(np.eye(2), 2, [None, None]) == [[], []]


def test_an_index_is_kept_without_names(tmp_path):
    made = ReportIndex(np.eye(3), ["a", "b µ", ""], ["patient00012", "patient00013", "patient00012"])
    made.save(tmp_path / "x.safetensors")
    assert b"patient" not in (tmp_path / "x.safetensors").read_bytes()
    read = ReportIndex.load(load_file(tmp_path / "x.safetensors"))
    assert read.texts == made.texts and list(read.subjects) == ["0", "1", "0"]
    with pytest.raises(CheckpointError, match="no features"):
        ReportIndex.load({})


def test_an_index_that_is_none_is_refused():
    with pytest.raises(DataError, match="2 reports"):
        ReportIndex(np.eye(3), ["a", "b"], ["x"] * 3)
    with pytest.raises(DataError, match="not finite"):
        ReportIndex(np.full((1, 2), np.nan), ["a"], ["x"])


def test_a_prompt_takes_as_many_reports_as_the_context_has_room_for():
    model = LANGUAGE_ENCODERS["language-2d"]().towers()["text"]
    reports = [" ".join(["word"] * 9)] * 6
    (prompt,) = retrieved(model, ["what is seen"], [reports], soft=4, answer=6)
    assert prompt.endswith("\nwhat is seen") and prompt.count("|") == 1
    made = model.prompts([prompt])
    assert int(made.mask.sum()) + 4 + 6 <= model.context
    assert retrieved(model, ["what is seen"], [reports], soft=4, answer=40) == ["what is seen"]
    assert retrieved(model, ["what is seen"], [[]], soft=4, answer=6) == ["what is seen"]
