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
from medgraft.adapter.protocols import diagnostics_of, reset_diagnostics
from medgraft.adapters.parts.tgh.layers import Choice
from medgraft.adapters.parts.tgh.report import RoutingReport
from medgraft.benchmarks.prefix_cache.rows import TowerInputs
from medgraft.benchmarks.training.trainer import Runner
from medgraft.errors import DataError
from medgraft.features import Features
from medgraft.objective import make_objective
from medgraft.plugins import discover
from medgraft.registry import TrainDefaults
from medgraft.task import RawInputs, TaskData
from medgraft.testing.tiny import MODALITIES, SIZES, tiny_encoder
from medgraft.testing.tiny_language import LANGUAGE_ENCODERS
from medgraft.world import FailedRankError, World

N = 24
WORLD = 2
SPLITS = {"train": np.arange(16), "val": np.arange(16, 18), "test": np.arange(18, N)}
RECIPE = TrainDefaults(epochs=2, lr=1e-3, head_lr=1e-2, batch_size=5)  # 5, 5, 5 and 1: fewer samples than processes
EQUAL = {"rtol": 1e-6, "atol": 1e-9}
"""In double precision, where sums in another order differ by 1e-15, also behind Adam, which divides by gradients."""

OBJECTIVES = sorted(discover("objective"))
WINDOWS = ("instance_contrast", "local_contrast")
TEXTS = ("edema", "fracture", "effusion")
REGIONS: dict[str, Any] = {
    "detection": lambda i: np.array([[0.2, 0.1 + 0.01 * i, 0.6, 0.7]][: i % 4], np.float32).reshape(-1, 4),
    "segmentation": lambda i: (np.arange(64 * 64).reshape(64, 64) % (i + 3) == 0) & (i % 4 > 0),
}
CLASSES: dict[str, tuple[str, ...]] = {"regression": (), "survival": (), **dict.fromkeys(REGIONS, ("region",))}


@contextmanager
def double() -> Iterator[None]:
    """Inside it all is computed in double precision, also what says ``float()``, and nothing is drawn in a forward."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(torch.Tensor, "float", torch.Tensor.double)
        patch.setattr(torch, "randn_like", lambda x: torch.sin(1e3 * x))  # each process would draw its own
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


def runner(objective: str, adapter: str = "lora", **options: Any) -> Runner:
    """An adapter on a tiny encoder, on noise; the same in every process."""
    if objective == "anchored":
        return space_runner()
    if objective == "generation":
        return language_runner()
    if objective in WINDOWS:
        return window_runner(objective)
    torch.manual_seed(0)
    rng = np.random.default_rng(0)
    axes = 3 if adapter == "brain_adapter" else 2
    grafted = graft(tiny_encoder(f"dual-{axes}d"), adapter, **options).double()
    classes, towers = np.arange(N) % 3, grafted.towers()
    texts = [f"findings of {TEXTS[k]}, film {i % 5}." for i, k in enumerate(classes)]
    ids = np.stack([towers["text"].prepare(text).numpy() for text in texts]).astype(np.int32)
    images = rng.normal(size=(N, 1, *SIZES[axes])) + classes.reshape(N, *[1] * (axes + 1))
    inputs = {MODALITIES[axes]: TowerInputs(0, {"x": images})}
    if objective == "contrastive" or adapter == "brain_adapter":
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


def window_runner(objective: str) -> Runner:
    """Runs of one to three windows in two views; a person has two."""
    torch.manual_seed(0)
    rng = np.random.default_rng(0)
    grafted = graft("swift:tiny,windows=3@random", "lora").double()
    runs = rng.normal(size=(2, N, 1, 12, 16, 16, 16))
    runs[:, ::5, :, 8:] = 0
    runs[:, 1::7, :, 4:] = 0
    data = TaskData(
        inputs={"volume_sequence": RawInputs(lambda i: i, N, "")},
        targets=np.arange(N) % 2,
        subjects=(np.arange(N) // 2).astype(str),
        splits=SPLITS,
        classes=("control", "autism"),
    )
    views = {"volume_sequence": [TowerInputs(0, {"x": each}) for each in runs]}
    inputs = {name: both[0] for name, both in views.items()}
    built = Runner(grafted, make_objective(objective, data, tuple(inputs)), data, inputs, grafted.encode, views=views)
    built.add_head(SPLITS["train"])
    return built


def results(objective: str, adapter: str = "lora", **options: Any) -> dict[str, Any]:
    """Of a batch the loss and its gradients, and of a short training the loss of each epoch and the predictions."""
    one = runner(objective, adapter, **options)
    one.grafted.train()
    found: dict[str, Any] = {}
    for size in (7, 1):
        draws = (np.zeros(size, np.int64), np.ones(size, np.int64)) if one.views else ()
        loss = one.loss(np.arange(size), *draws)
        one.backward(loss)
        parameters = one.grafted.trainable_parameters()
        one.world.average_gradients(parameters)
        found[f"loss of {size}"] = one.world.mean(loss.detach(), 1)
        found[f"gradients of {size}"] = [None if p.grad is None else p.grad.clone() for p in parameters]
        for parameter in parameters:
            parameter.grad = None
    log = one.fit(SPLITS["train"], RECIPE, 0, lambda share: None)
    for _, each in one.grafted.named_adapters():
        reset_diagnostics(each)
    found |= {"epochs": log.epoch_loss, "scores": torch.from_numpy(one.predict(np.arange(N)))}
    return found | {"report": diagnostics_of(next(each for _, each in one.grafted.named_adapters()))}


ADAPTERS: dict[str, dict[str, Any]] = {
    "tgh_moe": {"balance": 0.5, "z": 0.3, "width": 8},
    "conv_lora": {"balance": 0.5, "experts": 2},
    "brain_adapter": {"contrastive_weight": 0.5, "width": 8},
}
"""Those that add a loss of their own, which compares the samples of a batch or counts over all of its tokens."""


def facts(rank: int) -> dict[str, Any]:
    """What a process sees of the others."""
    world = World()
    found: dict[str, Any] = {"sum": world.sum(torch.tensor([1.0, 10.0]) * (rank + 1))}
    tensors = [torch.full((2,), float(rank)), torch.full((), rank)]
    world.share(tensors)
    found["shared"] = [each.tolist() for each in tensors]
    torch.manual_seed(5)
    before = torch.get_rng_state()
    with world.own_draws("cpu"):
        pass
    found["untouched"] = torch.equal(before, torch.get_rng_state())
    own = []
    for _ in range(2):
        with world.own_draws("cpu"):
            own.append(torch.rand(3).tolist())
    found |= {"own": own, "common": torch.rand(3).tolist()}
    with world.alone():
        found["alone"] = (world.size, world.rank, str(world.rows(8)), world.lengths(torch.zeros(3)))
    try:
        world.require_agreement({"the number of samples": 60 - 4 * rank}, "read one folder")
    except DataError as error:
        found["disagreement"] = str(error)
    return found


def half_masked(rank: int) -> dict[str, Any]:
    """Features of which only rank 0 has a mask, and some of which only rank 1 has an embedding."""
    tokens = torch.full((2 - rank, 3, 4), float(rank))
    mask = torch.tensor([[True, True, False]] * 2) if rank == 0 else None
    features = Features(tokens, tokens[:, 0], 1, (2,), mask=mask)
    whole, firsts = (World().gather_features(features, tokens=each) for each in (True, False))
    found: dict[str, Any] = {"mask": whole.mask, "tokens": whole.tokens, "first": firsts.mask}
    try:
        World().gather_features(features.replace(embedding=tokens[:, 0] if rank else None), tokens=True)
    except DataError as error:
        found["refused"] = str(error)
    return found


def failing(rank: int) -> list[str]:
    """What both processes see where one fails, each in its turn, and then that they are in step."""
    seen = []
    for who in (0, 1):
        try:
            with World().together():
                if rank == who:
                    raise FloatingPointError("no numbers")
        except FailedRankError as error:
            seen.append(f"other {error.of_values}: {error}")
        except FloatingPointError as error:
            seen.append(f"own: {error}")
    with World().together():
        pass
    return [*seen, str(World().gather_objects(rank))]


def test_where_one_process_fails_all_do_and_stay_in_step(tmp_path):
    own, other = "own: no numbers", "other True: FloatingPointError: no numbers"
    assert run_ranks(tmp_path, WORLD, failing, seconds=60) == [[own, other, "[0, 1]"], [other, own, "[0, 1]"]]


def counted(rank: int) -> int:
    """Samples of a report of two parts of a batch, three in all, and of one that every process runs."""
    report = RoutingReport(1)
    one = torch.ones(2 - rank)
    report.add(Choice(None, torch.zeros(2 - rank, dtype=torch.long), one, one.bool()), {}, None)
    with World().alone():
        report.add(Choice(None, torch.zeros(1, dtype=torch.long), one[:1], one[:1].bool()), {}, None)
    return report.of_all_ranks().samples


def test_what_all_processes_run_counts_once_in_a_report(tmp_path):
    assert run_ranks(tmp_path, WORLD, counted, seconds=60) == [4, 4]


def test_a_mask_that_one_process_has_is_of_all(tmp_path):
    for found in run_ranks(tmp_path, WORLD, half_masked, seconds=60):
        assert found["mask"].tolist() == [[True, True, False]] * 2 + [[True] * 3]
        assert found["tokens"][:, 0, 0].tolist() == [0, 0, 1] and found["first"].tolist() == [[True]] * 3
        assert "their features have embedding on some ranks only; make the encoder" in found["refused"]


def all_results(rank: int) -> dict[str, Any]:
    found: dict[str, Any] = {"facts": facts(rank)}
    with double():
        found |= {objective: results(objective) for objective in OBJECTIVES}
        return found | {name: results("multiclass", name, **ADAPTERS[name]) for name in ADAPTERS}


@pytest.fixture(scope="module")
def ranks(tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, Any]]:
    """What each of two processes found; starting them is what takes time, so all cases share them."""
    return run_ranks(tmp_path_factory.mktemp("gloo"), WORLD, all_results, seconds=900)


def check_equal(ranks: list[dict[str, Any]], name: str, alone: dict[str, Any]) -> None:
    assert any(gradient is not None for gradient in alone["gradients of 7"])
    for found in (rank[name] for rank in ranks):
        for size in (7, 1):
            torch.testing.assert_close(found[f"loss of {size}"], alone[f"loss of {size}"], **EQUAL)
            for theirs, mine in zip(found[f"gradients of {size}"], alone[f"gradients of {size}"], strict=True):
                assert (theirs is None) == (mine is None)
                if mine is not None:
                    assert mine.dtype == torch.float64
                    torch.testing.assert_close(theirs, mine, **EQUAL)
        assert found["epochs"] == pytest.approx(alone["epochs"], rel=1e-6)
        scores, expected = found["scores"], alone["scores"]
        if name == "survival":  # risks are known up to a constant: the bias has no gradient but rounding
            scores, expected = scores - scores.mean(), expected - expected.mean()
        torch.testing.assert_close(scores, expected, **EQUAL)


@pytest.mark.slow
@pytest.mark.parametrize("objective", OBJECTIVES)
def test_two_processes_train_as_one(ranks, objective):
    with double():
        check_equal(ranks, objective, results(objective))


@pytest.mark.slow
@pytest.mark.parametrize("adapter", ADAPTERS)
def test_losses_of_adapters_are_of_the_whole_batch(ranks, adapter):
    with double():
        check_equal(ranks, adapter, results("multiclass", adapter, **ADAPTERS[adapter]))


@pytest.mark.slow
def test_every_process_has_the_same_predictions(ranks):
    for name in [*OBJECTIVES, *ADAPTERS]:
        assert torch.equal(ranks[0][name]["scores"], ranks[1][name]["scores"])
        assert len(ranks[0][name]["scores"]) == N


@pytest.mark.slow
def test_what_processes_know_of_each_other(ranks):
    first, second = (rank["facts"] for rank in ranks)
    assert first["sum"].tolist() == second["sum"].tolist() == [3.0, 30.0]
    assert first["shared"] == second["shared"] == [[0.0, 0.0], 0]
    assert first["untouched"] and second["untouched"]
    draws = [tuple(each) for facts in (first, second) for each in facts["own"]]
    assert len(set(draws)) == 4 and first["common"] == second["common"]
    assert first["alone"] == second["alone"] == (1, 0, "slice(0, 8, None)", [3])
    said = "the ranks of this cell disagree: the number of samples is 60 on rank 0 and 56 on rank 1; read one folder"
    assert first["disagreement"] == second["disagreement"] == said


@pytest.mark.slow
def test_reports_of_routers_count_the_samples_of_all_processes(ranks):
    with double():
        alone = results("multiclass", "tgh_moe", **ADAPTERS["tgh_moe"])["report"]
    entropy = alone.pop("router_entropy")
    assert alone["samples"] == N
    for report in (dict(rank["tgh_moe"]["report"]) for rank in ranks):
        assert report.pop("router_entropy") == pytest.approx(entropy) and report == alone
