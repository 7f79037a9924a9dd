"""Tables of generated texts: what is written is read back, and what was changed is noticed."""

from __future__ import annotations

import json
import os

import numpy as np
import pandas as pd
import pytest

from medgraft.benchmarks.metrics.texts.columns import as_column
from medgraft.benchmarks.texts import table as tables

TEXTS = ["Small left effusion.", "", "Größe: 3 µm, “clear”"]


def arrays() -> dict[str, np.ndarray]:
    return {
        "scores": np.full((3, 4), -1.0),
        "targets": np.array([4, 0, 4]),
        "groups": np.array([1, 0, 1]),
        "generated": as_column(TEXTS),
        "reference": as_column(["a", "b", "c"]),
        "prompt": as_column(["What is seen?"] * 3),
        "truth": as_column(["[]"] * 3),
        "ending": np.array([0, 2, 1]),
    }


@pytest.fixture
def stored(tmp_path):
    table = tables.table_of(arrays())
    place = tmp_path / f"abc{tables.SUFFIX}"
    place.write_bytes(tables.as_parquet(table))
    return tmp_path / "abc.json", tables.listed(place.name, table)


def test_a_table_has_texts_and_numbers_in_the_place_of_names(stored):
    path, said = stored
    read = pd.read_parquet(path.with_name(said["file"]))
    assert list(read.columns) == ["sample", "subject", "prompt", "reference", "generated", "ending", "truth"]
    assert read["generated"].tolist() == TEXTS and read["subject"].tolist() == [1, 0, 1]
    assert read["ending"].tolist() == ["end", "limit", "stop"]
    assert said["samples"] == 3 and json.loads(json.dumps(said)) == said
    assert tables.problem_of(path, said) == ""


def test_what_was_changed_behind_the_results_back_is_noticed(stored):
    path, said = stored
    place = path.with_name(said["file"])
    changed = pd.read_parquet(place).assign(generated=["No effusion.", *TEXTS[1:]])
    changed.to_parquet(place, index=False)
    assert "holds other texts than the result lists" in tables.problem_of(path, said)
    place.write_bytes(b"PAR1 and nothing")
    assert "no readable Parquet file" in tables.problem_of(path, said)
    place.unlink()
    assert tables.problem_of(path, said) == ""  # the predictions hold the same texts
    os.mkfifo(place)
    assert "no regular file" in tables.problem_of(path, said)
    assert "would be in abc.texts.parquet" in tables.problem_of(path, {**said, "file": "../other.parquet"})


def test_a_table_that_unpacks_to_more_than_allowed_is_not_read(stored, monkeypatch):
    path, said = stored
    monkeypatch.setenv("MEDGRAFT_MAX_UNPACKED_BYTES", "2000")
    pd.DataFrame({"sample": range(9000)}).to_parquet(path.with_name(said["file"]), index=False)
    assert "MEDGRAFT_MAX_UNPACKED_BYTES" in tables.problem_of(path, said)


def test_without_the_library_the_result_says_so(monkeypatch):
    monkeypatch.setattr(tables, "can_write", lambda: False)
    said = tables.listed("", tables.table_of(arrays()))
    assert said["file"] == "" and "pip install medgraft[language]" in said["missing"]
