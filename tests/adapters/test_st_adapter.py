"""ST-Adapter against its equation on images and volumes, and what it must not touch."""

from __future__ import annotations

import plain_blocks as plain
import pytest
import tiny_encoders as tiny
import torch
import torch.nn.functional as F

from medgraft.adapters.st_adapter import StAdapter
from medgraft.errors import ConfigError, IncompatibleError
from medgraft.grafting import Grafted, graft

pytestmark = pytest.mark.usefixtures("seeded")


@pytest.mark.parametrize("activation", ["gelu", "none"])
@pytest.mark.parametrize("rank", [2, 3])
def test_a_block_is_that_of_the_paper(rank, activation):
    tower = plain.PlainTower(rank)
    adapter = StAdapter(StAdapter.Config(activation=activation))
    x = tower.images()
    grafted = plain.grafted_on(tower, adapter)
    got = grafted(x).tokens
    grafted.ungraft()
    numbers = adapter.state_dict()

    def block(i, module, y):
        def part(name):
            return numbers[f"bottleneck.blocks/{i}.{name}"]

        places = y[:, 1:] @ part("down.weight").T + part("down.bias")
        kernel = part("depthwise.weight")[:, 0]  # [width, 3, ...]
        padded = F.pad(places.transpose(1, 2).unflatten(2, tower.grid), (1, 1) * rank)
        mixed = part("depthwise.bias").view(1, -1, *(1,) * rank).repeat(len(y), 1, *tower.grid)
        for step in torch.cartesian_prod(*[torch.arange(3)] * rank).tolist():
            window = padded[
                (slice(None), slice(None), *(slice(s, s + n) for s, n in zip(step, tower.grid, strict=True)))
            ]
            mixed = mixed + kernel[(slice(None), *step)].view(1, -1, *(1,) * rank) * window
        mixed = mixed.flatten(2).transpose(1, 2)
        mixed = F.gelu(mixed) if activation == "gelu" else mixed
        added = mixed @ part("up.weight").T + part("up.bias")
        return module(torch.cat([y[:, :1], y[:, 1:] + added], dim=1))

    torch.testing.assert_close(got, plain.by_hand(tower, x, block), **plain.EXACT)


@pytest.mark.parametrize(("rank", "kernel", "reduction"), [(2, 3, 2), (3, 3, 2), (3, 5, 4), (2, 1, 1)])
def test_the_number_of_parameters_is_that_of_the_formula(rank, kernel, reduction):
    config = StAdapter.Config(kernel=kernel, reduction=reduction)
    grafted = Grafted(plain.PlainTower(rank), {"it": StAdapter(config)})
    width = 12 // reduction
    assert grafted.trainable_count()["it"] == 2 * (2 * 12 * width + width + 12 + width * (kernel**rank + 1))


def test_a_place_reaches_its_neighbours_and_no_further():
    tower = plain.PlainTower(rank=2, depth=1)
    adapter = StAdapter()
    plain.grafted_on(tower, adapter)
    places = torch.zeros(1, 12, 4, 4, dtype=torch.float64)
    touched = places.clone()
    touched[..., 0, 0] = 1
    module = adapter.bottleneck["blocks/0"]
    changed = (module(touched) - module(places)).abs().amax(dim=1)[0] > 1e-9
    assert changed[:2, :2].all() and int(changed.sum()) == 4


@pytest.mark.parametrize("name", ["chest", "timm", "hf_vit", "mha", "brain"])
def test_the_grid_of_every_library_is_found(name):
    encoder = tiny.fresh(name)
    tower = next(iter(encoder.towers().values()))
    x = next(iter(tiny.batch(encoder).values()))
    adapter = StAdapter()
    plain.grafted_on(encoder, adapter)
    features = tower(x)
    assert features.tokens.isfinite().all()
    kernel = next(iter(adapter.bottleneck.values())).depthwise.weight
    assert kernel.ndim - 2 == len(features.grid) == len(tower.spec.input_size)


def test_a_text_tower_stays_as_it_is_and_alone_is_refused():
    encoder = tiny.fresh("brain")
    hits = graft(encoder, "st_adapter").coverage()["st_adapter"]
    assert all(site.startswith("volume.") for found in hits.values() for site in found)
    with pytest.raises(IncompatibleError, match="of an image or volume tower"):
        graft(tiny.fresh("brain").towers()["text"], "st_adapter")


def test_tokens_that_another_adapter_adds_are_an_error_that_says_so():
    tower = plain.PlainTower()
    grafted = graft(tower, "st_adapter+vpt", head=None)
    assert grafted(tower.images()).tokens.isfinite().all()  # the prompts come behind it
    grafted.ungraft()
    with pytest.raises(ConfigError, match="27 tokens reach an adapter that needs 1 and a grid of"):
        graft(tower, "vpt+st_adapter")


def test_an_even_kernel_is_refused():
    with pytest.raises(ConfigError, match="must be odd"):
        graft(plain.PlainTower(), "st_adapter", kernel=4)


def test_the_last_blocks_alone_leave_the_cache_before_them():
    tower = plain.PlainTower(depth=4)
    x = tower.images()
    hidden = tower.prefix(x, 3)
    grafted = plain.grafted_on(tower, StAdapter(StAdapter.Config(depth="half_up")))
    assert grafted.first_stage() == {"image": 3} and torch.equal(tower.prefix(x, 3), hidden)
    assert torch.equal(grafted(hidden, start=3).tokens, grafted(x).tokens)
