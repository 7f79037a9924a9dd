"""Published weights as training code leaves them: wrapped, prefixed, and beside objects that are no tensors."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import pytest
import torch

from medgraft.encoders.brainiac import BrainIacSource
from medgraft.encoders.m3d import M3dSource
from medgraft.encoders.medicalnet import MedicalNetSource
from medgraft.encoders.neuro_simclr import NeuroSimClrSource
from medgraft.encoders.swin_unetr import SwinUnetrSource
from medgraft.errors import CheckpointError

CNN = {"img_size": (24, 32, 32), "widen_factor": 0.125}
VIT = {"img_size": (32, 32, 48), "hidden_size": 24, "mlp_dim": 40, "num_layers": 2, "num_heads": 2}
SWIN = {"img_size": (32, 32, 64), "feature_size": 12, "depths": (1, 1, 1, 1)}
M3D = {"img_size": (8, 32, 32), "patch_size": (4, 16, 16), "dim": 12, "mlp_dim": 20, "depth": 2, "heads": 3}
SOURCES: dict[str, tuple[Any, str, dict[str, Any], str]] = {
    "brainiac": (BrainIacSource, "v2", VIT, "backbone."),
    "medicalnet": (MedicalNetSource, "resnet10", CNN, "module."),
    "swin_unetr": (SwinUnetrSource, "ssl", SWIN, "module."),
    "neuro_simclr": (NeuroSimClrSource, "t1", CNN, "encoder."),
    "m3d": (M3dSource, "clip", M3D, "vision_encoder."),
}


class Settings:
    """Hyper-parameters of a script that is not installed where the weights are used."""

    def __init__(self) -> None:
        self.optimizer = torch.optim.AdamW


def saved(name: str, path: Path, **extra: Any) -> Any:
    """A file of new weights of the encoder, and the encoder that they are of."""
    source, model, options, prefix = SOURCES[name]
    encoder = source.build(model, "random", **options)
    generator = torch.Generator().manual_seed(3)
    with torch.no_grad():
        for parameter in encoder.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=generator) * 0.1)
    state = {f"{prefix}{key}": value for key, value in encoder.model.state_dict().items()}
    torch.save({"state_dict": state, "epoch": 3, "global_step": 9, **extra}, path)
    return encoder


@pytest.mark.parametrize("name", SOURCES)
def test_a_lightning_checkpoint_with_settings_and_callbacks_loads(name, tmp_path):
    source, model, options, _ = SOURCES[name]
    extra = {
        "hyper_parameters": argparse.Namespace(config=Settings(), root=Path("/data")),
        "callbacks": {"EarlyStopping": {"best_score": torch.tensor(0.5), "settings": Settings()}},
        "pytorch-lightning_version": "2.3.3",
    }
    expected = saved(name, tmp_path / "weights.ckpt", **extra)
    found = source.build(model, str(tmp_path / "weights.ckpt"), **options)
    own, theirs = found.state_dict(), expected.state_dict()
    assert own.keys() == theirs.keys() and all(torch.equal(own[key], theirs[key]) for key in own)


class Attack:
    def __init__(self, path: Path) -> None:
        self.path = str(path)

    def __reduce__(self):
        import os

        return os.mkdir, (self.path,)


@pytest.mark.parametrize("name", SOURCES)
def test_a_checkpoint_that_asks_to_run_code_is_refused_and_runs_none(name, tmp_path):
    source, model, options, _ = SOURCES[name]
    saved(name, tmp_path / "weights.ckpt", hyper_parameters=Attack(tmp_path / "ran"))
    with pytest.raises(CheckpointError, match=r"weights\.ckpt is refused.*safetensors"):
        source.build(model, str(tmp_path / "weights.ckpt"), **options)
    assert not (tmp_path / "ran").exists()
