"""Tip-Adapter against its equations in plain loops; the cache in checkpoints."""

from __future__ import annotations

import math

import pytest
import tiny_encoders as tiny
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from medgraft.adapters.tip_adapter import TipAdapter
from medgraft.checkpoints.opening import load_graft
from medgraft.grafting import graft
from medgraft.registry import build_adapter

pytestmark = pytest.mark.usefixtures("seeded")


def cache(n: int = 7, classes: int = 3, width: int = 5, **options) -> tuple[TipAdapter, Tensor, Tensor]:
    adapter = build_adapter("tip_adapter", options)
    assert isinstance(adapter, TipAdapter)
    generator = torch.Generator().manual_seed(n)
    images = F.normalize(torch.randn(n, width, generator=generator), dim=1)
    targets = torch.randint(classes, (n,), generator=generator)
    adapter.fit_classes(images, targets, classes)
    return adapter, images, targets


@settings(max_examples=25, deadline=None)
@given(
    st.integers(1, 9),
    st.integers(1, 4),
    st.floats(0, 5, allow_nan=False),
    st.floats(0.1, 20, allow_nan=False),
)
def test_the_evidence_is_the_published_sum_over_the_cache(n, classes, alpha, beta):
    adapter, keys, targets = cache(n, classes, alpha=alpha, beta=beta)
    images = F.normalize(torch.randn(4, 5, generator=torch.Generator().manual_seed(1)), dim=1)
    got = adapter.extra_logits(images)
    assert got is not None and got.shape == (4, classes)
    for row, image in zip(got.tolist(), images, strict=True):
        for k, value in enumerate(row):
            votes = [math.exp(-beta * (1 - float(image @ key))) for key, t in zip(keys, targets, strict=True) if t == k]
            assert value == pytest.approx(alpha * sum(votes), rel=1e-4, abs=1e-6)


def test_a_known_image_votes_for_its_class_most():
    adapter, images, targets = cache(beta=50.0)
    evidence = adapter.extra_logits(images)
    assert evidence is not None and torch.equal(evidence.argmax(dim=1), targets)


def test_only_the_variant_with_trained_keys_has_parameters_and_starts_from_the_same_cache():
    plain, images, _ = cache()
    trained, _, _ = cache(train_keys=True)
    assert not [p for p in plain.parameters() if p.requires_grad]
    assert [tuple(p.shape) for p in trained.parameters() if p.requires_grad] == [(7, 5)]
    first, second = plain.extra_logits(images), trained.extra_logits(images)
    assert first is not None and second is not None and torch.equal(first, second)


def test_before_it_met_any_class_it_adds_nothing():
    adapter = build_adapter("tip_adapter")
    assert isinstance(adapter, TipAdapter) and adapter.extra_logits(torch.ones(2, 5)) is None


@pytest.mark.parametrize("train_keys", [False, True])
def test_the_cache_is_saved_and_a_fresh_graft_makes_room_for_it(train_keys, tmp_path):
    grafted = graft("embedded:chest@random", "tip_adapter", train_keys=train_keys)
    adapter = grafted.adapters["tip_adapter"]
    assert isinstance(adapter, TipAdapter)
    images = F.normalize(torch.randn(6, 128), dim=1)
    adapter.fit_classes(images, torch.arange(6) % 3, 3)
    grafted.save(tmp_path / "tip")
    again = load_graft(tmp_path / "tip", "embedded:chest@random").adapters["tip_adapter"]
    assert isinstance(again, TipAdapter)
    before, after = adapter.extra_logits(images), again.extra_logits(images)
    assert before is not None and after is not None and torch.equal(before, after)


def test_an_encoder_without_a_shared_space_is_refused():
    assert "no space that image and text share" in build_adapter("tip_adapter").supports(tiny.shared("brain")).reason
