"""Augmented views: fixed, small, different from each other, and cached and drawn as they should be."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from cells import Ran, ran, spec
from hypothesis import given, settings
from hypothesis import strategies as st

from medgraft.benchmarks.cell.resolved import Resolver
from medgraft.benchmarks.cell.steps.description import describe_cache
from medgraft.benchmarks.prefix_cache.inputs import prepare, tower_inputs
from medgraft.benchmarks.prefix_cache.rows import CacheUse, TowerInputs, drawn_batch, hit_rate
from medgraft.benchmarks.sweep.compatible import misfit
from medgraft.modalities.image import Image
from medgraft.modality import find_modality
from medgraft.registry import build_encoder
from medgraft.task import RawInputs


def blob(*size: int) -> torch.Tensor:
    """A bright ball in the middle, ``[2, 1, *size]``."""
    axes = torch.meshgrid(*(torch.linspace(-1, 1, n) for n in size), indexing="ij")
    return torch.exp(-4 * sum(a**2 for a in axes)).expand(2, 1, *size).contiguous()


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 50), st.integers(0, 7), st.sampled_from([("image", (17, 20)), ("volume", (9, 8, 10))]))
def test_a_view_depends_on_its_number_and_the_samples_alone(first, view, kind):
    modality, size = kind
    x, index = blob(*size), np.array([first, first + 1])
    one = find_modality(modality).view(x, index, view)
    assert torch.equal(one, find_modality(modality).view(x.clone(), index, view))
    alone = find_modality(modality).view(x[1:], index[1:], view)  # whatever batch the sample is in
    torch.testing.assert_close(alone, one[1:], rtol=1e-5, atol=1e-6)
    assert not torch.equal(one[0], one[1]) and not torch.equal(one, find_modality(modality).view(x, index, view + 1))


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 50), st.integers(0, 7))
def test_a_view_is_near_its_sample(sample, view):
    x = blob(40, 40)[:1]
    seen = find_modality("image").view(x, np.array([sample]), view)[0, 0]
    weights = (seen - seen.min()).clamp(min=0) ** 4  # far from the border
    for axis in (0, 1):
        centre = (weights.sum(1 - axis) * torch.arange(40.0)).sum() / weights.sum()
        assert abs(float(centre) - 19.5) <= 40 * Image.variation.shift * 1.25
    assert abs(float(seen.std() / x.std()) - 1) < 0.4


def test_the_background_of_a_volume_stays_zero():
    x = blob(9, 9, 9) * (blob(9, 9, 9) > 0.5)
    assert (find_modality("volume").view(x, np.arange(2), 0)[:, :, 0] == 0).all()


def test_texts_have_no_views():
    ids = torch.ones(2, 5, dtype=torch.int64)
    assert find_modality("text").view(ids, np.arange(2), 0) is ids


# --- in the cache -----------------------------------------------------------------------------------------------------


@pytest.fixture(autouse=True)
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MEDGRAFT_CACHE", str(tmp_path / "cache"))


@torch.no_grad()
@pytest.mark.parametrize("stage", [0, 2])
def test_a_cached_view_is_what_the_tower_makes_of_it(stage):
    tower = build_encoder("embedded:chest@random").towers()["image"]
    raw = RawInputs(lambda i: np.random.default_rng(i).integers(0, 256, (64, 64), np.uint8), 3, "a")
    prepared = prepare(raw, tower, "chest")
    found = tower_inputs(prepared, tower, stage, "w", view=1).batch(np.array([2, 0]))
    direct = tower.prefix(find_modality("image").view(prepared.batch(np.array([2, 0])), np.array([2, 0]), 1), stage)
    torch.testing.assert_close(found, direct, rtol=0.02, atol=0.02)
    plain = tower_inputs(prepared, tower, stage, "w").batch(np.array([2, 0]))
    assert (found - plain).abs().mean() > 0.01  # pyright: ignore[reportOperatorIssue]


def test_rows_come_from_the_view_that_was_drawn():
    uses = [CacheUse("view", "image", 0, v, 4, 0, v == 1) for v in range(3)]
    views = [TowerInputs(0, {"x": np.arange(4.0) + 10 * v}, use=uses[v]) for v in range(3)]
    assert drawn_batch(views, np.array([3, 0, 1]), np.array([2, 0, 2])).tolist() == [23.0, 0.0, 21.0]  # pyright: ignore
    assert [use.served for use in uses] == [1, 0, 2]


def test_the_hit_rate_is_the_share_of_rows_read_that_were_not_computed():
    built = CacheUse("prefix", "image", 1, None, samples=10, size=0, hit=False, served=40)
    found = CacheUse("prefix", "text", 1, None, samples=10, size=0, hit=True, served=40)
    assert hit_rate([built, found]) == pytest.approx(70 / 80)
    assert hit_rate([]) is None


def trained(cohort: Path, **changes) -> Ran:
    return ran(spec(task="chexpert", encoder="embedded:chest@random", adapter="linear_probe", **changes), cohort)


def test_a_cell_trains_on_views_says_so_and_finds_them_the_next_time(chest_cohort):
    plain = trained(chest_cohort)
    first, second = (trained(chest_cohort, augment_views=2) for _ in range(2))
    losses = [cell.log.epoch_loss for cell in (plain, first, second)]
    assert losses[1] == losses[2] != losses[0]
    told = describe_cache(second.ready)
    views = [each for each in told["entries"] if each["view"] is not None]
    n = len(first.loaded.splits["train"])
    assert [each["view"] for each in views] == [0, 1] and sum(each["served"] for each in views) == 2 * n
    assert told["hit_rate"] == 1.0 and all(each["hit"] for each in told["entries"])
    assert 0 <= describe_cache(first.ready)["hit_rate"] < 1


def test_dense_tasks_are_left_out_with_the_reason():
    row = Resolver().row("siim_segmentation", {}, "embedded:chest@random", "linear_probe", {})
    assert "augmented views move the image" in misfit(row, views=2)
