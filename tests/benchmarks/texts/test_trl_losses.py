"""Losses of TRL on a graft that looks at images: the plain one is ours, the others are as published."""

from __future__ import annotations

import random
import sys

import numpy as np
import pytest
import torch

from medgraft import graft
from medgraft.benchmarks.objectives.generation import GenerationObjective
from medgraft.benchmarks.texts.preferences import log_probability
from medgraft.benchmarks.texts.tuning import PreferenceTuning, trl_loss
from medgraft.errors import ConfigError
from medgraft.objective import Batch
from medgraft.task import RawInputs, TaskData
from medgraft.task.text_options import CounterMeasures
from medgraft.testing.tiny_language import LANGUAGE_ENCODERS

TEXTS = ["There is a small left pleural effusion. No pneumothorax.", "Rotated film.", "There is a large effusion."]
BETA = 0.3


def tuned(name: str) -> GenerationObjective:
    data = TaskData(
        inputs={"image": RawInputs(lambda i: None, 5, "nothing")},
        targets=np.zeros(5, np.int64),
        subjects=np.arange(5).astype(str),
        splits={"train": np.arange(3), "val": np.arange(3, 4), "test": np.arange(4, 5)},
        classes=(),
        columns={"prompt": np.array(["what is seen"] * 5), "reference": np.array([*TEXTS, *TEXTS[:2]])},
        decoding={"limit": 5},
        countermeasures={"preferences": 0.25, "beta": BETA, "chosen_weight": 0.5, "preference_loss": name},
    )
    return GenerationObjective(data, ("image",))


@pytest.fixture(scope="module", params=["soft_prefix", "xattn", "soft_prefix+lora"])
def moved(request):
    """A graft whose adapters are no longer what they were before the phase, with its samples' images."""
    torch.manual_seed(0)
    grafted = graft(LANGUAGE_ENCODERS["language-2d"](), request.param)
    return grafted.train(), torch.rand(5, 1, 16, 24)


def loss_of(name: str, moved, index: np.ndarray) -> tuple[float, list[torch.Tensor]]:
    grafted, images = moved
    objective = tuned(name)

    def run(part: np.ndarray):
        return grafted.encode({"image": images[part]})

    state = {key: value.clone() for key, value in grafted.state_dict().items()}
    objective.begin_last_phase(grafted, run, np.arange(3))
    with torch.no_grad():
        torch.manual_seed(1)
        for parameter in grafted.trainable_parameters():
            parameter += 0.05 * torch.randn_like(parameter)
    loss = objective.loss(grafted, run(index), Batch(torch.zeros(len(index)), index=index))
    loss.backward()
    found = [p.grad.clone() for p in grafted.trainable_parameters() if p.grad is not None]
    grafted.zero_grad()
    grafted.load_state_dict(state)
    return loss.item(), found


@pytest.mark.parametrize("index", [[0, 2], [0, 1, 2], [1, 0]], ids=str)
def test_its_plain_loss_is_ours_on_images_too(moved, index):
    """Also where a sample of the batch has no pair."""
    ours, mine = loss_of("dpo", moved, np.array(index))
    theirs, other = loss_of("sigmoid", moved, np.array(index))
    assert theirs == pytest.approx(ours, abs=1e-5) and abs(ours - np.log(2)) > 1e-3
    assert len(mine) == len(other) > 0
    for a, b in zip(mine, other, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-6)


def margins() -> tuple[list[float], tuple[object, ...]]:
    """Log-ratios of two pairs, and what makes them."""
    model = LANGUAGE_ENCODERS["language-2d"]().towers()["text"]
    texts = (["small left effusion", "clear"], ["clear", "small right effusion effusion"])
    prompts = model.prompts(["what is seen"] * 2)
    before = torch.tensor([[-9.0, -8.0], [-5.0, -20.0]])
    now = torch.stack([log_probability(model, prompts, each) for each in texts], dim=1)
    return (now - before).tolist(), (model, prompts, texts, before, torch.tensor([True, True]))


def test_hinge_and_ipo_are_as_published():
    """SLiC (Zhao et al. 2023) and IPO (Azar et al. 2024, equation 17), the second by token as TRL has it."""
    ratios, made = margins()
    model, _, texts = made[:3]
    hinge = np.mean([max(0.0, 1 - BETA * (a - b)) for a, b in ratios])
    assert trl_loss("hinge", BETA).of(*made).item() == pytest.approx(hinge, rel=1e-5)
    lengths = [[int(real.sum()) for real in model.answers(each)[1]] for each in texts]
    ipo = np.mean(
        [(a / n - b / m - 1 / (2 * BETA)) ** 2 for (a, b), n, m in zip(ratios, lengths[0], lengths[1], strict=True)]
    )
    assert trl_loss("ipo", BETA).of(*made).item() == pytest.approx(ipo, rel=1e-5)


@pytest.mark.parametrize("name", CounterMeasures.model_fields["preference_loss"].annotation.__args__[1:])
def test_every_loss_of_the_option_is_one_of_theirs(name):
    _, made = margins()
    assert np.isfinite(trl_loss(name, BETA).of(*made).item())


def test_a_trainer_of_theirs_leaves_chance_alone():
    torch.manual_seed(5), np.random.seed(5), random.seed(5)
    wanted = torch.rand(1).item(), np.random.rand(), random.random()
    torch.manual_seed(5), np.random.seed(5), random.seed(5)
    trl_loss("hinge", BETA)
    assert (torch.rand(1).item(), np.random.rand(), random.random()) == wanted


def test_without_the_library_a_sentence_says_what_to_install(monkeypatch):
    for name in ("trl", "trl.trainer.dpo_config"):
        monkeypatch.setitem(sys.modules, name, None)
    monkeypatch.delitem(sys.modules, "medgraft.benchmarks.texts.trl_losses", raising=False)
    tuning = PreferenceTuning(tuned("dpo").data, TEXTS, CounterMeasures(preference_loss="ipo"))
    with pytest.raises(ConfigError, match=r"preference_loss=ipo needs trl .*pip install 'medgraft\[preferences\]'"):
        tuning.find_pairs(np.arange(3))
