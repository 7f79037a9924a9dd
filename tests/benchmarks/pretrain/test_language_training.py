"""Training of the embedded language model: stopped and gone on is not stopped; what is written can be built."""

from __future__ import annotations

import json
from typing import Any

import pytest
import torch

from medgraft.benchmarks.pretrain import language
from medgraft.checkpoints.weights import file_digest
from medgraft.encoders.parts.hf.embedded_language import fresh_network, load_network


@pytest.fixture(scope="module")
def small():
    """A network of a few thousand parameters, and rows of few tokens."""
    with pytest.MonkeyPatch.context() as patch:
        sizes = {"hidden_size": 32, "intermediate_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2}
        patch.setattr(language, "CONFIG", language.CONFIG | sizes | {"num_key_value_heads": 2})
        patch.setattr(language, "ROW", 160)
        yield language.train_tokenizer(0, 40)


def trained(words: Any, steps: int, until: int, state: dict[str, Any] | None = None) -> language.Trainer:
    trainer = language.Trainer(words, steps, 1, 0)
    if state is not None:
        trainer.go_on_from(state)
    while trainer.step < until:
        trainer.take_step()
    return trainer


def test_a_run_that_was_stopped_ends_as_one_that_was_not(small, tmp_path):
    torch.save(trained(small, 8, 3).state(), tmp_path / "state.pt")
    state = torch.load(tmp_path / "state.pt", weights_only=True)
    again = language.tokenizer_from(state["words"])
    gone_on, whole = trained(again, 8, 6, state).network.state_dict(), trained(small, 8, 6).network.state_dict()
    assert all(torch.equal(gone_on[name], whole[name]) for name in whole)


def test_before_its_last_quarter_a_run_does_not_depend_on_its_length():
    short, long = ([language.learning_rate(step, n) for step in range(600)] for n in (800, 2000))
    assert short == long and max(short) == language.PEAK
    falling = [language.learning_rate(step, 800) for step in range(600, 800)]
    assert falling == sorted(falling, reverse=True) and 0 < falling[-1] < 0.01 * language.PEAK


def test_what_is_written_can_be_built_and_is_what_the_card_says(small, tmp_path):
    trainer = trained(small, 4, 2)
    language.write(tmp_path, trainer, {"seed": 0}, held_out=2)
    card = json.loads((tmp_path / "language.json").read_text())
    assert card["sha256"] == file_digest(tmp_path / "language.safetensors")
    network = fresh_network(card["config"])
    load_network(network, tmp_path / "language.safetensors", card["sha256"])
    expected = {k: v.bfloat16().float() for k, v in trainer.network.state_dict().items()}
    assert all(torch.equal(network.state_dict()[name], tensor) for name, tensor in expected.items())
    assert card["held_out_perplexity"] == language.perplexities(network, small, 1, 2)
    assert card["parameters"] == sum(p.numel() for p in network.parameters())
