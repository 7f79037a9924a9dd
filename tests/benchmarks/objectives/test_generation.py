"""``generation``: answers are learnt from soft tokens or from blocks that look, and read back as texts."""

from __future__ import annotations

import time
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch

from medgraft import graft
from medgraft.benchmarks.metrics.texts.columns import GENERATED, REFERENCE, texts_of
from medgraft.benchmarks.objectives.generation import GenerationObjective
from medgraft.errors import ConfigError, DataError, IncompatibleError
from medgraft.metric.judging import judged
from medgraft.objective import Batch, make_objective
from medgraft.task import RawInputs, TaskData
from medgraft.testing.tiny import tiny_encoder
from medgraft.testing.tiny_language import LANGUAGE_ENCODERS

SPLITS = {"train": np.arange(4), "val": np.arange(4, 6), "test": np.arange(6, 8)}


def data(**changes: Any) -> TaskData:
    values: dict[str, Any] = {
        "inputs": {"image": RawInputs(lambda i: None, 8, "nothing")},
        "targets": np.zeros(8, np.int64),
        "subjects": np.arange(8).astype(str),
        "splits": SPLITS,
        "classes": (),
        "columns": {"prompt": np.array(["what is seen"] * 8), "reference": np.array(["clear", "effusion"] * 4)},
        "decoding": {"limit": 5},
    }
    return TaskData(**{**values, **changes})


def made(adapter: str, **options: Any) -> tuple[Any, GenerationObjective]:
    torch.manual_seed(0)
    grafted = graft(LANGUAGE_ENCODERS["language-2d"](), adapter, **options)
    objective = make_objective("generation", data().check(), ("image",))
    assert isinstance(objective, GenerationObjective)
    return grafted, objective


def images() -> torch.Tensor:
    x = torch.rand(8, 1, 16, 24, generator=torch.Generator().manual_seed(0)) * 0.5
    return x * torch.tensor([1.0, 4.0] * 4)[:, None, None, None]


@pytest.mark.parametrize(("adapter", "options"), [("soft_prefix", {}), ("xattn", {"head_dim": 8, "num_latents": 4})])
def test_it_learns_to_tell_what_is_in_the_image(adapter, options):
    grafted, objective = made(adapter, **options)
    named = [(name, p) for _, each in grafted.named_adapters() for name, p in each.named_parameters()]
    gates = [p for name, p in named if name.endswith("_gate")]
    optimizer = torch.optim.Adam(
        [{"params": gates, "lr": 0.1}, {"params": [p for n, p in named if not n.endswith("_gate")]}], lr=2e-2
    )
    train = SPLITS["train"]
    grafted.train()
    for _ in range(250):
        outputs = grafted.encode({"image": images()[train]})
        loss = objective.loss(grafted, outputs, Batch(torch.zeros(4), index=train))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    grafted.eval()

    def predict(index: np.ndarray) -> np.ndarray:
        context = objective.context(grafted)
        return objective.scores_of(grafted, grafted.encode({"image": images()[index]}), context, index).double().numpy()

    found = objective.predictions(predict, SPLITS, np.arange(2))
    assert not objective.misfit(found)
    # A language model with random weights cannot be brought to a text, but a text to be likelier behind its own image.
    outputs, swapped = (grafted.encode({"image": images()[index]}) for index in ([6, 7], [7, 6]))
    own, other = (
        objective.loss(grafted, each, Batch(torch.zeros(2), index=np.array([6, 7]))) for each in (outputs, swapped)
    )
    assert own < other - 0.2
    assert all(len(text.split()) <= 5 for text in texts_of(found.columns[GENERATED]))
    assert texts_of(found.columns[REFERENCE]) == ["clear", "effusion"]
    assert {"rouge_l", "bleu_4", "exact_match"} <= set(judged(replace(found, objective="generation")).statistics)


def test_an_adapter_that_shows_nothing_answers_blindly():
    grafted, objective = made("lora")
    x = images()
    tokens = objective.scores_of(grafted.eval(), grafted.encode({"image": x}), None, np.arange(8))
    assert (tokens == tokens[0]).all() and tokens.shape == (8, 5)


@pytest.mark.parametrize(
    ("changes", "why"),
    [
        ({"columns": {}}, "'prompt'"),
        ({"columns": {"prompt": np.array(["a"] * 8), "reference": np.zeros(8)}}, "'reference'"),
        ({"columns": {"prompt": np.array(["a"] * 8), "reference": np.array(["a", " "] * 4)}}, "4 samples have no"),
    ],
)
def test_data_that_it_cannot_learn_from_are_refused(changes, why):
    with pytest.raises(DataError, match=why):
        make_objective("generation", data(**changes), ("image",))


def test_an_encoder_without_a_language_model_is_refused():
    grafted = graft(tiny_encoder("dual-2d"), "lora")
    objective = make_objective("generation", data(), ("image",))
    with pytest.raises(IncompatibleError, match="continues no text; name one with a language model"):
        objective.loss(grafted, grafted.encode({"image": images()}), Batch(torch.zeros(8), index=np.arange(8)))


def test_a_library_that_is_missing_is_said_before_anything_is_trained(monkeypatch):
    monkeypatch.setattr("medgraft.benchmarks.objectives.generation.LIBRARIES", ("sacrebleu", "no_such_library"))
    with pytest.raises(ConfigError, match=r"judged by no_such_library: pip install medgraft\[language\]"):
        make_objective("generation", data(), ("image",))


def test_tokens_a_second_are_of_what_was_generated_here(tmp_path):
    """Texts that were kept before a kill say nothing of the speed."""
    grafted, objective = made("lora")
    assert objective.generation_rate() is None
    outputs = grafted.eval().encode({"image": images()})
    objective.resume_at(tmp_path / "kept")
    start = time.perf_counter()
    tokens = objective.scores_of(grafted, outputs, None, np.arange(8))
    rate = objective.generation_rate()
    assert rate is not None and rate >= int((tokens >= 0).sum()) / (time.perf_counter() - start)
    again = made("lora")[1]
    again.resume_at(tmp_path / "kept")
    assert torch.equal(again.scores_of(grafted, outputs, None, np.arange(8)), tokens)
    assert again.generation_rate() is None
