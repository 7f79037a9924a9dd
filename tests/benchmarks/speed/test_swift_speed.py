"""The timing script of SwiFT: the plain form is the formula, pairs take turns, and what differs is not timed."""

from __future__ import annotations

import re

import pytest
import torch

from medgraft.benchmarks.speed import swift
from medgraft.benchmarks.speed.plain_swift import cut, plain, put_back, shift_mask
from medgraft.encoders.parts.swift.network import shift_bias, split_windows
from medgraft.encoders.swift import SwiFT, SwiftSource
from medgraft.errors import ConfigError


def network(size=(8, 8, 4, 7), window=(3, 2, 2, 4), full=False):
    """With padding on some axes, shifts on others, and windows longer than an axis."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(3)
        made = SwiFT(size, 2, 6, window, (2, 2, 2, 3), (2, 2, 1, 1), (2, 2), (3, 2), last_layer_full_MSA=full).double()
        for parameter in made.parameters():
            torch.nn.init.normal_(parameter, std=0.4)
    return made.eval()


@pytest.mark.parametrize("full", [False, True])
def test_the_plain_form_is_the_network(full):
    made = network(full=full)
    x = torch.randn(2, 2, 8, 8, 4, 7, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        torch.testing.assert_close(plain(made, x), made(x), rtol=1e-9, atol=1e-9)
        torch.testing.assert_close(plain(made, x[..., :5]), made(x[..., :5]), rtol=1e-9, atol=1e-9)


def test_windows_and_masks_of_the_plain_form():
    size, window, shift = (4, 6, 2, 9), (2, 3, 2, 3), (1, 1, 0, 1)
    maps = torch.arange(4 * 6 * 2 * 9 * 2.0).view(1, 4, 6, 2, 9, 2)
    assert torch.equal(cut(maps, window), split_windows(maps, window))
    assert torch.equal(put_back(cut(maps, window), window, size), maps)
    assert torch.equal(shift_mask(size, window, shift, maps), shift_bias(size, window, shift, maps))


def test_the_small_size_gives_a_table(capsys, monkeypatch, tmp_path):
    monkeypatch.setenv("MEDGRAFT_CACHE", str(tmp_path))
    threads = torch.get_num_threads()
    swift.main(["--small", "--rounds", "2", "--threads", "1"])
    lines = capsys.readouterr().out.splitlines()
    rows = [[part.strip() for part in line.strip("|").split("|")] for line in lines[2:4]]
    assert [row[0] for row in rows] == ["forward", "forward and backward"]
    for row in rows:
        assert float(row[1]) > 0 and float(row[2]) > 0 and float(row[4]) < swift.TOLERANCE
        middle, low, high = map(float, re.findall(r"[\d.]+", row[3]))
        assert low <= middle <= high
    assert lines[-1] == "swift:tiny, one window of 16 x 16 x 16 x 4, 2 pairs, 1 threads, fp32."
    assert torch.get_num_threads() == threads


def test_forms_take_turns_at_being_the_first():
    calls: list[str] = []
    found = swift.pairs(lambda: calls.append("a"), lambda: calls.append("b"), 3)
    assert "".join(calls) == "abbaab" and len(found) == 3


def test_forms_that_differ_are_not_timed(monkeypatch):
    monkeypatch.setattr(swift, "plain", lambda made, x: made(x) * 1.0001)
    with pytest.raises(ConfigError, match="the two forms of SwiFT differ by 2"):
        swift.table("tiny", 1)


def test_the_cache_gives_the_same_training_and_skips_what_is_frozen(tmp_path, monkeypatch):
    monkeypatch.setenv("MEDGRAFT_CACHE", str(tmp_path))
    encoder = SwiftSource.make("tiny", "random", None, windows=1)
    inputs = swift.noisy_runs(encoder, 3)
    ran: list[str] = []
    for number in range(len(encoder.model.places())):
        block = encoder.get_submodule(encoder.block_paths()[number])
        block.register_forward_hook(lambda *_, number=number: ran.append(str(number)))
    found = swift.with_and_without_cache(encoder, inputs, "lora", {"depth": "up"}, 2)
    assert found.stages == (3, 5) and found.apart < 1e-3  # what is kept is in half precision
    assert found.without > 0 and found.fill > 0 and found.steps > 0 and found.kept > 3 * 32 * 12 * 2
    steps = 2 * 3
    assert "".join(ran).endswith("23" * steps) and ran.count("0") < 2 * steps  # a graft tries the network itself


def test_the_small_size_of_the_cache_gives_a_table(capsys, monkeypatch, tmp_path):
    monkeypatch.setenv("MEDGRAFT_CACHE", str(tmp_path))
    swift.main(["--small", "--cache", "--runs", "1", "--epochs", "1", "--threads", "1"])
    lines = capsys.readouterr().out.splitlines()
    rows = [[part.strip() for part in line.strip("|").split("|")] for line in lines[2:5]]
    assert [row[1] for row in rows] == ["5 of 5", "3 of 5", "1 of 5"]
    assert lines[-1] == "swift:tiny, 1 windows of 16 x 16 x 16 x 4, 1 epochs, batches of one, 1 threads, fp32."


@pytest.mark.parametrize(
    "arguments", [["--rounds", "0"], ["--threads", "0"], ["--small", "--side", "48"], ["--cache", "--runs", "0"]]
)
def test_arguments_that_make_no_sense_are_refused(arguments):
    with pytest.raises(SystemExit):
        swift.main(arguments)


def test_a_side_that_the_stages_do_not_divide_is_refused():
    with pytest.raises(ConfigError, match="must be a multiple of"):
        swift.build("hcp", 60)
