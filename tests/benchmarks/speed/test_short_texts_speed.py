"""The timing script of short texts: both ways agree, rounds turn, and what disagrees is not timed."""

from __future__ import annotations

import numpy as np
import pytest

from medgraft.benchmarks.speed import short_texts
from medgraft.benchmarks.speed.short_texts import compare, main, row
from medgraft.errors import ConfigError


def test_both_ways_agree_and_the_table_says_so(monkeypatch, capsys):
    small = {"hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 32}
    monkeypatch.setattr(short_texts, "MINILM", small)
    monkeypatch.setenv("MEDGRAFT_CACHE", "set back afterwards")
    main(["--sentences", "48", "--rounds", "1", "--epochs", "1"])
    lines = capsys.readouterr().out.splitlines()
    cells = [[part.strip() for part in line.strip("|").split("|")] for line in lines[2:4]]
    assert [each[0] for each in cells] == ["frozen pass", "lora cell"]
    assert all(each[3].endswith("x") and float(each[5]) < 0.02 for each in cells)  # too small to time
    assert lines[-1].startswith("BERT of MiniLM's size (random weights), 48 sentences of 2")


def test_rounds_run_both_ways_in_a_turning_order():
    order: list[bool] = []

    def run(cut: bool):
        order.append(cut)
        return (1.0 if cut else 20.0), np.zeros(3), 27.0

    seconds, apart, tokens = compare(run, 2)
    assert order == [False, True, True, False] and seconds == [[20.0, 1.0]] * 2 and (apart, tokens) == (0, 27)
    assert (
        row("frozen pass", seconds, apart) == "| frozen pass | 20.0 | 1.0 | 20.0x (20.0 to 20.0) | 15x: met | 0e+00 |"
    )
    assert "**not met**" in row("lora cell", [[9.0, 1.0]], 0.0)


def test_ways_that_disagree_are_not_timed():
    with pytest.raises(ConfigError, match=r"numbers up to 0\.5 away"):
        compare(lambda cut: (1.0, np.full(2, 0.5 * cut), 27.0), 1)
