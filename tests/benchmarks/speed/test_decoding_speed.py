"""The timing script of decoding: all ways give the same tokens, and what disagrees is not timed."""

from __future__ import annotations

import pytest
import torch

from medgraft.benchmarks.speed import decoding
from medgraft.benchmarks.speed.decoding import FIRST_MANY, FIRST_ONE, MANY, ONE, Subject, main, measure, parts, rows
from medgraft.errors import ConfigError

TINY = {"hidden_size": 32, "intermediate_size": 32, "num_hidden_layers": 1, "vocab_size": 128}


def test_all_ways_decode_the_same_tokens(monkeypatch, capsys):
    monkeypatch.setattr(decoding, "LLAMA", decoding.LLAMA | TINY)
    monkeypatch.setattr(decoding, "BATCH", 3)
    main(["--steps", "3", "--prompt", "2", "--rounds", "1", "--visual", "embedded:chest", "--bits", "32"])
    lines = capsys.readouterr().out.splitlines()
    cells = [[part.strip() for part in line.strip("|").split("|")] for line in lines[2:4]]
    assert [each[0] for each in cells] == ["soft_prefix", "xattn"] and all("goal 5" in each[1] for each in cells)
    assert lines[-1].startswith("embedded:chest; LLaMA of") and "3 tokens behind 2" in lines[-1]
    assert lines[-1].endswith("of processor time, 1 thread(s), float32.") and lines[-3].startswith("xattn: the first")


def test_several_threads_are_timed_by_the_clock_and_bfloat16_is_named(monkeypatch, capsys):
    monkeypatch.setattr(decoding, "LLAMA", decoding.LLAMA | TINY)
    monkeypatch.setattr(decoding, "BATCH", 2)
    threads = torch.get_num_threads()
    arguments = "--adapters soft_prefix --steps 2 --prompt 2 --rounds 1 --visual embedded:chest --threads 2"
    try:
        main(arguments.split())
    finally:
        torch.set_num_threads(threads)
    last = capsys.readouterr().out.splitlines()[-1]
    assert last.endswith("of time by the clock, 2 thread(s), bfloat16.")
    with pytest.raises(SystemExit):
        main(["--steps", "1"])
    assert "--steps 1 leaves no token after the first to time; name 2 or more" in capsys.readouterr().err


@pytest.mark.parametrize(("bits", "tokens"), [(32, (-1, -1)), (32, (-1,)), (16, (-1,))])
def test_ways_that_disagree_are_not_timed(monkeypatch, bits, tokens):
    monkeypatch.setattr(decoding, "LLAMA", decoding.LLAMA | TINY)
    monkeypatch.setattr(decoding, "BATCH", 2)
    subject = Subject("soft_prefix", "embedded:chest", None, 2, 2, bits)
    monkeypatch.setattr(subject, "all_at_every_step", lambda count: [tokens] * count)
    with pytest.raises(ConfigError, match="'all at every step' decodes other tokens"), torch.no_grad():
        measure(subject, 1)


def test_a_missed_goal_says_so():
    seconds = {"once": [1.0], "vision at every step": [4.9], "all at every step": [9.0], ONE: [1.0], MANY: [3.0]}
    assert rows("xattn", seconds, 10)[0].startswith("| xattn | 4.90 (goal 5: **not met**) | 9.00 | 3.00 (goal 3: met)")


def test_the_first_token_and_those_after_it_are_told_apart():
    seconds = {ONE: [1.0], MANY: [4.0], FIRST_ONE: [0.1], FIRST_MANY: [1.3]}
    said = parts("soft_prefix", seconds, 10)
    first, after = "the first token takes 100.0 ms, 13.00 times that", "each token after it takes 100.0 ms, 3.00 times"
    assert said.startswith(f"soft_prefix: {first}") and after in said
