"""SwiFT's network against its formula written token by token, its published names and size, and what it refuses."""

from __future__ import annotations

import itertools
import math

import pytest
import torch
from torch.testing import assert_close

from medgraft.encoders.swift import CONFIGS, SwiFT
from medgraft.errors import ConfigError

EXACT = {"rtol": 1e-9, "atol": 1e-9}


def example(img_size, window, patch, full, **more):
    """A network of two stages; ``frames`` are the volumes of a sequence, by default as many as there are positions."""
    numbers = {"in_chans": 1, "embed_dim": 4, "depths": (2, 2), "num_heads": (1, 2), "frames": img_size[3]}
    return {"img_size": img_size, "window": window, "patch": (*patch, 1), "full": full, **numbers, **more}


# Grids that windows divide; that they do not, on some axes and on all; windows as long as an axis and longer; an odd
# width of window; one volume; fewer volumes than the positions in time; three stages and another multiplier.
THREE = {"in_chans": 2, "embed_dim": 6, "depths": (1, 3, 2), "num_heads": (3, 1, 6), "factor": 3, "first": (3, 2, 2, 4)}
CASES = {
    "fits": example((8, 8, 8, 3), (2, 2, 2, 2), (2, 2, 2), False),
    "full": example((8, 8, 8, 5), (2, 2, 2, 2), (2, 2, 2), True),
    "padded": example((8, 12, 4, 5), (3, 4, 2, 3), (2, 1, 1), False),
    "padded_everywhere": example((8, 8, 8, 7), (3, 3, 3, 4), (2, 2, 2), True),
    "longer_than_an_axis": example((4, 8, 8, 3), (4, 2, 9, 4), (1, 1, 2), False),
    "one_volume": example((8, 8, 8, 6), (2, 2, 2, 2), (2, 2, 2), False, frames=1),
    "fewer_volumes": example((8, 8, 4, 6), (2, 2, 2, 4), (2, 2, 1), True, frames=5),
    "windows_of_one": example((4, 4, 4, 3), (1, 2, 1, 2), (1, 1, 1), False),
    "three_stages": example((8, 16, 8, 3), (2, 2, 2, 2), (1, 2, 1), True, **THREE),
}


def build(case, seed=0):
    """The network of a case with every parameter drawn, so that none is where it starts."""
    network = SwiFT(
        case["img_size"],
        case["in_chans"],
        case["embed_dim"],
        case["window"],
        case.get("first", case["window"]),
        case["patch"],
        case["depths"],
        case["num_heads"],
        c_multiplier=case.get("factor", 2),
        last_layer_full_MSA=case["full"],
    ).double()
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=generator, dtype=torch.float64) * 0.4)
    return network.eval()


def sequences(case, batch=1, seed=1):
    shape = (batch, case["in_chans"], *case["img_size"][:3], case["frames"])
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def norm(x, weight, bias):
    centred = x - x.mean()
    return centred / torch.sqrt(centred.square().mean() + 1e-5) * weight + bias


def gelu(x):
    return 0.5 * x * (1 + torch.erf(x / math.sqrt(2)))


def by_hand(w, case, x):
    """Patch by patch, token by token and head by head: one sequence ``[C, H, W, D, T]`` -> place -> token."""
    ph, pw, pd, _ = case["patch"]
    grid = [length // step for length, step in zip(case["img_size"][:3], case["patch"][:3], strict=True)]
    grid.append(case["frames"])
    tokens = {}
    for h, v, d, t in itertools.product(*map(range, grid)):
        patch = [
            x[c, h * ph + i, v * pw + j, d * pd + k, t]
            for i in range(ph) for j in range(pw) for k in range(pd) for c in range(case["in_chans"])
        ]  # fmt: skip
        tokens[h, v, d, t] = w["patch_embed.fc.weight"] @ torch.stack(patch) + w["patch_embed.fc.bias"]
    stages = len(case["depths"])
    for stage in range(stages):
        for place in tokens:
            h, v, d, t = place
            tokens[place] = tokens[place] + w[f"pos_embeds.{stage}.pos_embed"][0, :, h, v, d, 0]
            tokens[place] = tokens[place] + w[f"pos_embeds.{stage}.time_embed"][0, :, 0, 0, 0, t]
        full = case["full"] and stage == stages - 1
        window = case.get("first", case["window"]) if stage == 0 else case["window"]
        window = (*grid[:3], case["window"][3]) if full else window
        for index in range(case["depths"][stage]):
            shifted = index % 2 == 1 and not full
            block = {k.removeprefix(f"layers.{stage}.blocks.{index}."): v for k, v in w.items()}
            tokens = block_by_hand(block, tokens, grid, window, shifted, case["num_heads"][stage])
        if stage < stages - 1:
            tokens = merged_by_hand(w, f"layers.{stage}.downsample", tokens)
            grid = [length // 2 for length in grid[:3]] + grid[3:]
    return tokens


def block_by_hand(w, tokens, grid, window, shifted, heads):
    """Tokens of one window and of one region attend to each other; between regions stands -100; padding takes part."""
    widths = [min(n, m) for n, m in zip(grid, window, strict=True)]
    steps = [m // 2 if shifted and n > m else 0 for n, m in zip(grid, window, strict=True)]
    padded = [math.ceil(n / m) * m for n, m in zip(grid, widths, strict=True)]
    C = len(w["norm1.weight"])
    windows = {}
    for place in itertools.product(*map(range, padded)):
        moved = [(p - s) % n for p, s, n in zip(place, steps, padded, strict=True)]
        which = tuple(p // m for p, m in zip(moved, widths, strict=True))
        # Behind the roll the last window of an axis holds its end, up to `s` before the last place, and its beginning.
        region = tuple(
            0 if s == 0 or p < n - m else 1 if p < n - s else 2
            for p, s, n, m in zip(moved, steps, padded, widths, strict=True)
        )
        inside = norm(tokens[place], w["norm1.weight"], w["norm1.bias"]) if place in tokens else torch.zeros(C).double()
        windows.setdefault(which, []).append((place, region, w["attn.qkv.weight"] @ inside + w["attn.qkv.bias"]))
    added = {}
    for members in windows.values():
        qkv = torch.stack([each for _, _, each in members])
        far = torch.tensor([[a != b for _, b, _ in members] for _, a, _ in members])
        width, mixed = C // heads, []
        for head in range(heads):
            q, k, v = (qkv[:, part * C + head * width : part * C + (head + 1) * width] for part in range(3))
            scores = q @ k.T / math.sqrt(width) - 100.0 * far
            mixed.append(torch.softmax(scores, dim=-1) @ v)
        for (place, _, _), row in zip(members, torch.cat(mixed, dim=1), strict=True):
            added[place] = w["attn.proj.weight"] @ row + w["attn.proj.bias"]
    result = {}
    for place, token in tokens.items():
        token = token + added[place]
        hidden = w["mlp.linear1.weight"] @ norm(token, w["norm2.weight"], w["norm2.bias"]) + w["mlp.linear1.bias"]
        result[place] = token + w["mlp.linear2.weight"] @ gelu(hidden) + w["mlp.linear2.bias"]
    return result


def merged_by_hand(w, name, tokens):
    result = {}
    for h, v, d, t in tokens:
        if h % 2 == v % 2 == d % 2 == 0:
            cube = [tokens[h + i, v + j, d + k, t] for i in (0, 1) for j in (0, 1) for k in (0, 1)]
            joined = norm(torch.cat(cube), w[f"{name}.norm.weight"], w[f"{name}.norm.bias"])
            result[h // 2, v // 2, d // 2, t] = w[f"{name}.reduction.weight"] @ joined
    return result


@pytest.mark.parametrize("name", CASES)
def test_it_is_the_formula(name):
    case = CASES[name]
    network, x = build(case), sequences(case)
    with torch.no_grad():
        maps = network(x)
        expected = by_hand(network.state_dict(), case, x[0])
    assert len(expected) == maps[0, 0].numel()
    for place, token in expected.items():
        assert_close(maps[(0, slice(None), *place)], token, **EXACT)


def test_the_published_configuration_has_the_published_size_and_names():
    network = SwiFT(**CONFIGS["hcp"])
    assert sum(parameter.numel() for parameter in network.parameters()) == 4_315_212
    names = set(network.state_dict())
    block = ("norm1", "attn.qkv", "attn.proj", "norm2", "mlp.linear1", "mlp.linear2")
    expected = {f"patch_embed.fc.{part}" for part in ("weight", "bias")} | {"norm.weight", "norm.bias"}
    expected |= {f"pos_embeds.{i}.{part}" for i in range(4) for part in ("pos_embed", "time_embed")}
    for stage, depth in enumerate((2, 2, 6, 2)):
        expected |= {
            f"layers.{stage}.blocks.{i}.{module}.{part}"
            for i in range(depth) for module in block for part in ("weight", "bias")
        }  # fmt: skip
    for stage in range(3):
        expected |= {f"layers.{stage}.downsample.{part}" for part in ("reduction.weight", "norm.weight", "norm.bias")}
    assert names == expected
    shapes = {name: tuple(tensor.shape) for name, tensor in network.state_dict().items()}
    assert shapes["patch_embed.fc.weight"] == (36, 216) and shapes["pos_embeds.0.pos_embed"] == (1, 36, 16, 16, 16, 1)
    assert shapes["pos_embeds.3.time_embed"] == (1, 288, 1, 1, 1, 20)
    assert shapes["layers.2.downsample.reduction.weight"] == (288, 8 * 144)


@pytest.mark.parametrize("name", ["padded", "three_stages"])
def test_samples_are_alone_in_a_batch(name):
    network, x = build(CASES[name]), sequences(CASES[name], batch=3)
    with torch.no_grad():
        together = network(x)
        for row in range(3):
            assert_close(network(x[row : row + 1])[0], together[row], **EXACT)
        assert torch.equal(network(x), together)
        assert_close(network.train()(x), together, **EXACT)  # it has no dropout


def test_time_windows_see_nothing_of_each_other_where_nothing_shifts():
    """With one block in each stage no window is shifted: volumes of other windows in time change nothing."""
    case = {**CASES["fits"], "img_size": (8, 8, 8, 4), "frames": 4, "depths": (1, 1)}
    network, x = build(case), sequences(case)
    other = x.clone()
    other[..., 2:] += 1.0
    with torch.no_grad():
        before, after = network(x), network(other)
    assert torch.equal(before[..., :2], after[..., :2]) and not torch.equal(before[..., 2:], after[..., 2:])


def test_every_parameter_but_the_unused_norm_learns():
    case = CASES["padded"]
    network = build(case).requires_grad_(True)
    network(sequences(case, batch=2)).square().sum().backward()
    still = [name for name, p in network.named_parameters() if p.grad is None or not p.grad.abs().sum() > 0]
    assert still == ["norm.weight", "norm.bias"]


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"img_size": (8, 8, 8)}, "img_size .* four positive numbers"),
        ({"window": (2, 2, 0, 2)}, "window_size"),
        ({"patch": (2, 2, 2, 2)}, "one volume long"),
        ({"img_size": (8, 8, 6, 3)}, r"multiple of \[4, 4, 4\]"),
        ({"depths": (2,)}, "two stages or more"),
        ({"num_heads": (1, 3)}, "3 heads do not divide a width of 8"),
    ],
)
def test_numbers_that_do_not_go_together_are_refused(change, said):
    with pytest.raises(ConfigError, match=said):
        build({**CASES["fits"], **change})


@pytest.mark.parametrize("shape", [(1, 1, 8, 8, 8, 4), (1, 2, 8, 8, 8, 3), (1, 1, 8, 8, 4, 3), (1, 8, 8, 8, 3)])
def test_sequences_of_another_shape_are_refused(shape):
    with pytest.raises(ConfigError, match=r"SwiFT takes \[B, 1, 8, 8, 8, 1 to 3\]"):
        build(CASES["fits"])(torch.zeros(shape).double())
