"""Pictures of embeddings: the cell runs again to its own numbers, projections, the file, and what is refused."""

from __future__ import annotations

import json
import re

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sweeping import command

from medgraft.benchmarks.board.drawn import embedding
from medgraft.benchmarks.board.drawn.embedding import Embedded, cohort_root, draw, flatten, read_result
from medgraft.benchmarks.results.result import CellResult
from medgraft.errors import ConfigError, DataError, MedgraftError


@pytest.fixture
def stored(toy, tmp_path):
    """A finished cell of the toy task."""
    done = command("run", "--adapters", "toy_gain", *toy.options("--seeds", "0", "--results", str(tmp_path / "out")))
    assert done.exit_code == 0, done.output
    return next((tmp_path / "out").rglob("*.json"))


def test_the_cell_runs_again_to_its_own_number(stored, toy, tmp_path):
    result = read_result(stored)
    root = cohort_root(result.spec, {"toy": str(toy.cohort)})
    found = embedding.embed(result, root)
    n = result.data["splits"]["test"]["samples"]
    assert found.value == found.stored == result.metrics[result.primary].value
    assert found.before.shape == found.after.shape and len(found.before) == len(found.targets) == n
    assert not np.array_equal(found.before, found.after), "training moves the embeddings"
    out = tmp_path / "deep" / "a.svg"
    done = command("embed", str(stored), "--out", str(out), "--method", "pca", "--data", f"toy={toy.cohort}")
    assert done.exit_code == 0, done.output
    text = out.read_text()
    assert text.count("before training") == 1 and "</svg>" in text
    assert "in the result" not in done.output


def example(n=30, classes=("CN", "MCI", "AD"), phantom=True, seed=0):
    random = np.random.default_rng(seed)
    targets = np.arange(n) % len(classes)
    after = random.normal(size=(n, 6)) + 6 * np.eye(6)[targets]
    return Embedded("cell", classes, targets, random.normal(size=(n, 6)), after, "f1_macro", 0.5, 0.5, phantom)


@pytest.mark.parametrize("method", ["tsne", "pca"])
def test_the_picture_has_a_row_per_cell_and_is_the_same_every_time(method, tmp_path):
    for name in ("a.svg", "b.svg"):
        draw([example(), example(seed=1, phantom=False)], tmp_path / name, method)
    text = (tmp_path / "a.svg").read_text()
    assert text == (tmp_path / "b.svg").read_text()
    shown = re.findall(r">([^<>]+)</text>", text)
    assert shown.count("after training") == 2 and sum(each.startswith("PHANTOM cell") for each in shown) == 1
    assert {"CN", "MCI", "AD"} <= set(shown)


def test_principal_components_keep_what_separates_classes():
    cell = example(60)
    places = flatten(cell.after, "pca")
    centres = np.stack([places[cell.targets == k].mean(axis=0) for k in range(3)])
    spread = max(places[cell.targets == k].std(axis=0).max() for k in range(3))
    distances = np.linalg.norm(centres[:, None] - centres[None], axis=-1)[np.triu_indices(3, 1)]
    assert distances.min() > 1.5 * spread


@settings(max_examples=5, deadline=None)
@given(n=st.integers(5, 12), width=st.integers(1, 4), constant=st.booleans())
def test_any_embedding_has_a_place(n, width, constant):
    values = np.random.default_rng(0).normal(size=(n, width))
    if constant:
        values[:, 0] = 3.0
    for method in ("pca", "tsne"):
        places = flatten(values, method)
        assert places.shape == (n, 2) and np.isfinite(places).all()


def test_too_few_samples_are_refused():
    with pytest.raises(DataError, match="4 test samples make no picture"):
        flatten(np.zeros((4, 3)))


def test_what_is_no_result_is_refused(tmp_path):
    path = tmp_path / "x.json"
    path.write_text(json.dumps({"key": "no"}))
    with pytest.raises(MedgraftError, match="not a readable result"):
        read_result(path)


def test_a_result_of_another_kind_or_cohort_is_refused(stored, toy, tmp_path):
    result = CellResult.model_validate_json(stored.read_text())
    for changes, error, message in (
        ({"status": "oom"}, MedgraftError, "cell that failed"),
        ({"data": {"objective": "multilabel"}}, ConfigError, "task is multilabel"),
    ):
        path = tmp_path / "other.json"
        path.write_text(result.model_copy(update=changes).model_dump_json())
        with pytest.raises(error, match=message):
            read_result(path)
    with pytest.raises(DataError, match="is not here; give its folder"):
        cohort_root(result.spec, {})
    other = result.spec.cohort.model_copy(update={"revision": "0" * 16})
    with pytest.raises(DataError, match="run the sweep on this copy first"):
        cohort_root(result.spec.model_copy(update={"cohort": other}), {"toy": str(toy.cohort)})
