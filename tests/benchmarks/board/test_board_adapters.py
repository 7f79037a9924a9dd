"""What a board says of its adapters, foreign ones too, and tables without empty columns."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sweeping import Toy

from medgraft.benchmarks.board.adapters import without_dashes
from medgraft.benchmarks.board.leaderboard import table
from medgraft.benchmarks.board.markdown import markdown
from medgraft.benchmarks.board.options import BoardOptions
from medgraft.benchmarks.board.rows import board_rows
from medgraft.benchmarks.sweep.recipe import training
from medgraft.benchmarks.sweep.request import Sweep
from medgraft.errors import ConfigError
from medgraft.registry import adapter_class, adapter_facts, resolve_adapter

CELLS = st.sampled_from(["-", "1", "0.5 [.1-.9]", ""])


@given(st.lists(st.lists(CELLS, min_size=3, max_size=3), min_size=1, max_size=5))
def test_a_column_goes_only_if_no_row_has_anything_in_it(rows):
    heads, cells = without_dashes(["a", "b", "c"], rows, ["a"])
    kept = [column for column in range(3) if column == 0 or any(row[column] not in ("-", "") for row in rows)]
    assert heads == [["a", "b", "c"][column] for column in kept]
    assert np.array_equal(np.array(cells), np.array(rows)[:, kept])


@pytest.fixture
def gain(toy: Toy, monkeypatch: pytest.MonkeyPatch):
    cls = adapter_class(resolve_adapter("toy_gain"))
    for name, value in {
        "title": "Gain of the toy", "paper": "Toy et al., 2026", "licence": "MIT",
        "train_defaults": {"epochs": 3, "lr": 0.02},
    }.items():  # fmt: skip
        monkeypatch.setattr(cls, name, value)
    return cls


def test_a_foreign_adapter_brings_its_recipe(gain):
    found = training(Sweep(adapters=("toy_gain",)), "toy_gain")
    assert (found.epochs, found.lr, found.batch_size) == (3, 0.02, 32)
    assert training(Sweep(adapters=("toy_gain",), epochs=1), "toy_gain").epochs == 1
    composed = training(Sweep(adapters=("lora+toy_gain",)), "lora+toy_gain")
    assert (composed.epochs, composed.lr) == (3, 0.02)


@pytest.mark.parametrize("wrong", [{"epoch": 3}, {"lr": "high"}, {"epochs": True}])
def test_a_recipe_that_cannot_be_is_refused_by_name(gain, monkeypatch, wrong):
    monkeypatch.setattr(gain, "train_defaults", wrong)
    with pytest.raises(ConfigError, match="train_defaults of adapter 'toy_gain': "):
        adapter_facts(resolve_adapter("toy_gain"))


def test_title_and_recipe_stand_in_describe_and_on_the_board(gain, toy, medgraft, tmp_path, monkeypatch):
    said = medgraft("describe", "toy_gain").stdout
    assert "title: Gain of the toy" in said and "licence: MIT" in said and "0.02" in said
    # A worker imports the adapter afresh, so what it would say is put beside the result here.
    done = medgraft("run", "--adapters", "toy_gain", *toy.options("--seeds", "0", "--results", str(tmp_path)))
    assert done.exit_code == 0, done.output
    rows = board_rows([tmp_path])
    rows[0].cells[0] = rows[0].cells[0].model_copy(
        update={"adapters": {"toy_gain": {**rows[0].cells[0].adapters["toy_gain"], **adapter_facts(
            resolve_adapter("toy_gain")).to_dict()}}}
    )  # fmt: skip
    text = markdown(rows, BoardOptions("made by hand"))
    line = next(line for line in text.splitlines() if "Gain of the toy" in line)
    assert "medgraft-toy 1.5" in line and "2 epochs, lr 0.02" in line and "MIT" in line and "Toy et al., 2026" in line
    assert table(rows)["title"][0] == "Gain of the toy" and table(rows)["recipe"][0].startswith("2 epochs")


def test_columns_that_no_row_fills_are_left_out(toy, medgraft, tmp_path):
    done = medgraft("run", "--adapters", "toy_gain", *toy.options("--seeds", "0", "--results", str(tmp_path)))
    assert done.exit_code == 0, done.output
    frame = table(board_rows([tmp_path]))
    assert "note" in frame and not [name for name in frame if name != "note" and frame[name].isna().all()]
    assert "licence" not in markdown(board_rows([tmp_path]), BoardOptions("x"))  # nobody gave one
