"""KgCoOp and BiomedCoOp: their terms in plain loops, which prompts are kept, and how written prompts are read."""

from __future__ import annotations

import math
import statistics
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from support_sets import unit
from torch import Tensor

from medgraft.adapters.biomedcoop import typical_prompts
from medgraft.benchmarks.objectives.prompted import PromptedObjective
from medgraft.benchmarks.objectives.shared_space import embedding
from medgraft.errors import ConfigError
from medgraft.grafting import Grafted
from medgraft.objective import Batch, Outputs, make_objective
from medgraft.registry import build_adapter, build_adapters, build_encoder
from medgraft.task import RawInputs, TaskData

pytestmark = pytest.mark.usefixtures("seeded")
K, P, E, B, SCALE = 3, 5, 6, 4, 9.0
PROMPTS = (("edema on a film.", "signs of edema."), ("effusion.", "fluid."), ("a fracture.", "broken bone.", "crack."))
IMAGES = torch.randn(6, 1, 128, 128, generator=torch.Generator().manual_seed(2))


def softmax(values: list[float]) -> list[float]:
    powers = [math.exp(v - max(values)) for v in values]
    return [p / sum(powers) for p in powers]


def dot(a: list[float], b: list[float]) -> float:
    return sum(x * y for x, y in zip(a, b, strict=True))


def unit_mean(rows: list[list[float]]) -> list[float]:
    mean = [sum(column) / len(rows) for column in zip(*rows, strict=True)]
    return [v / math.sqrt(dot(mean, mean)) for v in mean]


def kept_by_hand(images: Tensor, written: Tensor, tau: float) -> list[int]:
    """As the authors' code: distances from the median over the median absolute deviation, then standardised."""
    scores = [
        statistics.mean(max(SCALE * dot(x, written[k, p].tolist()) for k in range(K)) for x in images.tolist())
        for p in range(written.shape[1])
    ]
    median = sorted(scores)[(len(scores) - 1) // 2]
    spread = sorted(abs(s - median) for s in scores)[(len(scores) - 1) // 2]
    z = [(s - median) / spread for s in scores]
    return [p for p, v in enumerate(z) if abs((v - statistics.mean(z)) / statistics.stdev(z)) <= tau]


@pytest.mark.parametrize("tau", [0.5, 1.0, 1.5])
def test_biomedcoops_terms_are_the_published_ones(tau):
    adapter: Any = build_adapter("biomedcoop", {"sccm": 0.7, "kdsp": 0.3, "tau": tau})
    written, classes, images = unit(K, P, E), unit(K, E, seed=1), unit(B, E, seed=2)
    adapter._written, adapter._scale = written, SCALE
    logits = SCALE * images @ classes.T
    kept = kept_by_hand(images, written, tau)
    assert torch.nonzero(typical_prompts(images, written, SCALE, tau))[:, 0].tolist() == kept and 0 < len(kept) < P
    squares, distance = 0.0, 0.0
    for k in range(K):
        mean = unit_mean(written[k].tolist())
        squares += sum((a - b) ** 2 for a, b in zip(classes[k].tolist(), mean, strict=True)) / (K * E)
    teachers = [unit_mean([written[k, p].tolist() for p in kept]) for k in range(K)]
    for x, row in zip(images.tolist(), logits.tolist(), strict=True):
        theirs, mine = softmax([SCALE * dot(x, t) for t in teachers]), softmax(row)
        distance += sum(q * (math.log(q) - math.log(p)) for q, p in zip(theirs, mine, strict=True)) / (B * K)
    assert float(adapter.prompt_loss(classes, images, logits)) == pytest.approx(
        0.7 * squares + 0.3 * distance, rel=1e-9
    )


def test_prompts_that_score_alike_and_a_single_one_are_kept():
    one = unit(K, 1, E)
    assert typical_prompts(unit(B, E, seed=2), one, SCALE, 1.5).tolist() == [True]
    assert typical_prompts(unit(B, E, seed=2), one.expand(-1, 4, -1), SCALE, 1.5).tolist() == [True] * 4


def test_kgcoops_term_is_one_less_the_mean_cosine():
    adapter: Any = build_adapter("kgcoop", {"weight": 2.5})
    adapter._written = unit(K, E)
    classes = unit(K, E, seed=1)
    wanted = 2.5 * (1 - sum(dot(classes[k].tolist(), adapter._written[k].tolist()) for k in range(K)) / K)
    got = adapter.prompt_loss(classes, unit(B, E, seed=2), torch.zeros(B, K))
    assert float(got) == pytest.approx(wanted, rel=1e-9)


# --- on a task --------------------------------------------------------------------------------------------------------


def prepared(name: str, **options: Any) -> tuple[PromptedObjective, Grafted, Any]:
    raw = RawInputs(lambda i: None, 6, "")
    data = TaskData({"image": raw}, np.arange(6) % 3, np.arange(6).astype(str), {}, ("edema", "Pleural_fluid", "crack"))
    data.prompts = PROMPTS
    objective = make_objective("prompted", data, ("image",))
    assert isinstance(objective, PromptedObjective)
    grafted = Grafted(build_encoder("embedded:chest@random"), build_adapters(name, options)).eval()

    def run(index: np.ndarray) -> Outputs:
        return grafted.encode({"image": IMAGES[torch.from_numpy(index)]})

    objective.prepare_adapters(grafted, run, np.arange(6))
    return objective, grafted, grafted.adapters[name]


def spoken(texts: list[str]) -> Tensor:
    encoder: Any = build_encoder("embedded:chest@random")
    tower = encoder.towers()["text"]
    return F.normalize(tower.project(tower(tower.tokenize(texts)).pooled), dim=-1)


@torch.no_grad()
def test_written_prompts_are_read_without_the_vectors():
    _, _, adapter = prepared("kgcoop", length=3)
    wanted = torch.stack([F.normalize(spoken(list(prompts)).mean(dim=0), dim=0) for prompts in PROMPTS])
    torch.testing.assert_close(adapter._written, wanted)
    _, _, adapter = prepared("biomedcoop", length=3)
    wanted = torch.stack([spoken(list(prompts[:2])) for prompts in PROMPTS])  # as many as the class with the fewest
    torch.testing.assert_close(adapter._written, wanted)


@pytest.mark.parametrize("name", ["kgcoop", "biomedcoop"])
def test_the_term_is_added_to_the_cross_entropy_and_trains_the_vectors(name):
    objective, grafted, adapter = prepared(name, length=3)
    targets = torch.arange(6) % 3
    outputs = grafted.encode({"image": IMAGES})
    loss = objective.loss(grafted, outputs, Batch(targets))
    classes = objective.context(grafted)
    assert classes is not None
    logits = objective.logits(grafted, outputs, classes)
    images = embedding(grafted.towers()["image"], outputs["image"])
    term = adapter.prompt_loss(classes, images, logits)
    assert term > 0
    torch.testing.assert_close(loss, F.cross_entropy(logits, targets) + term)
    torch.autograd.backward(term)
    assert adapter.context.grad.abs().sum() > 0


def test_prompts_of_ones_own_are_found_by_name_and_must_cover_every_class():
    own = {"Edema": ("wet lungs.",), "pleural fluid": ("an effusion.", "more."), "crack": ("a break.",)}
    _, _, adapter = prepared("biomedcoop", prompts=own)
    wanted = torch.stack([spoken(["wet lungs."]), spoken(["an effusion."]), spoken(["a break."])])
    torch.testing.assert_close(adapter._written, wanted)
    del own["crack"]
    with pytest.raises(ConfigError, match=r"biomedcoop\.prompts has none for crack"):
        prepared("biomedcoop", prompts=own)
