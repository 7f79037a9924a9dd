"""Maps find what was planted, are those of the graft and not of its encoder, and change with the weights."""

from __future__ import annotations

import sys
from typing import Any

import numpy as np
import pytest
import tiny_encoders
import torch
from planted import SIDE, SpotCnn, SpotViT, grafted, objective, scorer, spot
from scipy.stats import spearmanr
from torch import nn

from medgraft.benchmarks.explain.gradcam import gradcam
from medgraft.benchmarks.explain.maps import METHODS, explain
from medgraft.benchmarks.explain.occlusion import fill_value, occlusion, windows
from medgraft.benchmarks.explain.rollout import rollout, without_prompts
from medgraft.benchmarks.explain.scorer import Scorer
from medgraft.errors import ConfigError, UnknownNameError
from medgraft.grafting import Grafted

CLASSES = ("none", "spot")


def raw_of(encoder: Any, seed: int = 0) -> np.ndarray:
    """A picture for an encoder: smooth noise, so that places differ."""
    axes = len(encoder.spec.input_size)
    coarse = np.random.default_rng(seed).uniform(0, 250, (5,) * axes)
    for axis in range(axes):
        coarse = coarse.repeat(8, axis)
    return coarse.astype(np.uint8 if axes == 2 else np.float32)


@pytest.mark.parametrize("axes", [2, 3])
@pytest.mark.parametrize(
    ("kind", "method"),
    [(SpotCnn, "gradcam"), (SpotCnn, "occlusion"), (SpotViT, "rollout"), (SpotViT, "gradcam"), (SpotViT, "occlusion")],
)
@pytest.mark.parametrize("at", [1, 9])
def test_a_planted_spot_is_found(kind, method, axes, at):
    found = explain(scorer(grafted(kind(axes))), spot(axes, at), method, CLASSES, "spot")
    assert found.heat.shape == (SIDE,) * axes and found.target == "spot" and found.whole
    middle = np.array(np.unravel_index(found.heat.argmax(), found.heat.shape))
    assert np.abs(middle - (at + 1)).max() <= 3, middle  # a patch is 4 wide, a window 3
    inside = (slice(max(0, at - 2), at + 5),) * axes
    outside = found.heat.sum() - found.heat[inside].sum()
    assert found.heat[inside].mean() > 2 * abs(outside) / (found.heat.size - found.heat[inside].size)


@pytest.mark.parametrize("axes", [2, 3])
def test_occlusion_is_the_loop_by_hand(axes):
    made = scorer(grafted(SpotCnn(axes)))
    x = torch.as_tensor(made.tower.prepare(spot(axes, 5)))[None]
    window, stride = (5,) * axes, (3,) * axes
    lost, covered = torch.zeros(x.shape[2:]).double(), torch.zeros(x.shape[2:])
    steps = -(-(SIDE - 5) // 3) + 1  # the last window may go over the edge
    with torch.no_grad():
        whole = made.evidence(x)[0, 1]
        for place in np.ndindex((steps,) * axes):
            inside = (0, 0, *(slice(3 * k, 3 * k + 5) for k in place))
            hidden = x.clone()
            hidden[inside] = x.mean()
            lost[inside[2:]] += whole - made.evidence(hidden)[0, 1]
            covered[inside[2:]] += 1
    torch.testing.assert_close(occlusion(made, x, 1, window, stride), (lost / covered).float(), rtol=1e-4, atol=1e-5)


def test_evidence_is_the_log_odds_and_does_not_saturate():
    made = scorer(grafted(SpotCnn(2)))
    x = torch.as_tensor(made.tower.prepare(spot(2)))[None]
    with torch.no_grad():
        p = torch.softmax(made(x).double(), dim=-1)
        torch.testing.assert_close(made.evidence(x), torch.log(p / (1 - p)))
        head: Any = made.grafted.head
        head.linear.weight *= 800  # p is 1 in single precision
        assert float(torch.softmax(made(x), dim=-1)[0, 1]) == 1.0
    assert float(occlusion(made, x, 1).max()) > 1


def test_rollout_is_the_papers_product():
    """Attention of torch's own modules, averaged over heads, half of it and half identity, multiplied up."""
    encoder: Any = tiny_encoders.MhaViT(depth=3).freeze()
    x = torch.randn(1, 1, 16, 16, generator=torch.Generator().manual_seed(2))
    tokens, joint = encoder.prefix(x, 1), torch.eye(17)
    for block in encoder.blocks:
        h = block.norm1(tokens)
        weights = block.attn(h, h, h, need_weights=True)[1][0]
        joint = (weights + torch.eye(17)) / 2 @ joint
        tokens = block(tokens)
    torch.testing.assert_close(rollout(scorer(grafted(encoder)), x, 0).flatten(), joint[0, 1:], rtol=1e-4, atol=1e-6)
    assert float(joint.sum(dim=1).sub(1).abs().max()) < 1e-5


def test_prompt_tokens_are_left_out_of_a_rollout():
    weights = torch.softmax(torch.randn(7, 7, generator=torch.Generator().manual_seed(0)), dim=-1)
    kept = without_prompts(weights, 5, 1)
    index = [0, 3, 4, 5, 6]
    torch.testing.assert_close(kept, weights[index][:, index] / weights[index][:, index].sum(1, keepdim=True))
    made = scorer(grafted(tiny_encoders.fresh("timm"), "vpt", seed=1))
    assert rollout(made, torch.randn(1, 3, 64, 64), 0).shape == (4, 4)


def shaken(made: Grafted, seed: int = 5) -> Grafted:
    """Every trained value of the adapters drawn anew."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for _, adapter in made.named_adapters():
            for parameter in adapter.parameters():
                parameter.copy_(torch.randn(parameter.shape, generator=generator) * 0.3)
    return made


@pytest.mark.parametrize("method", METHODS)
def test_maps_are_of_the_graft_and_not_of_its_encoder(method):
    """LoRA folded into the weights gives the map of the graft, and another one than the bare encoder's."""
    encoder = tiny_encoders.fresh("timm")
    raw = raw_of(encoder)
    bare = explain(scorer(grafted(encoder, "linear_probe", seed=1)), raw, method, CLASSES, "spot").heat
    made = shaken(grafted(tiny_encoders.fresh("timm"), "lora", seed=1))
    hooked = explain(scorer(made), raw, method, CLASSES, "spot").heat
    made.merge()
    folded = explain(scorer(made), raw, method, CLASSES, "spot").heat
    np.testing.assert_allclose(hooked, folded, rtol=1e-2, atol=1e-3 * np.abs(hooked).max())
    assert np.abs(hooked - bare).max() > 0.05 * np.abs(bare).max()


def redrawn(made: Grafted) -> Grafted:
    """Every weight of encoder and head drawn anew, as in Adebayo et al., "Sanity Checks for Saliency Maps", 2018."""
    generator = torch.Generator().manual_seed(11)
    with torch.no_grad():
        for parameter in [*made.encoder.parameters(), *(made.head or nn.Identity()).parameters()]:
            if parameter.dim() > 1:
                spread = parameter.std().clamp(min=0.02)
                parameter.copy_(torch.randn(parameter.shape, generator=generator) * spread)
    return made


@pytest.mark.parametrize(
    ("name", "method"),
    [
        *[("timm", method) for method in METHODS],
        ("timm_cnn", "gradcam"),
        ("hf_vit", "rollout"),
        ("hf_vit", "gradcam"),
    ],
)
def test_randomised_weights_change_the_map(name, method):
    raw = raw_of(tiny_encoders.shared(name))
    maps = []
    for change in (lambda made: made, lambda made: made, redrawn):
        made = change(grafted(tiny_encoders.fresh(name), seed=1))
        maps.append(explain(scorer(made), raw, method, CLASSES, "spot").heat.ravel())
    np.testing.assert_array_equal(maps[0], maps[1])
    alike: Any = spearmanr(maps[0], maps[2])
    assert maps[0].std() > 0 and alike.statistic < 0.5


def test_classes_have_maps_of_their_own_except_by_rollout():
    made = scorer(grafted(tiny_encoders.fresh("timm"), seed=1))
    raw = raw_of(made.tower)
    for method, info in METHODS.items():
        first, second = (explain(made, raw, method, CLASSES, name) for name in CLASSES)
        assert (first.target, second.target) == CLASSES and first.score + second.score == pytest.approx(1)
        assert np.array_equal(first.heat, second.heat) != info.of_class
        assert explain(made, raw, method, CLASSES).target == max((first, second), key=lambda each: each.score).target


def test_gradcam_looks_before_the_last_block_of_a_tower_read_at_its_cls():
    """Equal to the formula on the input of the last block: channels' mean gradient times values, positive part."""
    encoder: Any = tiny_encoders.MhaViT(depth=2).freeze()
    made = scorer(grafted(encoder, seed=1))
    x = torch.randn(1, 1, 16, 16, generator=torch.Generator().manual_seed(3))
    head: Any = made.grafted.head
    hidden = encoder.prefix(x, 2).requires_grad_()
    pooled = encoder.encode(hidden, start=2).pooled
    (gradient,) = torch.autograd.grad(head(pooled)[0, 1], hidden)
    expected = (gradient[:, 1:].mean(dim=1, keepdim=True) * hidden[:, 1:]).sum(dim=-1).relu().view(4, 4)
    torch.testing.assert_close(gradcam(made, x, 1), expected.detach(), rtol=1e-4, atol=1e-7)


def test_a_text_beside_the_image_stays_as_it_is():
    encoder = tiny_encoders.fresh("chest")
    made = grafted(encoder)
    two = objective("image")
    two.inputs = ("image", "text")
    made.head = nn.Linear(192 + 128, 2)
    tower: Any = encoder.towers()["text"]
    ids = tower.tokenize(["word1 word2"])
    both = Scorer(made, two, None, "image", {"text": ids})
    x = torch.randn(3, 1, 128, 128)
    with torch.no_grad():
        separate = made.encode({"image": x, "text": ids.expand(3, -1)})
        torch.testing.assert_close(both(x), made.head(torch.cat([separate[n].pooled for n in two.inputs], dim=-1)))
    assert explain(both, raw_of(made.towers()["image"]), "gradcam", CLASSES).heat.shape == (128, 128)


@pytest.mark.parametrize(
    ("name", "method", "problem"),
    [
        ("timm_cnn", "rollout", "rollout reads attention, and encoder .* has none; use gradcam or occlusion"),
        ("pixels_2d", "gradcam", "needs a layer with places .* has none; use occlusion"),
        ("chest", "gradcamm", "unknown method of explanation 'gradcamm'; did you mean gradcam"),
    ],
)
def test_methods_that_do_not_apply(name, method, problem):
    made = scorer(grafted(tiny_encoders.fresh(name)))
    with pytest.raises(ConfigError, match=problem):
        explain(made, raw_of(made.tower), method, CLASSES)


def test_classes_that_do_not_exist():
    made = scorer(grafted(SpotCnn(2)))
    with pytest.raises(UnknownNameError, match="unknown class of the graft 'spott'; did you mean spot"):
        explain(made, spot(2), "gradcam", CLASSES, "spott")
    with pytest.raises(ConfigError, match="the graft predicts a number"):
        explain(made, spot(2), "gradcam", (), "spot")


def test_windows_without_gaps():
    assert windows((128, 128)) == (16, 16) and windows((3, 80, 5)) == (1, 14, 1)
    made = scorer(grafted(SpotCnn(2)))
    x = torch.zeros(1, 1, SIDE, SIDE)
    for window, stride in [((40, 4), None), ((4, 4), (5, 5)), ((4,), None)]:
        with pytest.raises(ConfigError, match=r"does not fit|leave gaps"):
            occlusion(made, x, 1, window, stride)
    x[0, 0, 0] = float("nan")  # padding
    assert float(fill_value(x + 1)[0, 0, 3, 3]) == 1


@pytest.mark.parametrize("method", ["gradcam", "occlusion"])
def test_without_captum_one_sentence(method, monkeypatch):
    monkeypatch.setitem(sys.modules, "captum", None)
    monkeypatch.setitem(sys.modules, "captum.attr", None)
    with pytest.raises(ConfigError, match=r"need captum; install it with: pip install 'medgraft\[explain\]'"):
        explain(scorer(grafted(SpotCnn(2))), spot(2), method, CLASSES)
