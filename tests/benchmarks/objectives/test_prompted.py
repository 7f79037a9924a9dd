"""Classes by prompts: logits by hand for each kind of adapter, what is shown before training, what plans leave out."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from medgraft.adapters.cocoop import CoCoOp
from medgraft.adapters.tip_adapter import TipAdapter
from medgraft.benchmarks.objectives.prompted import PromptedObjective
from medgraft.benchmarks.objectives.shared_space import embedding
from medgraft.benchmarks.sweep.compatible import fits
from medgraft.benchmarks.sweep.recipe import training
from medgraft.benchmarks.sweep.request import Sweep
from medgraft.benchmarks.sweep.rows import Row, rows
from medgraft.encoder import DualEncoder, TextEncoder
from medgraft.errors import ConfigError, DataError
from medgraft.features import Features
from medgraft.grafting import Grafted
from medgraft.objective import Batch, Outputs, make_objective
from medgraft.registry import build_adapters, build_encoder
from medgraft.task import RawInputs, TaskData

pytestmark = pytest.mark.usefixtures("seeded")
CLASSES = ("edema", "pleural_effusion", "fracture")
PROMPTS = (("an image of edema.", "edema."), ("an image of effusion.", "effusion."), ("a fracture.",))


def data(prompts: Any = PROMPTS, n: int = 9) -> TaskData:
    raw = RawInputs(lambda i: None, n, "")
    targets = np.arange(n) % 3
    return TaskData({"image": raw}, targets, np.arange(n).astype(str), {}, CLASSES, prompts=prompts)


def prompted(prompts: Any = PROMPTS) -> PromptedObjective:
    objective = make_objective("prompted", data(prompts), ("image",))
    assert isinstance(objective, PromptedObjective)
    return objective


@pytest.fixture
def chest() -> DualEncoder:
    encoder = build_encoder("embedded:chest@random")
    assert isinstance(encoder, DualEncoder)
    return encoder


@pytest.fixture
def images() -> Tensor:
    return torch.randn(5, 1, 128, 128, generator=torch.Generator().manual_seed(2))


def spoken(encoder: DualEncoder, prompts: tuple[str, ...]) -> Tensor:
    """Unit embedding of a class, one text at a time."""
    tower = encoder.towers()["text"]
    each = [F.normalize(tower.project(tower(tower.prepare(prompt)[None]).pooled), dim=-1)[0] for prompt in prompts]
    return F.normalize(torch.stack(each).mean(dim=0), dim=0)


def by_hand(encoder: DualEncoder, outputs: Outputs) -> Tensor:
    unit = embedding(encoder.towers()["image"], outputs["image"])
    assert encoder.logit_scale is not None
    return encoder.logit_scale * unit @ torch.stack([spoken(encoder, prompts) for prompts in PROMPTS]).T


@torch.no_grad()
@pytest.mark.parametrize("adapter", ["zero_shot", "clip_adapter", "clip_lora"])
def test_logits_are_scaled_similarities_to_the_prompts_of_each_class(chest, images, adapter):
    grafted = Grafted(chest, build_adapters(adapter)).eval()
    objective = prompted()
    outputs = grafted.encode({"image": images})
    wanted = by_hand(chest, outputs)
    torch.testing.assert_close(objective.scores(grafted, outputs, objective.context(grafted)), wanted.softmax(dim=1))
    targets = torch.tensor([0, 2, 1, 0, 2])
    torch.testing.assert_close(objective.loss(grafted, outputs, Batch(targets)), F.cross_entropy(wanted, targets))


@torch.no_grad()
def test_the_cache_of_tip_adapter_is_added_to_the_logits(chest, images):
    adapters = build_adapters("tip_adapter")
    tip = adapters["tip_adapter"]
    grafted = Grafted(chest, adapters).eval()
    objective = prompted()
    shown: list[int] = []

    def run(index: np.ndarray) -> Outputs:
        shown.extend(index.tolist())
        return grafted.encode({"image": images[torch.from_numpy(index) % 5]})

    objective.prepare_adapters(grafted, run, np.array([3, 4, 8]))
    assert shown == [3, 4, 8] and isinstance(tip, TipAdapter) and tip.keys is not None and tip.values is not None
    keys = embedding(chest.towers()["image"], grafted.encode({"image": images[[3, 4, 3]]})["image"])
    torch.testing.assert_close(tip.keys.data, keys)
    assert tip.values.argmax(dim=1).tolist() == [0, 1, 2]
    outputs = grafted.encode({"image": images})
    evidence = tip.extra_logits(embedding(chest.towers()["image"], outputs["image"]))
    assert evidence is not None
    got = objective.logits(grafted, outputs, objective.context(grafted))
    torch.testing.assert_close(got, by_hand(chest, outputs) + evidence)


@torch.no_grad()
def test_coop_speaks_of_a_class_by_its_bare_name(chest, images):
    grafted = Grafted(chest, build_adapters("coop", {"init": "a film with"})).eval()
    objective = prompted()
    got = objective.context(grafted)
    grafted.activate()
    # the same words, written out
    names = ("edema", "pleural effusion", "fracture")
    wanted = torch.stack([spoken(chest, (f"a film with {name}.",)) for name in names])
    torch.testing.assert_close(got, wanted)


@torch.no_grad()
def test_class_specific_vectors_go_with_their_class(chest):
    adapters = build_adapters("coop", {"class_specific": True})
    grafted, objective = Grafted(chest, adapters).eval(), prompted()
    coop: Any = adapters["coop"]
    coop.fit_classes(torch.zeros(0, 128), torch.zeros(0, dtype=torch.long), 3)
    before = objective.context(grafted)
    coop.context[1] += 1
    after = objective.context(grafted)
    assert before is not None and after is not None
    assert torch.equal(before[[0, 2]], after[[0, 2]]) and not torch.allclose(before[1], after[1])


@torch.no_grad()
@pytest.mark.parametrize("at_once", [1, 2, 16])
def test_cocoop_embeds_the_prompts_for_each_image_alone(chest, images, at_once, monkeypatch):
    monkeypatch.setattr("medgraft.benchmarks.objectives.prompted.IMAGES_AT_ONCE", at_once)
    adapters = build_adapters("cocoop")
    cocoop = adapters["cocoop"]
    grafted, objective = Grafted(chest, adapters).eval(), prompted()
    outputs = grafted.encode({"image": images})
    assert objective.context(grafted) is None and isinstance(cocoop, CoCoOp)
    got = objective.logits(grafted, outputs, None)
    tower = grafted.towers()["text"]
    assert isinstance(tower, TextEncoder) and chest.logit_scale is not None
    ids = tower.tokenize(["edema.", "pleural effusion.", "fracture."])
    for row, image in zip(got, embedding(chest.towers()["image"], outputs["image"]), strict=True):
        with cocoop.prompting(torch.arange(3), image.expand(3, -1)):
            classes = embedding(tower, grafted.encode({"text": ids})["text"])
        torch.testing.assert_close(row, chest.logit_scale * classes @ image)


@torch.no_grad()
def test_an_adapter_may_join_the_prompts_of_all_classes_in_one_batch(chest):
    even = tuple((f"an image of {name}.", f"{name} seen.") for name in CLASSES)
    grafted = Grafted(chest, build_adapters("ace_hgnn", {"prompt_ensemble": "tokens"})).eval()
    contrastive = make_objective("contrastive", data(even), ("image", "text"))
    torch.testing.assert_close(prompted(even).context(grafted), contrastive.context(grafted))


@pytest.mark.parametrize(("adapter", "runs"), [("clip_adapter", 1), ("clip_lora", 3)])
def test_a_text_tower_that_nothing_trains_reads_the_prompts_once(chest, images, adapter, runs):
    calls: list[int] = []
    tower = chest.towers()["text"]
    block = tower.get_submodule(tower.block_paths()[0])
    grafted, objective = Grafted(chest, build_adapters(adapter)), prompted()
    handle = block.register_forward_hook(lambda *_: calls.append(1))  # after the one blank run of grafting
    outputs = grafted.encode({"image": images})
    for _ in range(3):
        objective.loss(grafted, outputs, Batch(torch.tensor([0, 1, 2, 0, 1])))
    handle.remove()
    assert len(calls) == runs


@pytest.mark.parametrize("adapter", ["coop", "cocoop", "clip_adapter", "clip_lora", "tip_adapter"])
def test_a_few_steps_lower_the_loss(chest, images, adapter):
    options = {"train_keys": True} if adapter == "tip_adapter" else {}
    grafted, objective = Grafted(chest, build_adapters(adapter, options)), prompted()
    objective.prepare_adapters(
        grafted, lambda index: grafted.encode({"image": images[torch.from_numpy(index)]}), np.arange(5)
    )
    grafted.eval()  # without dropout, so that steps compare
    optimizer = torch.optim.AdamW(grafted.trainable_parameters(), lr=2e-3)
    losses = []
    for _ in range(6):
        loss = objective.loss(grafted, grafted.encode({"image": images}), Batch(torch.tensor([0, 1, 2, 0, 1])))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < losses[0]


def test_two_adapters_with_prompts_of_their_own_are_refused(chest):
    grafted = Grafted(chest, {**build_adapters("coop"), **build_adapters("cocoop")})
    with pytest.raises(ConfigError, match="two adapters speak of classes"):
        prompted()._prompt_batch(grafted)


def test_a_class_list_with_no_prompt_is_an_error_that_names_the_class():
    for kind, inputs in (("prompted", ("image",)), ("contrastive", ("image", "text"))):
        for prompts in ((("a",), (), ("b",)), (("a",), (), ()), (("a",),)):
            with pytest.raises(DataError, match=r"no prompt for pleural_effusion.*every class needs one"):
                make_objective(kind, data(prompts), inputs)
        with pytest.raises(DataError, match="needs prompts"):
            make_objective(kind, data(None), inputs)


def test_features_that_an_adapter_changes_behind_a_frozen_text_tower_are_used(chest):
    grafted = Grafted(chest, build_adapters("clip_adapter", {"modality": "text"}))
    objective = prompted()
    assert isinstance(objective._prompt_batch(grafted).batch, Features)
    classes = objective.context(grafted)
    assert classes is not None and classes.requires_grad


# --- plans ------------------------------------------------------------------------------------------------------------


def planned(adapter: str, *tasks: str) -> tuple[set[str], dict[str, str]]:
    sweep = Sweep(adapters=(adapter,), tasks=tasks, encoders=("phantom_chest@random",), baselines=False)
    good, skipped = fits(sweep, rows(sweep), set())
    return {row.task for row in good}, {row.task: reason for row, reason in skipped.items()}


@pytest.mark.parametrize("adapter", ["coop", "cocoop", "tip_adapter"])
def test_what_learns_classes_is_left_out_of_tasks_without_any_with_a_reason(adapter):
    good, skipped = planned(adapter, "chexpert_5x200", "chexpert_few_shot", "rsna")
    assert good == {"chexpert_few_shot"}
    assert (
        "learns classes by their prompts" in skipped["chexpert_5x200"] and "tag:few_shot" in skipped["chexpert_5x200"]
    )
    assert "no space that image and text share" in skipped["rsna"]


def test_what_changes_features_only_runs_on_pairs_too():
    assert planned("clip_adapter", "chexpert_5x200", "chexpert_few_shot", "rsna")[0] == {
        "chexpert_5x200",
        "chexpert_few_shot",
        "rsna",
    }


def test_an_encoder_without_a_text_tower_does_not_fit_prompts():
    sweep = Sweep(adapters=("clip_adapter",), tasks=("rsna_few_shot",), encoders=("pixels:2d",), baselines=False)
    good, skipped = fits(sweep, rows(sweep), set())
    assert not good and "the task reads text" in skipped[Row("rsna_few_shot", "pixels:2d", "clip_adapter")]


def test_a_presets_variant_names_its_tasks_and_training_and_the_request_wins():
    preset = "chest_comparison"
    whole = rows(Sweep(preset=preset, baselines=False))
    by_label = {label: {row.task for row in whole if row.label == label} for label in {row.label for row in whole}}
    assert by_label["CoOp, class-specific"] == {"chexpert_few_shot"}
    assert by_label["ACE-LoRA, all tokens"] == {"siim_segmentation", "rsna_detection"}
    assert {row.task for row in rows(Sweep(preset=preset, tasks=("nih",), baselines=False))} == {"nih"}
    few = "CLIP-LoRA, few labels"
    assert training(Sweep(preset=preset), "clip_lora", "CLIP-LoRA").epochs == 3
    assert training(Sweep(preset=preset), "clip_lora", few).epochs == 40
    assert training(Sweep(preset=preset, train={"clip_lora": {"epochs": 7}}), "clip_lora", "CLIP-LoRA").epochs == 7
    assert training(Sweep(preset=preset), "tip_adapter", "Tip-Adapter").epochs == 0


def test_every_row_of_the_chest_comparison_fits():
    sweep = Sweep(preset="chest_comparison", baselines=False)
    _, skipped = fits(sweep, rows(sweep), set())
    assert not skipped
