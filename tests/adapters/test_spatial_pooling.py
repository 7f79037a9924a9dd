"""Spatial pooling against loops over the grid, and the published projector."""

from __future__ import annotations

import itertools
import math

import pytest
import tiny_encoders as tiny
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.testing import assert_close

from medgraft.adapters.spatial_pooling import SpatialPooling, SpatialPoolingAdapter, pool_grid
from medgraft.errors import ConfigError
from medgraft.grafting import graft

pytestmark = pytest.mark.usefixtures("seeded")
EXACT = {"rtol": 1e-12, "atol": 1e-12}


def tokens(*shape):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(1), dtype=torch.float64)


def pooled_by_hand(x, grid, size):
    """Cube by cube, over the coordinates of its tokens."""
    steps = [min(size, length) for length in grid]
    strides = [math.prod(grid[axis + 1 :]) for axis in range(len(grid))]
    rows = []
    for corner in itertools.product(*(range(length // step) for length, step in zip(grid, steps, strict=True))):
        cube = itertools.product(*(range(c * s, (c + 1) * s) for c, s in zip(corner, steps, strict=True)))
        index = [sum(place * stride for place, stride in zip(at, strides, strict=True)) for at in cube]
        rows.append(x[:, index].mean(1))
    return torch.stack(rows, dim=1)


@settings(max_examples=40, deadline=None)
@given(grid=st.lists(st.integers(1, 5), min_size=1, max_size=3), size=st.integers(1, 3))
def test_it_averages_cubes_of_the_grid(grid, size):
    x = tokens(2, math.prod(grid), 3)
    found, shape = pool_grid(x, grid, size)
    assert shape == tuple(max(1, length // size) if length >= size else 1 for length in grid)
    assert_close(found, pooled_by_hand(x, grid, size), **EXACT)


def test_the_published_grid_gives_256_tokens():
    found, grid = pool_grid(tokens(1, 2048, 2), (8, 16, 16))
    assert found.shape == (1, 256, 2) and grid == (4, 8, 8)


def test_averages_keep_the_mean_where_the_grid_divides():
    x = tokens(2, 4 * 6 * 2, 5)
    assert_close(pool_grid(x, (4, 6, 2))[0].mean(1), x.mean(1), **EXACT)


@pytest.mark.parametrize("layers", [1, 2, 3])
def test_the_projection_is_linear_maps_with_gelu_between(layers):
    pooling = SpatialPooling(5, 7, layers=layers).double()
    x = tokens(2, 16, 5)
    found, _ = pooling(x, (4, 4))
    wanted = pooled_by_hand(x, (4, 4), 2)
    state = pooling.state_dict()
    assert list(state) == [f"projector.{2 * i}.{kind}" for i in range(layers) for kind in ("weight", "bias")]
    for i in range(layers):
        if i:
            wanted = 0.5 * wanted * (1 + torch.erf(wanted / math.sqrt(2)))
        wanted = torch.einsum("bnc,dc->bnd", wanted, state[f"projector.{2 * i}.weight"])
        wanted = wanted + state[f"projector.{2 * i}.bias"]
    assert_close(found, wanted, **EXACT)


def test_sequence_pooling_averages_neighbours_of_the_flattened_order():
    pooling = SpatialPooling(5, 5, layers=1, pooling="sequence").double()
    x = tokens(2, 32, 5)
    found, grid = pooling(x, (2, 4, 4))
    assert grid == (4,)
    assert_close(found, pooling.projector(torch.stack([part.mean(1) for part in x.split(8, dim=1)], dim=1)), **EXACT)


def test_a_grid_that_does_not_hold_the_tokens_is_an_error():
    with pytest.raises(ConfigError, match=r"7 tokens do not fill a grid \(2, 3\)"):
        pool_grid(tokens(1, 7, 2), (2, 3))


@pytest.mark.parametrize(("name", "options"), [("timm", {}), ("brain", {"out_dim": 9}), ("timm_cnn", {"layers": 1})])
def test_the_adapter_pools_patch_tokens_and_gives_the_head_their_mean(name, options):
    encoder = tiny.shared(name)
    tower = next(iter(encoder.towers().values()))
    x = tiny.batch(encoder)[tower.spec.modality]
    grafted = graft(encoder, "spatial_pooling", **options)
    adapter = grafted.adapters["spatial_pooling"]
    with torch.no_grad():
        features = grafted(x)
        grafted.ungraft()
        plain = tower(x)
        wanted, grid = adapter.pooling[tower.spec.modality](plain.tokens[:, plain.n_prefix :], plain.grid)
    assert (
        features.grid == grid
        and features.n_prefix == 0
        and features.tokens.shape[-1] == options.get("out_dim", tower.spec.dim)
    )
    assert_close(features.tokens, wanted)
    assert_close(features.pooled, wanted.mean(1))


def test_it_refuses_text_alone():
    text = tiny.shared("brain").towers()["text"]
    assert "text only" in SpatialPoolingAdapter().supports(text).reason
