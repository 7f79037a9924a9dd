"""LoRA folders of peft and of this package: the same outputs, both ways."""

from __future__ import annotations

import json

import pytest
import tiny_encoders as tiny
import torch
from peft import LoraConfig, PeftModel, get_peft_model
from safetensors.torch import load_file, save_file
from torch import nn

from medgraft.adapters.lora_peft import load_peft, save_peft
from medgraft.checkpoints.folder import CONFIG_NAME, WEIGHTS_NAME
from medgraft.encoder import Encoder
from medgraft.errors import CheckpointError, ConfigError
from medgraft.grafting import graft

pytestmark = [pytest.mark.usefixtures("seeded"), pytest.mark.filterwarnings("ignore::UserWarning")]
ATOL = 2e-5  # fp32 sums in another order; the tokens are of order one


def run(model: nn.Module, encoder: Encoder) -> torch.Tensor:
    with torch.no_grad():
        return model(next(iter(tiny.batch(encoder).values()))).tokens


def tower(name: str) -> Encoder:
    return next(iter(tiny.fresh(name).towers().values()))


@pytest.mark.parametrize("stabilised", [False, True])
@pytest.mark.parametrize(
    ("name", "targets"),
    [
        ("timm", ("q", "v")),
        ("timm", ("q", "out", "model.patch_embed.proj")),
        ("hf_vit", ("q", "k", "v", "out")),
        ("mha", ("q", "v")),
        ("brain", ("k", "stem.3", "fc1")),
    ],
)
def test_peft_opens_what_was_saved(name, targets, stabilised, tmp_path):
    encoder = tower(name)
    bare = run(encoder, encoder)
    grafted = graft(encoder, "lora", rank=3, alpha=5, rank_stabilised=stabilised, targets=targets)
    for parameter in grafted.trainable_parameters():
        nn.init.normal_(parameter, std=0.1)
    wanted = run(grafted, encoder)
    save_peft(grafted, tmp_path)
    grafted.ungraft()
    assert torch.equal(run(encoder, encoder), bare)

    model = PeftModel.from_pretrained(encoder, str(tmp_path))
    found = run(model, encoder)
    assert (wanted - bare).abs().max() > 100 * ATOL
    torch.testing.assert_close(found, wanted, rtol=0, atol=ATOL)
    encoder = model.unload()
    torch.testing.assert_close(run(load_peft(tmp_path, encoder), encoder), wanted, rtol=0, atol=ATOL)


@pytest.mark.parametrize(
    ("name", "settings"),
    [
        ("timm", {"r": 3, "lora_alpha": 5, "target_modules": ["qkv"]}),
        ("timm", {"r": 2, "target_modules": r".*(qkv|proj)", "rank_pattern": {"qkv": 5}, "use_rslora": True}),
        ("timm", {"r": 4, "target_modules": ["qkv", "fc1"], "alpha_pattern": {"1.mlp.fc1": 3}}),
        ("hf_vit", {"r": 2, "target_modules": ["q_proj", "v_proj", "query", "value"], "lora_dropout": 0.1}),
        ("timm_cnn", {"r": 2, "target_modules": r".*conv1\.3"}),
    ],
)
def test_what_peft_saved_opens(name, settings, tmp_path):
    encoder = tower(name)
    bare = run(encoder, encoder)
    model = get_peft_model(encoder, LoraConfig(init_lora_weights=False, **settings)).eval()  # pyright: ignore
    wanted = run(model, encoder)
    model.save_pretrained(str(tmp_path))
    encoder = model.unload()
    torch.testing.assert_close(run(encoder, encoder), bare, rtol=0, atol=0)
    grafted = load_peft(tmp_path, encoder)
    assert (wanted - bare).abs().max() > 100 * ATOL
    torch.testing.assert_close(run(grafted, encoder), wanted, rtol=0, atol=ATOL)
    assert torch.equal(run(grafted.ungraft(), encoder), bare)


def saved_by_peft(folder, **settings):
    encoder = tower("timm")
    model = get_peft_model(encoder, LoraConfig(**{"r": 2, "target_modules": ["qkv"], **settings}))
    model.save_pretrained(str(folder))
    return folder


@pytest.mark.parametrize(
    ("settings", "reason"),
    [
        ({"use_dora": True}, "use_dora is True"),
        ({"bias": "all"}, "bias is 'all'"),
        ({"modules_to_save": ["norm"]}, "modules_to_save"),
        ({"lora_bias": True}, "lora_bias"),
    ],
)
def test_a_variant_is_refused_by_name(settings, reason, tmp_path):
    with pytest.raises(CheckpointError, match=reason):
        load_peft(saved_by_peft(tmp_path, **settings), tower("timm"))


def test_damage_is_named(tmp_path):
    encoder = tower("timm")
    with pytest.raises(CheckpointError, match="cannot be read"):
        load_peft(tmp_path, encoder)
    saved_by_peft(tmp_path)
    config = json.loads((tmp_path / CONFIG_NAME).read_text())
    (tmp_path / CONFIG_NAME).write_text(json.dumps({**config, "peft_type": "LOHA"}))
    with pytest.raises(CheckpointError, match="'LOHA'"):
        load_peft(tmp_path, encoder)
    (tmp_path / CONFIG_NAME).write_text(json.dumps(config))
    tensors = load_file(tmp_path / WEIGHTS_NAME)
    first = next(iter(tensors))
    save_file({key: value for key, value in tensors.items() if key != first}, tmp_path / WEIGHTS_NAME)
    with pytest.raises(CheckpointError, match="only one of lora_A and lora_B"):
        load_peft(tmp_path, encoder)
    save_file({key.replace("blocks.0", "blocks.7"): value for key, value in tensors.items()}, tmp_path / WEIGHTS_NAME)
    with pytest.raises(CheckpointError, match=r"lacks: \['model.blocks.7"):
        load_peft(tmp_path, encoder)
    save_file({**tensors, "base_model.model.extra": torch.ones(1)}, tmp_path / WEIGHTS_NAME)
    with pytest.raises(CheckpointError, match="extra"):
        load_peft(tmp_path, encoder)


def test_only_a_plain_lora_without_a_head_is_written(tmp_path):
    with pytest.raises(ConfigError, match="one plain lora"):
        save_peft(graft(tiny.fresh("timm"), "linear_probe"), tmp_path)
    with pytest.raises(ConfigError, match="no place for a head"):
        save_peft(graft(tiny.fresh("timm"), "lora", head=nn.Linear(48, 2)), tmp_path)
