"""The reference rows of a board: linear probe, zero-shot and the network from scratch."""

from __future__ import annotations

import pytest
import tiny_encoders as tiny
import torch

from medgraft.adapters.linear_probe import mean_token
from medgraft.errors import ConfigError, IncompatibleError
from medgraft.grafting import graft
from medgraft.registry import build_adapter

pytestmark = pytest.mark.usefixtures("seeded")


@pytest.mark.parametrize("adapter", ["linear_probe", "zero_shot"])
def test_it_trains_nothing(adapter):
    encoder = tiny.shared("chest")
    grafted = graft(encoder, adapter)
    grafted.ungraft()
    assert grafted.trainable_parameters() == [] and grafted.trainable_count() == {adapter: 0}


@pytest.mark.parametrize("pooling", ["encoder", "cls", "mean", "cls+mean"])
def test_a_probe_reads_what_its_pooling_names(pooling):
    encoder = tiny.shared("timm")
    x = tiny.batch(encoder)["image"]
    with torch.no_grad():
        plain = encoder(x)
        grafted = graft(encoder, "linear_probe", pooling=pooling)
        pooled = grafted(x).pooled
        grafted.ungraft()
    cls, mean = plain.tokens[:, 0], plain.tokens[:, 1:].mean(dim=1)
    wanted = {"encoder": plain.pooled, "cls": cls, "mean": mean, "cls+mean": torch.cat([cls, mean], dim=1)}
    assert torch.equal(pooled, wanted[pooling])


def test_a_probe_can_run_from_kept_features():
    encoder = tiny.shared("timm")
    with torch.no_grad():
        features = encoder(tiny.batch(encoder)["image"])
        grafted = graft(encoder, "linear_probe", pooling="mean")
        pooled = grafted(features).pooled
        grafted.ungraft()
    assert torch.equal(pooled, mean_token(features))


@pytest.mark.parametrize("pooling", ["encoder", "mean"])
def test_logistic_is_the_solved_probe_by_a_name_that_no_option_changes(pooling):
    encoder = tiny.shared("timm")
    x, outputs = tiny.batch(encoder)["image"], []
    for name in ("linear_probe", "logistic"):
        with torch.no_grad():
            grafted = graft(encoder, name, pooling=pooling)
            outputs.append(grafted(x).pooled)
            assert grafted.adapters[name].refit_head
            grafted.ungraft()
    assert torch.equal(*outputs)
    with pytest.raises(ConfigError, match="solver"):
        build_adapter("logistic", {"solver": "sgd"})


@pytest.mark.parametrize("name", ["timm_cnn", "hf_clip", "pixels_2d"])
@pytest.mark.parametrize("pooling", ["cls", "cls+mean"])
def test_a_probe_of_the_cls_token_refuses_a_tower_without_one(name, pooling):
    with pytest.raises(IncompatibleError, match="no CLS token"):
        graft(tiny.shared(name), "linear_probe", pooling=pooling)


@pytest.mark.parametrize("name", ["brain", "timm", "mha"])
def test_zero_shot_refuses_an_encoder_without_a_shared_space(name):
    assert "no space that image and text share" in build_adapter("zero_shot").supports(tiny.shared(name)).reason


@pytest.mark.parametrize(("name", "grid"), [("pixels_2d", (8, 8)), ("pixels_3d", (4, 5, 4))])
def test_a_network_from_scratch_gives_the_features_of_its_last_map(name, grid):
    encoder = tiny.shared(name)
    grafted = graft(encoder, "scratch_cnn", width=8)
    with torch.no_grad():
        features = grafted(next(iter(tiny.batch(encoder).values())))
    grafted.ungraft()
    assert features.grid == grid and features.n_prefix == 0
    assert torch.equal(features.pooled, features.tokens.transpose(1, 2).flatten(1))  # every place, for the head
    assert features.tokens.shape[1] == torch.Size(grid).numel()


def test_a_network_from_scratch_reads_the_input_itself():
    encoder = tiny.shared("pixels_2d")
    grafted = graft(encoder, "scratch_cnn", width=8)
    x = tiny.batch(encoder)["image"].requires_grad_()
    grafted(x).pooled.sum().backward()
    grafted.ungraft()
    assert x.grad.any() and grafted.first_stage() == {"image": encoder.n_stages}


def test_a_network_from_scratch_takes_no_encoder_with_weights():
    assert "pixels:2d or pixels:3d" in build_adapter("scratch_cnn").supports(tiny.shared("timm")).reason


@pytest.mark.parametrize("width", [0, 4, 12])
def test_a_width_that_the_norm_cannot_divide_is_an_error(width):
    with pytest.raises(ConfigError, match="width"):
        build_adapter("scratch_cnn", {"width": width})
