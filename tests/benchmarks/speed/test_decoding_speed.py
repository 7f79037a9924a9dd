"""The timing script of decoding: all ways give the same tokens, and what disagrees is not timed."""

from __future__ import annotations

import pytest
import torch

from medgraft.benchmarks.speed import decoding
from medgraft.benchmarks.speed.decoding import MANY, ONE, Subject, main, measure, rows
from medgraft.errors import ConfigError

TINY = {"hidden_size": 32, "intermediate_size": 32, "num_hidden_layers": 1, "vocab_size": 128}


def test_all_ways_decode_the_same_tokens(monkeypatch, capsys):
    monkeypatch.setattr(decoding, "LLAMA", decoding.LLAMA | TINY)
    monkeypatch.setattr(decoding, "BATCH", 3)
    main(["--steps", "3", "--prompt", "2", "--rounds", "1", "--visual", "embedded:chest"])
    lines = capsys.readouterr().out.splitlines()
    cells = [[part.strip() for part in line.strip("|").split("|")] for line in lines[2:4]]
    assert [each[0] for each in cells] == ["soft_prefix", "xattn"] and all("goal 5" in each[1] for each in cells)
    assert lines[-1].startswith("embedded:chest; LLaMA of") and "3 tokens behind 2" in lines[-1]


def test_ways_that_disagree_are_not_timed(monkeypatch):
    monkeypatch.setattr(decoding, "LLAMA", decoding.LLAMA | TINY)
    monkeypatch.setattr(decoding, "BATCH", 2)
    subject = Subject("soft_prefix", "embedded:chest", None, 2, 2)
    monkeypatch.setattr(subject, "all_at_every_step", lambda count: [(-1, -1)] * count)
    with pytest.raises(ConfigError, match="'all at every step' decodes other tokens"), torch.no_grad():
        measure(subject, 1)


def test_a_missed_goal_says_so():
    seconds = {"once": [1.0], "vision at every step": [4.9], "all at every step": [9.0], ONE: [1.0], MANY: [3.0]}
    assert rows("xattn", seconds, 10)[0].startswith("| xattn | 4.90 (goal 5: **not met**) | 9.00 | 3.00 (goal 3: met)")
