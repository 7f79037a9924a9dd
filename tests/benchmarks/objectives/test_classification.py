"""What is optimised and how it predicts: the scaled head, masked labels, and zero-shot classes by prompts."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from medgraft.benchmarks.objectives.heads import Head, joined
from medgraft.benchmarks.objectives.shared_space import embedding
from medgraft.encoder import DualEncoder
from medgraft.errors import DataError
from medgraft.features import Features
from medgraft.grafting import Grafted
from medgraft.objective import Batch, make_objective
from medgraft.registry import build_adapters, build_encoder
from medgraft.task import RawInputs, TaskData

PROMPTS = (("an image of edema.", "findings of edema."), ("an image of a fracture.",))


def data(kind: str, n: int = 6) -> TaskData:
    targets = np.arange(n) % 2
    raw = RawInputs(lambda i: None, n, "")
    return TaskData(
        inputs={"image": raw},
        targets=targets if kind != "multilabel" else np.stack([targets, 1 - targets], axis=1).astype(np.float32),
        subjects=np.arange(n).astype(str),
        splits={},
        classes=("edema", "fracture"),
        prompts=PROMPTS if kind == "contrastive" else None,
    )


def features(pooled: Tensor, **more: Any) -> Features:
    return Features(tokens=pooled[:, None], pooled=pooled, n_prefix=0, grid=(1,), **more)


@pytest.fixture(scope="module")
def chest() -> DualEncoder:
    encoder = build_encoder("embedded:chest@random")
    assert isinstance(encoder, DualEncoder)
    return encoder


# --- the head ---------------------------------------------------------------------------------------------------------


def test_the_head_standardises_what_it_was_fitted_on():
    head, x = Head(3, 2), (torch.randn(50, 3) + 2) * torch.tensor([1.0, 10.0, 0.5])
    head.fit_scale(x)
    scaled = (x - head.mean) / head.deviation
    torch.testing.assert_close(scaled.mean(dim=0), torch.zeros(3), atol=1e-4, rtol=0)
    torch.testing.assert_close(scaled.std(dim=0), torch.ones(3), atol=1e-4, rtol=0)


def test_a_column_that_barely_varies_is_not_blown_up():
    head = Head(3, 2)
    still, barely, free = torch.full((5,), 3.0), torch.arange(5.0) * 1e-5, torch.arange(5.0)
    head.fit_scale(torch.stack([still, barely, free], dim=1))
    typical = torch.tensor([0.0, 0.0, free.std().item()]).square().mean().sqrt()
    torch.testing.assert_close(head.deviation, torch.stack([0.01 * typical, 0.01 * typical, free.std()]))


def test_columns_of_which_none_varies_keep_their_scale():
    head = Head(2, 2)
    head.fit_scale(torch.full((5, 2), 3.0))
    assert torch.equal(head.deviation, torch.ones(2))


@pytest.mark.filterwarnings("ignore:std")
def test_a_single_sample_gives_a_finite_head():
    head = Head(2, 2)
    head.fit_scale(torch.ones(1, 2))
    assert torch.isfinite(head(torch.ones(3, 2))).all()


def test_a_fresh_head_favours_no_class():
    assert torch.equal(Head(4, 3)(torch.randn(5, 4)), torch.zeros(5, 3))


def test_the_scale_is_saved_but_not_trained():
    head = Head(4, 3)
    assert {"mean", "deviation"} <= head.state_dict().keys()
    assert {name for name, _ in head.named_parameters()} == {"linear.weight", "linear.bias"}


def test_modalities_join_in_the_tasks_order():
    outputs = {"text": features(torch.ones(2, 3)), "volume": features(torch.zeros(2, 2))}
    assert joined(outputs, ("volume", "text")).tolist() == [[0, 0, 1, 1, 1]] * 2


# --- classification ---------------------------------------------------------------------------------------------------


class Holder:
    """Stands in for a graft where only its head matters."""

    def __init__(self, head: torch.nn.Module) -> None:
        self.head = head


@pytest.fixture
def outputs() -> dict[str, Features]:
    return {"image": features(torch.randn(6, 4, generator=torch.Generator().manual_seed(0)))}


def objective_and_holder(kind: str, outputs: dict[str, Features]) -> tuple[Any, Any]:
    objective = make_objective(kind, data(kind), ("image",))
    head = objective.make_head(outputs)
    assert head is not None
    with torch.no_grad():
        head.linear.weight.copy_(torch.randn(head.linear.weight.shape, generator=torch.Generator().manual_seed(1)))
    return objective, Holder(head)


def test_multiclass_loss_is_cross_entropy_and_scores_its_softmax(outputs):
    objective, holder = objective_and_holder("multiclass", outputs)
    logits, targets = holder.head(outputs["image"].pooled), torch.tensor([0, 1, 0, 1, 0, 1])
    expected = -torch.log_softmax(logits, dim=1)[torch.arange(6), targets].mean()
    torch.testing.assert_close(objective.loss(holder, outputs, Batch(targets)), expected)
    torch.testing.assert_close(objective.scores(holder, outputs), logits.softmax(dim=1))


def test_masked_labels_do_not_enter_the_loss(outputs):
    objective, holder = objective_and_holder("multilabel", outputs)
    targets, mask = torch.zeros(6, 2), torch.ones(6, 2, dtype=torch.bool)
    mask[:3, 1] = False
    flipped = torch.where(mask, targets, 1 - targets)
    loss = objective.loss(holder, outputs, Batch(targets, mask))
    torch.testing.assert_close(objective.loss(holder, outputs, Batch(flipped, mask)), loss)
    probability = torch.sigmoid(holder.head(outputs["image"].pooled))
    torch.testing.assert_close(loss, -torch.log(1 - probability)[mask].mean())


def test_a_batch_without_any_label_that_counts_has_loss_zero(outputs):
    objective, holder = objective_and_holder("multilabel", outputs)
    assert objective.loss(holder, outputs, Batch(torch.ones(6, 2), torch.zeros(6, 2, dtype=torch.bool))) == 0.0


def test_multilabel_scores_are_independent_probabilities(outputs):
    objective, holder = objective_and_holder("multilabel", outputs)
    torch.testing.assert_close(objective.scores(holder, outputs), holder.head(outputs["image"].pooled).sigmoid())


# --- pairs ------------------------------------------------------------------------------------------------------------


@torch.no_grad()
def test_embeddings_are_computed_in_full_precision_under_autocast_too(chest):
    tower, found = chest.towers()["text"], features(torch.randn(2, 128, generator=torch.Generator().manual_seed(4)))
    with torch.autocast("cpu", torch.bfloat16):
        under = embedding(tower, found)
    assert under.dtype == torch.float32 and torch.equal(under, embedding(tower, found))


@torch.no_grad()
def test_zero_shot_scores_equal_a_computation_by_hand(chest):
    grafted = Grafted(chest, build_adapters("zero_shot"))
    objective = make_objective("contrastive", data("contrastive"), ("image", "text"))
    x = torch.randn(4, 1, 128, 128, generator=torch.Generator().manual_seed(2))
    found = objective.scores(grafted, grafted.encode({"image": x}), objective.context(grafted))
    image_tower, text_tower = chest.towers()["image"], chest.towers()["text"]
    image = F.normalize(image_tower.project(image_tower(x).pooled), dim=-1)
    classes = []
    for prompts in PROMPTS:
        ids = torch.stack([text_tower.prepare(prompt) for prompt in prompts])
        each = F.normalize(text_tower.project(text_tower(ids).pooled), dim=-1)
        classes.append(F.normalize(each.mean(dim=0), dim=0))
    assert chest.logit_scale is not None
    logits = chest.logit_scale * image @ torch.stack(classes).T
    grafted.ungraft()
    torch.testing.assert_close(found, logits.softmax(dim=1))
    assert found.argmax(dim=1).tolist() == logits.argmax(dim=1).tolist()


def test_an_adapters_own_embedding_takes_the_place_of_the_projection(chest):
    own = F.normalize(torch.randn(2, 5), dim=-1)
    assert torch.equal(embedding(chest.towers()["image"], features(torch.randn(2, 192), embedding=own)), own)


def test_the_contrastive_loss_leaves_out_pairs_that_share_their_labels(chest):
    grafted = Grafted(chest, build_adapters("zero_shot"))
    objective = make_objective("contrastive", data("contrastive"), ("image", "text"))
    unit = F.normalize(torch.randn(3, 128, generator=torch.Generator().manual_seed(3)), dim=-1)
    outputs = {name: features(unit, embedding=unit) for name in ("image", "text")}
    alike, apart = torch.zeros(3, 14), torch.eye(3, 14)
    targets = torch.full((3,), -1)
    assert objective.loss(grafted, outputs, Batch(targets, labels=alike)) == 0.0
    logits = grafted.logit_scale() * unit @ unit.T
    expected = F.cross_entropy(logits, torch.arange(3))  # symmetric here, so both directions agree
    torch.testing.assert_close(objective.loss(grafted, outputs, Batch(targets, labels=apart)), expected)
    grafted.ungraft()


def test_a_contrastive_task_without_prompts_is_an_error():
    with pytest.raises(DataError, match="needs prompts"):
        make_objective("contrastive", data("multiclass"), ("image", "text"))


def test_an_adapter_may_join_the_prompts_of_a_class_itself(chest):
    # Two templates of different length: token by token is not the same as embedding by embedding.
    grafted = Grafted(chest, build_adapters("ace_hgnn", {"prompt_ensemble": "tokens"})).eval()
    objective, tower = make_objective("contrastive", data("contrastive"), ("image", "text")), chest.towers()["text"]
    with torch.no_grad():
        found = objective.context(grafted)
        with grafted.adapters["ace_hgnn"].prompt_ensemble(2):
            first = tower(tower.tokenize(PROMPTS[0])).embedding
        second = tower(tower.tokenize(PROMPTS[1])).embedding
        apart = F.normalize(tower(tower.tokenize(PROMPTS[0])).embedding.mean(dim=0), dim=0)
    grafted.ungraft()
    torch.testing.assert_close(found, torch.cat([first, second]))
    assert (found[0] - apart).abs().max() > 1e-3
