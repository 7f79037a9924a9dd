"""The timing script: ways that agree, rounds that interleave, and a refusal to time what does not agree."""

from __future__ import annotations

import numpy as np
import pytest

from medgraft.benchmarks.speed.zero_shot_speed import main, make_cell, measure, table_rows, ways
from medgraft.errors import ConfigError


def test_all_ways_give_the_same_scores_and_the_table_says_so(chest_cohort, capsys):
    main(["--data", str(chest_cohort), "--images", "8", "--rounds", "1", "--encoder", "phantom_chest@random"])
    lines = capsys.readouterr().out.splitlines()
    cells = [[part.strip() for part in line.strip("|").split("|")] for line in lines[2:8]]
    wanted = [(a, w) for a in ("zero_shot", "ace_lora") for w in ("one by one", "batched", "cached")]
    assert [(row[0], row[1]) for row in cells] == wanted
    assert all(float(row[2]) > 0 and float(row[4]) < 0.02 for row in cells)
    assert [row[3] for row in cells if row[1] == "one by one"] == ["1.0 (1.0 to 1.0)"] * 2
    assert lines[-1] == "phantom_chest@random, 8 images, 1 rounds, 1 thread(s), fp32."


def test_the_cached_way_reads_no_image(chest_cohort, monkeypatch):
    cell = make_cell(chest_cohort, "zero_shot", "phantom_chest@random", 8, 1)
    monkeypatch.setattr(type(cell.loaded.encoder.towers()["image"]), "prefix", None)
    cell.loaded.data.inputs = {}
    assert ways(cell)["cached"]().shape == (8, 5)


def test_rounds_run_every_way_in_a_turning_order():
    calls: list[str] = []

    def way(name: str):
        return lambda: (calls.append(name), np.zeros((2, 2)))[1]

    seconds, apart = measure({name: way(name) for name in "abc"}, rounds=3)
    assert "".join(calls[4:]) == "abcbcacab" and apart == {"a": 0, "b": 0, "c": 0}
    assert {name: len(each) for name, each in seconds.items()} == {"a": 3, "b": 3, "c": 3}
    assert next(table_rows("x", {"a": [2.0, 4.0], "b": [1.0, 1.0]}, {"a": 0, "b": 0.5}, 6)).startswith("| x | a | 2 |")


def test_ways_that_disagree_are_not_timed():
    with pytest.raises(ConfigError, match=r"b gives scores up to 0\.5 away"):
        measure({"a": lambda: np.zeros(1), "b": lambda: np.full(1, 0.5)}, rounds=1)
