"""Modes and types of what a graft trains; features as a tree of tensors; what a checkpoint says of its encoder."""

from __future__ import annotations

import json
from typing import Any

import pytest
import tiny_encoders as tiny
import torch
import torch.utils._pytree as pytree
from safetensors.torch import load_file, save_file
from torch import nn

from medgraft import build_encoder, load_graft
from medgraft.adapter import Adapter, Attachment
from medgraft.checkpoints.folder import CONFIG_NAME, WEIGHTS_NAME
from medgraft.checkpoints.weights import file_digest
from medgraft.errors import CheckpointError
from medgraft.features import Features
from medgraft.grafting import Grafted, graft
from medgraft.registry import build_adapter

pytestmark = pytest.mark.usefixtures("seeded")
HALVES = [torch.bfloat16, torch.float16]
DROPS = {"lora": {"dropout": 0.5}, "peft:lora": {"options": {"lora_dropout": 0.5, "init_lora_weights": False}}}


def repeats(grafted: Grafted) -> bool:
    x = next(iter(tiny.batch(grafted.encoder).values()))
    with torch.no_grad():
        return torch.equal(grafted(x).pooled, grafted(x).pooled)


def shake(grafted: Grafted) -> Grafted:
    with torch.no_grad():
        for parameter in grafted.trainable_parameters():
            parameter.add_(torch.randn_like(parameter) * 0.1)
    return grafted


# -- mode -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("mode", [True, False])
@pytest.mark.parametrize("name", DROPS)
def test_what_is_added_activated_and_loaded_takes_the_mode_of_the_graft(name, mode, tmp_path):
    grafted = shake(graft(tiny.fresh("timm"), name, **DROPS[name])).train(mode)
    grafted.add("second", build_adapter(name, DROPS[name]))
    shake(grafted)
    assert grafted.adapters["second"].training is mode and repeats(grafted) is not mode
    grafted.activate(name)
    assert repeats(grafted) is not mode
    grafted.activate(name, "second") if name == "lora" else grafted.activate("second")
    assert repeats(grafted) is not mode
    grafted.save(tmp_path)
    assert repeats(grafted.load(tmp_path)) is not mode and grafted.training is mode
    assert not any(m.training for m in grafted.encoder.modules() if type(m).__module__.startswith("timm"))


@pytest.mark.parametrize("mode", [True, False])
def test_a_head_that_comes_later_takes_the_mode_of_the_graft(mode):
    grafted = graft(tiny.fresh("timm"), "lora").train(mode)
    grafted.head = nn.Sequential(nn.Dropout(0.5), nn.Linear(48, 2)).train(not mode)
    assert all(module.training is mode for module in grafted.head.modules())


@pytest.mark.parametrize("mode", [True, False])
def test_the_encoders_own_switch_leaves_layers_of_adapters_in_the_mode_of_the_graft(mode):
    grafted = shake(graft(tiny.fresh("timm"), "peft:lora", **DROPS["peft:lora"])).train(mode)
    grafted.encoder.train(not mode)
    grafted.encoder.eval()
    assert repeats(grafted) is not mode


def test_a_module_that_an_adapter_makes_later_takes_its_mode():
    adapter = Adapter().eval()
    adapter.late = nn.Dropout(0.5)
    assert not adapter.late.training


# -- types ------------------------------------------------------------------------------------------------------------


class Narrow(Adapter):
    """A plugin that makes its parameters in the type of the encoder and multiplies with them."""

    def attach(self, encoder, sites):
        attachment = Attachment(encoder)
        blocks = [site for site in sites.values() if site.kind == "block"]
        attachment.record({"blocks": blocks})
        self.maps = nn.ModuleList(nn.Linear(encoder.spec.dim, encoder.spec.dim, dtype=encoder.dtype) for _ in blocks)
        for site, linear in zip(blocks, self.maps, strict=True):
            attachment.map_output(site, lambda x, linear=linear: x + linear(x))
        return attachment


@pytest.mark.parametrize("kind", HALVES)
@pytest.mark.parametrize("name", ["lora", "houlsby", "bitfit", "ssf", "peft:lora", "peft:vera", "narrow"])
def test_a_step_at_a_small_rate_moves_every_number_on_an_encoder_in_half_precision(name, kind):
    encoder = tiny.fresh("timm").to(kind)
    adapter = Narrow() if name == "narrow" else build_adapter(name)
    grafted = Grafted(encoder, {name: adapter})
    trained = shake(grafted).trainable_parameters()
    assert {p.dtype for p in trained} == {torch.float32} and set(grafted.trainable_dtypes().values()) == {"float32"}
    before = [p.detach().clone() for p in trained]
    features = grafted(tiny.batch(encoder)["image"].to(kind))
    assert features.tokens.dtype == features.pooled.dtype == kind
    torch.stack([features.tokens.float().square().mean(), features.pooled.float().sum()]).sum().backward()
    optimizer = torch.optim.AdamW(trained, lr=1e-5, weight_decay=0)
    optimizer.step()
    moved = sum(int((p != old).sum()) for p, old in zip(trained, before, strict=True))
    reached = sum(int((p.grad != 0).sum()) for p in trained if p.grad is not None)
    assert moved == reached > 0.9 * sum(p.numel() for p in trained)


@pytest.mark.parametrize("name", ["lora", "peft:lora", "full_finetune"])
@pytest.mark.parametrize("how", ["hold_in_bf16", "to"])
def test_an_encoder_that_is_narrowed_under_its_adapters_leaves_them_as_they_are(name, how):
    grafted = shake(graft(tiny.fresh("timm"), name))
    kept = [p.detach().clone() for p in grafted.trainable_parameters()]
    grafted.encoder.hold_in_bf16() if how == "hold_in_bf16" else grafted.encoder.to(torch.bfloat16)
    assert all(torch.equal(p, old) for p, old in zip(grafted.trainable_parameters(), kept, strict=True))
    assert grafted.encoder.dtype == torch.bfloat16
    with torch.autocast("cpu", torch.bfloat16):
        grafted(tiny.batch(grafted.encoder)["image"]).pooled.float().sum().backward()
    assert all(p.grad.dtype == torch.float32 for p in grafted.trainable_parameters() if p.grad is not None)
    grafted.to(torch.bfloat16)
    assert {p.dtype for p in grafted.trainable_parameters()} == {torch.bfloat16}, "the graft as a whole is asked to be"


@pytest.mark.parametrize("name", ["coop", "tip_adapter"])
def test_what_is_made_for_classes_is_float32_too(name):
    encoder = tiny.fresh("chest").to(torch.bfloat16)
    options: Any = {"coop": {"class_specific": True}, "tip_adapter": {"train_keys": True}}[name]
    adapter: Any = graft(encoder, name, **options).adapters[name]
    adapter.fit_classes(torch.randn(6, 16).to(torch.bfloat16), torch.arange(6) % 3, 3)
    assert {p.dtype for p in adapter.parameters()} == {torch.float32}


# -- features ---------------------------------------------------------------------------------------------------------


def test_features_are_a_tree_of_their_tensors():
    features = Features(torch.ones(2, 5, 3), torch.ones(2, 3), n_prefix=1, grid=(2, 2), mask=torch.ones(2, 5) > 0)
    parts, spec = pytree.tree_flatten(features)
    assert len(parts) == 3
    again = pytree.tree_unflatten(parts, pytree.treespec_loads(pytree.treespec_dumps(spec)))
    assert (again.n_prefix, again.grid, again.condensed, again.embedding) == (1, (2, 2), "", None)
    assert again.tokens is features.tokens and again.mask is features.mask
    doubled = pytree.tree_map(lambda x: x * 2, features)
    assert isinstance(doubled, Features) and bool((doubled.pooled == 2).all())


@pytest.mark.slow
@pytest.mark.parametrize("name", ["lora", "bitfit", "ssf"])
def test_a_graft_is_exported(name, tmp_path):
    grafted = shake(graft(tiny.fresh("timm"), name)).eval()
    x = tiny.batch(grafted.encoder)["image"]
    torch.export.save(torch.export.export(grafted, (x,)), tmp_path / "graft.pt2")
    found = torch.export.load(tmp_path / "graft.pt2").module()(x)
    with torch.no_grad():
        wanted = grafted(x)
    assert isinstance(found, Features) and found.grid == wanted.grid
    assert torch.allclose(found.tokens, wanted.tokens, atol=1e-5)


# -- checkpoints ------------------------------------------------------------------------------------------------------


def test_a_graft_on_random_weights_is_loaded_on_the_same_ones(tmp_path):
    grafted = shake(graft("embedded:chest@random", "lora")).eval()
    grafted.save(tmp_path)
    assert json.loads((tmp_path / CONFIG_NAME).read_text())["base_seed"] == 0
    torch.manual_seed(99)
    loaded = load_graft(tmp_path)
    x = tiny.batch(grafted.encoder)["image"]
    with torch.no_grad():
        assert torch.equal(loaded(x).pooled, grafted(x).pooled)


def test_random_weights_of_another_seed_or_with_options_are_refused_with_the_reason(tmp_path):
    grafted = graft(tiny.fresh("timm"), "lora")
    grafted.save(tmp_path)
    with pytest.raises(CheckpointError, match=r"only without options of one's own, without changes"):
        load_graft(tmp_path)
    path = tmp_path / CONFIG_NAME
    path.write_text(json.dumps({**json.loads(path.read_text()), "base_seed": 7}))
    with pytest.raises(CheckpointError, match="from seed 7, and this medgraft draws them from seed 0"):
        load_graft(tmp_path)


def test_random_weights_are_the_same_whoever_asks():
    torch.manual_seed(1)
    first = build_encoder("embedded:brain@random")
    torch.manual_seed(2)
    state = torch.get_rng_state()
    second = build_encoder("embedded:brain@random")
    assert all(torch.equal(a, b) for a, b in zip(first.parameters(), second.parameters(), strict=True))
    assert torch.equal(torch.get_rng_state(), state)


@pytest.mark.parametrize(
    ("value", "says"),
    [(float("nan"), r"\(2 NaN of"), (float("-inf"), r"\(2 infinite of"), (None, r"\(1 NaN and 1 inf")],
)
def test_numbers_that_are_not_finite_are_named(value, says, tmp_path):
    head = nn.Linear(48, 2)
    grafted = graft(tiny.fresh("timm"), "lora", head=head)
    grafted.save(tmp_path)
    weights, path = load_file(tmp_path / WEIGHTS_NAME), tmp_path / CONFIG_NAME
    weights["head.weight"][0, :2] = torch.tensor([value or float("nan"), value or float("inf")])
    save_file(weights, tmp_path / WEIGHTS_NAME, metadata={"format": "pt"})
    digest = file_digest(tmp_path / WEIGHTS_NAME)
    path.write_text(json.dumps({**json.loads(path.read_text()), "weights_sha256": digest}))
    before = head.weight.detach().clone()
    with pytest.raises(CheckpointError, match=rf"not finite: head\.weight {says}"):
        grafted.load(tmp_path)
    assert torch.equal(head.weight, before)


def test_a_dual_encoder_names_the_blocks_of_its_towers():
    encoder = tiny.fresh("chest")
    paths = encoder.block_paths()
    assert paths and all(encoder.get_submodule(path) is not encoder for path in paths)
    by_tower = {name: [p for p in paths if p.startswith(f"tower.{name}.")] for name in encoder.towers()}
    assert {name: len(found) for name, found in by_tower.items()} == {
        name: len(tower.block_paths()) for name, tower in encoder.towers().items()
    }
