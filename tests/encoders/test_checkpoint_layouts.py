"""One network's weights as training code of several projects leaves them, what was taken of each, and partial files."""

from __future__ import annotations

import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from medgraft.checkpoints.weights import partial_weights
from medgraft.encoders.monai import MonaiSource
from medgraft.encoders.timm import TimmSource
from medgraft.encoders.transformers import TransformersSource
from medgraft.errors import CheckpointError
from medgraft.registry import build_encoder, resolve_encoder

State = dict[str, torch.Tensor]
TIMM, MONAI = ("test_vit", {}), ("vit", {"img_size": (16, 16, 16), "hidden_size": 12, "num_layers": 1, "num_heads": 2})
HF = {
    "hidden_size": 16,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "intermediate_size": 24,
    "image_size": 16,
    "patch_size": 8,
}


def under(prefix: str) -> Callable[[State], State]:
    return lambda state: {f"{prefix}{key}": value for key, value in state.items()}


LAYOUTS: dict[str, Callable[[State], Any]] = {
    "plain": lambda s: s,
    "state_dict": lambda s: {"state_dict": s, "epoch": 3},
    "model": lambda s: {"model": s, "optimizer": {"state": {}, "param_groups": []}, "scaler": None},
    "DataParallel": under("module."),
    "Lightning": lambda s: {"state_dict": under("model.")(s), "pytorch-lightning_version": "2.4.0", "global_step": 9},
    "Lightning, encoder and head": lambda s: {
        "state_dict": under("encoder.")(s) | {"classifier.weight": torch.zeros(2, 3)},
        "optimizer_states": [],
    },
    "MAE": lambda s: {"model": s | {"decoder_embed.weight": torch.zeros(2, 2), "mask_token": torch.zeros(1, 1, 4)}},
    "DINO": lambda s: {
        "student": {f"module.backbone.{key}": value + 1 for key, value in s.items()},
        "teacher": under("backbone.")(s) | {"head.mlp.0.weight": torch.zeros(2, 2)},
        "epoch": 100,
    },
    "DINO, one table": lambda s: {
        "model": {f"student.backbone.{key}": value + 1 for key, value in s.items()} | under("teacher.backbone.")(s)
    },
    "MoCo": lambda s: {"state_dict": under("module.encoder_q.")(s), "arch": "vit"},
    "MONAI bundle": lambda s: {"net": s, "trainer": {"epoch": 1}},
    "MONAI, network": lambda s: {"network": under("module.")(s)},
    "nnU-Net": lambda s: {"network_weights": s, "current_epoch": 10, "init_args": {"fold": "0"}},
    "trainer of transformers": lambda s: {f"vit.{key}": value for key, value in s.items()},
}
HEADS = ("head.", "classifier.", "fc.")


def drawn(module: torch.nn.Module) -> State:
    generator = torch.Generator().manual_seed(3)
    return {
        key: torch.randn(value.shape, generator=generator) * 0.1 if value.is_floating_point() else value
        for key, value in module.state_dict().items()
    }


@pytest.mark.parametrize("layout", [name for name in LAYOUTS if "transformers" not in name])
@pytest.mark.parametrize("source", ["timm", "monai"])
def test_every_layout_loads_the_same_weights_and_says_what_was_taken(source, layout, tmp_path):
    kind: Any = TimmSource if source == "timm" else MonaiSource
    name, options = TIMM if source == "timm" else MONAI
    expected = drawn(kind.build(name, "random", **options).model)
    torch.save(LAYOUTS[layout](expected), tmp_path / "weights.pth")
    encoder = kind.build(name, str(tmp_path / "weights.pth"), **options)
    own = encoder.model.state_dict()
    assert all(torch.equal(own[key], expected[key]) for key in own)
    (matched,) = encoder.loaded
    assert matched.loaded == matched.needed == len(own) and not matched.missing
    assert f"{len(own)} of {len(own)} tensors from {tmp_path}" in str(matched)
    if layout == "DINO":
        assert "backbone." in matched.prefix and "head.mlp.0.weight" in matched.left_out


@pytest.mark.parametrize("layout", ["plain", "state_dict", "DataParallel", "Lightning", "trainer of transformers"])
def test_layouts_of_transformers(layout, tmp_path):
    expected = drawn(TransformersSource.build("vit", "random", config=HF).model)
    whole = TransformersSource.build("vit", "random", config=HF).model.config
    whole.save_pretrained(tmp_path)
    torch.save(LAYOUTS[layout](expected), tmp_path / "weights.bin")
    encoder: Any = TransformersSource.build("vit", str(tmp_path / "weights.bin"))
    own = encoder.model.state_dict()
    assert all(torch.equal(own[key], expected[key]) for key in own)
    (matched,) = encoder.loaded
    assert matched.loaded == matched.needed == len(own)


def partly(tmp_path: Path) -> tuple[State, Path]:
    state = drawn(TimmSource.build("test_vit", "random").model)
    fewer = {key: value for key, value in state.items() if not key.startswith("blocks.1.")}
    fewer["norm.weight"] = torch.zeros(3)
    torch.save(fewer | {"projector.weight": torch.zeros(2, 2)}, tmp_path / "part.pth")
    return state, tmp_path / "part.pth"


def test_a_part_is_refused_with_the_way_to_take_it(tmp_path):
    _, path = partly(tmp_path)
    with pytest.raises(
        CheckpointError, match=r"missing: blocks\.1\..* tensors would fit, and .*part\.pth\?partial takes"
    ):
        build_encoder(f"timm:test_vit@{path}")


def test_a_part_is_taken_on_request_and_the_rest_is_fresh_and_named(tmp_path, caplog):
    state, path = partly(tmp_path)
    with caplog.at_level(logging.WARNING):
        encoder: Any = build_encoder(f"timm:test_vit@{path}?partial")
    own, fresh = encoder.model.state_dict(), TimmSource.build("test_vit", "random").model.state_dict()
    (matched,) = encoder.loaded
    assert "norm.weight" in matched.missing and "blocks.1.attn.qkv.weight" in matched.missing
    assert set(matched.left_out) == {"norm.weight", "projector.weight"}
    for key, value in own.items():
        wanted = fresh[key] if key in matched.missing else state[key]
        assert torch.equal(value, wanted), key
    assert "fresh: " in caplog.text
    again = build_encoder(f"timm:test_vit@{path}?partial")
    assert again.spec.weights == encoder.spec.weights  # what is fresh is always the same
    assert resolve_encoder(f"timm:test_vit@{path}?partial").weights == str(path)


def test_a_part_of_a_model_of_transformers(tmp_path):
    network: Any = TransformersSource.build("vit", "random", config=HF).model
    network.config.save_pretrained(tmp_path)
    state = {key: value for key, value in drawn(network).items() if "layer" not in key}
    torch.save(state, tmp_path / "weights.bin")
    with pytest.raises(CheckpointError, match=r"missing: .*\?partial takes what fits"):
        build_encoder(f"transformers:vit@{tmp_path / 'weights.bin'}")
    first, second = (build_encoder(f"transformers:vit@{tmp_path / 'weights.bin'}?partial") for _ in range(2))
    assert first.spec.weights == second.spec.weights
    assert first.loaded[0].missing and first.loaded[0].loaded == len(state)


def test_nothing_that_fits_is_no_part(tmp_path):
    torch.save({"other.weight": torch.zeros(2)}, tmp_path / "other.pth")
    with pytest.raises(CheckpointError, match="does not fit"):
        build_encoder(f"timm:test_vit@{tmp_path / 'other.pth'}?partial")


def test_a_part_is_allowed_for_the_encoder_that_asks_and_for_no_other(tmp_path):
    _, path = partly(tmp_path)
    with partial_weights():
        TimmSource.build("test_vit", str(path))
    with pytest.raises(CheckpointError):
        TimmSource.build("test_vit", str(path))
    with pytest.raises(CheckpointError, match="do not exist"):
        build_encoder("timm:test_vit@/nowhere.pth?partial")
