"""What one run on a blank sample tells about a tower."""

from __future__ import annotations

import pytest
import tiny_encoders as tiny
import torch

from medgraft.attachment.blank_run import blank_batch, trace_features, used_parameters

pytestmark = pytest.mark.usefixtures("seeded")
TOWERS = [(name, key) for name in tiny.BUILDERS for key in tiny.shared(name).towers()]


@pytest.mark.parametrize(("name", "key"), TOWERS)
def test_a_blank_sample_has_the_layout_of_a_real_one(name, key):
    encoder = tiny.shared(name)
    tower, real = encoder.towers()[key], tiny.batch(encoder)[key]
    blank = blank_batch(tower)
    assert blank.shape == (1, *real.shape[1:]) and blank.dtype == real.dtype
    features, wanted = trace_features(tower), tower(real)
    assert (features.n_prefix, features.grid) == (wanted.n_prefix, wanted.grid)
    assert not features.tokens.requires_grad


@pytest.mark.parametrize(("name", "key"), TOWERS)
def test_the_used_parameters_are_those_that_get_a_gradient(name, key):
    encoder = tiny.fresh(name)
    tower, real = encoder.towers()[key], tiny.batch(encoder)[key]
    used = used_parameters(tower)
    assert not any(p.requires_grad or p.grad is not None for p in tower.parameters())
    tower.requires_grad_(True)
    features = tower(real)
    if features.tokens.requires_grad:
        (features.tokens.sum() + features.pooled.sum()).backward()
    assert used == {p for p in tower.parameters() if p.grad is not None}


def test_a_projection_into_a_shared_space_is_not_used_by_the_features():
    tower = tiny.fresh("chest").towers()["image"]
    used = used_parameters(tower)
    assert tower.shared.weight not in used and tower.norm.weight in used


def test_a_tower_that_fails_is_frozen_again():
    tower = tiny.fresh("timm")
    tower.register_parameter("extra", torch.nn.Parameter(torch.zeros(1), requires_grad=False))
    handle = tower.model.norm.register_forward_hook(lambda *_: (_ for _ in ()).throw(RuntimeError("out")))
    with pytest.raises(RuntimeError, match="out"):
        used_parameters(tower)
    handle.remove()
    assert not any(p.requires_grad for p in tower.parameters())
