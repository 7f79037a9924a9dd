"""One graft trained by two processes against one: losses, gradients, training and predictions of every kind of loss."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import pytest
import torch
from processes import run_ranks

from medgraft import graft
from medgraft.benchmarks.prefix_cache.rows import TowerInputs
from medgraft.benchmarks.training.trainer import Runner
from medgraft.objective import make_objective
from medgraft.plugins import discover
from medgraft.registry import TrainDefaults
from medgraft.task import RawInputs, TaskData
from medgraft.testing.tiny_language import LANGUAGE_ENCODERS

N = 24
WORLD = 2
SPLITS = {"train": np.arange(16), "val": np.arange(16, 18), "test": np.arange(18, N)}
RECIPE = TrainDefaults(epochs=2, lr=1e-3, head_lr=1e-2, batch_size=5)  # 5, 5, 5 and 1: fewer samples than processes
EQUAL = {"rtol": 1e-6, "atol": 1e-9}
"""In double precision, where sums in another order differ by 1e-15, also behind Adam, which divides by gradients."""

OBJECTIVES = sorted(discover("objective"))
TEXTS = ("edema", "fracture", "effusion")
REGIONS: dict[str, Any] = {
    "detection": lambda i: np.array([[0.2, 0.1 + 0.01 * i, 0.6, 0.7]][: i % 4], np.float32).reshape(-1, 4),
    "segmentation": lambda i: (np.arange(64 * 64).reshape(64, 64) % (i + 3) == 0) & (i % 4 > 0),
}
CLASSES: dict[str, tuple[str, ...]] = {"regression": (), "survival": (), **dict.fromkeys(REGIONS, ("region",))}


@contextmanager
def double() -> Iterator[None]:
    """Inside it all is computed in double precision, also what says ``float()``."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(torch.Tensor, "float", torch.Tensor.double)
        torch.set_default_dtype(torch.float64)
        try:
            yield
        finally:
            torch.set_default_dtype(torch.float32)


def targets_of(objective: str) -> np.ndarray:
    rng = np.random.default_rng(0)
    made = {
        "multilabel": rng.integers(0, 2, (N, 3)).astype(np.float32),
        "regression": rng.uniform(50, 90, N),
        "survival": rng.uniform(1, 9, N),
    }
    return made.get(objective, (np.arange(N) % 4 > 0).astype(np.int64) if objective in REGIONS else np.arange(N) % 3)


def runner(objective: str) -> Runner:
    """An adapter on the embedded encoder of radiographs, on noise; the same in every process."""
    if objective == "anchored":
        return space_runner()
    if objective == "generation":
        return language_runner()
    torch.manual_seed(0)
    rng = np.random.default_rng(0)
    grafted = graft("embedded:chest", "lora", rank=2).double()
    classes, towers = np.arange(N) % 3, grafted.towers()
    texts = [f"findings of {TEXTS[k]}, film {i % 5}." for i, k in enumerate(classes)]
    ids = np.stack([towers["text"].prepare(text).numpy() for text in texts]).astype(np.int32)
    images = rng.normal(size=(N, 1, 128, 128)) + classes[:, None, None, None]
    inputs = {"image": TowerInputs(0, {"x": images})}
    if objective == "contrastive":
        inputs["text"] = TowerInputs(0, {"x": ids})
    data = TaskData(
        inputs={name: RawInputs(lambda i: i, N, "") for name in inputs},
        targets=targets_of(objective),
        subjects=np.arange(N).astype(str),
        splits=SPLITS,
        classes=CLASSES.get(objective, TEXTS),
        prompts=tuple((f"{text}.",) for text in TEXTS) if objective in ("contrastive", "prompted") else None,
        columns={"event": (np.arange(N) % 4 != 0).astype(float)} if objective == "survival" else {},
        regions=REGIONS.get(objective),
    )
    made = make_objective(objective, data, tuple(inputs))
    built = Runner(grafted, made, data, inputs, grafted.encode)
    built.add_head(SPLITS["train"])
    return built


def language_runner() -> Runner:
    """Answers on what soft tokens show of images."""
    torch.manual_seed(0)
    grafted = graft(LANGUAGE_ENCODERS["language-2d"](), "soft_prefix").double()
    images = np.random.default_rng(0).normal(size=(N, 1, 16, 24))
    said = np.array([f"there is {TEXTS[i % 3]}" if i % 2 else "clear" for i in range(N)])
    data = TaskData(
        inputs={"image": RawInputs(lambda i: i, N, "")},
        targets=np.zeros(N, np.int64),
        subjects=np.arange(N).astype(str),
        splits=SPLITS,
        classes=(),
        columns={"prompt": np.array(["what is seen"] * N), "reference": said},
        decoding={"limit": 5},
    )
    inputs = {"image": TowerInputs(0, {"x": images})}
    return Runner(grafted, make_objective("generation", data, ("image",)), data, inputs, grafted.encode)


def space_runner() -> Runner:
    """Grey values of two kinds of scan in two views, of which some samples lack the second."""
    torch.manual_seed(0)
    rng = np.random.default_rng(0)
    grafted = graft("pair:pixels:3d|pet:pixels:3d", "linear_probe").double()
    rows = {name: rng.normal(size=(2, N, 40, 1)) for name in ("volume", "pet")}
    views = {
        name: [TowerInputs(1, {"tokens": each, "pooled": each[:, :, 0]}, grid=(5, 4, 2)) for each in both]
        for name, both in rows.items()
    }
    present = np.arange(N) % 5 > 0
    data = TaskData(
        inputs={name: RawInputs(lambda i: i, N, "", present=present if name == "pet" else None) for name in rows},
        targets=np.arange(N) % 2,
        subjects=(np.arange(N) // 2).astype(str),
        splits=SPLITS,
        classes=("CN", "AD"),
        alignment={"width": 8},
    )
    inputs = {name: both[0] for name, both in views.items()}
    made = make_objective("anchored", data, tuple(rows))
    built = Runner(grafted, made, data, inputs, grafted.encode, views=views)
    built.add_head(SPLITS["train"])
    return built


def results(objective: str) -> dict[str, Any]:
    """Of a batch the loss and its gradients, and of a short training the loss of each epoch and the predictions."""
    one = runner(objective)
    one.grafted.train()
    found: dict[str, Any] = {}
    for size in (7, 1):
        draws = (np.zeros(size, np.int64), np.ones(size, np.int64)) if one.views else ()
        loss = one.loss(np.arange(size), *draws)
        one.backward(loss)
        parameters = one.grafted.trainable_parameters()
        one.world.average_gradients(parameters)
        found[f"loss of {size}"] = loss.detach()
        found[f"gradients of {size}"] = [None if p.grad is None else p.grad.clone() for p in parameters]
        for parameter in parameters:
            parameter.grad = None
    log = one.fit(SPLITS["train"], RECIPE, 0, lambda share: None)
    return found | {"epochs": log.epoch_loss, "scores": torch.from_numpy(one.predict(np.arange(N)))}


def all_results(rank: int) -> dict[str, Any]:
    with double():
        return {objective: results(objective) for objective in OBJECTIVES}


@pytest.fixture(scope="module")
def ranks(tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, Any]]:
    """What each of two processes found; starting them is what takes time, so all objectives share them."""
    return run_ranks(tmp_path_factory.mktemp("gloo"), WORLD, all_results)


@pytest.mark.slow
@pytest.mark.parametrize("objective", OBJECTIVES)
def test_two_processes_train_as_one(ranks, objective):
    with double():
        alone = results(objective)
    assert any(gradient is not None for gradient in alone["gradients of 7"])
    for found in (rank[objective] for rank in ranks):
        for size in (7, 1):
            torch.testing.assert_close(found[f"loss of {size}"], alone[f"loss of {size}"], **EQUAL)
            for theirs, mine in zip(found[f"gradients of {size}"], alone[f"gradients of {size}"], strict=True):
                assert (theirs is None) == (mine is None)
                if mine is not None:
                    assert mine.dtype == torch.float64
                    torch.testing.assert_close(theirs, mine, **EQUAL)
        assert found["epochs"] == pytest.approx(alone["epochs"], rel=1e-6)
        scores, expected = found["scores"], alone["scores"]
        if objective == "survival":  # risks are known up to a constant: the bias has no gradient but rounding
            scores, expected = scores - scores.mean(), expected - expected.mean()
        torch.testing.assert_close(scores, expected, **EQUAL)


@pytest.mark.slow
def test_every_process_has_the_same_predictions(ranks):
    for objective in OBJECTIVES:
        assert torch.equal(ranks[0][objective]["scores"], ranks[1][objective]["scores"])
        assert len(ranks[0][objective]["scores"]) == N
