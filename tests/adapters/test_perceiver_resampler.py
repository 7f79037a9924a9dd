"""The resampler against its formula and against transformers' Idefics, its checkpoints, its invariances."""

from __future__ import annotations

import math

import pytest
import tiny_encoders as tiny
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.testing import assert_close

from medgraft.adapters.perceiver_resampler import PerceiverResampler, PerceiverResamplerAdapter
from medgraft.errors import CheckpointError, ConfigError
from medgraft.grafting import graft

pytestmark = pytest.mark.usefixtures("seeded")
EXACT = {"rtol": 1e-9, "atol": 1e-9}


def build(dim=12, **options) -> PerceiverResampler:
    """In float64, with norms and embeddings off their initial values, which would hide a forgotten one."""
    sizes = {"depth": 2, "head_dim": 5, "heads": 3, "num_latents": 4} | options
    resampler = PerceiverResampler(dim, **sizes).double()
    stir(resampler)
    return resampler


def stir(module, seed=3):
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.add_(0.3 * torch.randn(parameter.shape, generator=generator, dtype=parameter.dtype))


def tokens(*shape, seed=1):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def norm(x, weight, bias):
    centred = x - x.mean(-1, keepdim=True)
    return centred / torch.sqrt(centred.pow(2).mean(-1, keepdim=True) + 1e-5) * weight + bias


ACTS = {
    "gelu": lambda u: 0.5 * u * (1 + torch.erf(u / math.sqrt(2))),
    "relu": lambda u: u * (u > 0),
    "squared_relu": lambda u: (u * (u > 0)) ** 2,
}


def by_hand(state, x, heads, act="gelu", mask=None):
    """One media item and one head at a time, from the published tensors alone."""
    B, T, F = x.shape[:3]
    depth = 1 + max(int(key.split(".")[1]) for key in state if key.startswith("layers."))
    out = torch.empty(B, T, *state["latents"].shape, dtype=x.dtype)
    for b in range(B):
        for t in range(T):
            frames = [x[b, t, f] + (state["frame_embs"][f] if "frame_embs" in state else 0) for f in range(F)]
            media = torch.cat(frames)
            if "media_time_embs" in state:
                media = media + state["media_time_embs"][t, 0]
            if mask is not None:
                media = media[mask[b, t].reshape(-1)]
            z0 = state["latents"]
            for i in range(depth):
                w = {k.removeprefix(f"layers.{i}."): v for k, v in state.items() if k.startswith(f"layers.{i}.")}
                m = norm(media, w["0.norm_media.weight"], w["0.norm_media.bias"])
                z = norm(z0, w["0.norm_latents.weight"], w["0.norm_latents.bias"])
                both = torch.vstack([m, z])
                inner = len(w["0.to_q.weight"])
                d = inner // heads
                read = torch.zeros(len(z0), inner, dtype=x.dtype)
                for h in range(heads):
                    rows = slice(h * d, (h + 1) * d)
                    q = torch.einsum("nc,dc->nd", z, w["0.to_q.weight"][rows])
                    k = torch.einsum("nc,dc->nd", both, w["0.to_kv.weight"][:inner][rows])
                    v = torch.einsum("nc,dc->nd", both, w["0.to_kv.weight"][inner:][rows])
                    weights = torch.exp(torch.einsum("id,jd->ij", q, k) / math.sqrt(d))
                    read[:, rows] = torch.einsum("ij,jd->id", weights / weights.sum(1, keepdim=True), v)
                z0 = z0 + torch.einsum("ni,ci->nc", read, w["0.to_out.weight"])
                u = torch.einsum("nc,uc->nu", norm(z0, w["1.0.weight"], w["1.0.bias"]), w["1.1.weight"])
                z0 = z0 + torch.einsum("nu,cu->nc", ACTS[act](u), w["1.3.weight"])
            out[b, t] = norm(z0, state["norm.weight"], state["norm.bias"])
    return out


# -- the formula ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("act", ACTS)
@pytest.mark.parametrize("embeddings", [{}, {"max_media": 3}, {"max_frames": 3}, {"max_media": 3, "max_frames": 4}])
def test_it_computes_the_published_formula(act, embeddings):
    resampler = build(activation=act, **embeddings)
    x = tokens(2, 3, 2, 5, 12)
    assert_close(resampler(x), by_hand(resampler.state_dict(), x, heads=3, act=act), **EXACT)


@settings(max_examples=20, deadline=None)
@given(
    shape=st.tuples(*(st.integers(1, 3) for _ in range(4))),
    dim=st.integers(2, 9),
    heads=st.integers(1, 4),
    head_dim=st.integers(1, 6),
    latents=st.integers(1, 5),
    mult=st.sampled_from([1, 2, 4]),
)
def test_it_computes_the_formula_at_any_shape(shape, dim, heads, head_dim, latents, mult):
    resampler = build(dim, depth=1, heads=heads, head_dim=head_dim, num_latents=latents, ff_mult=mult)
    x = tokens(*shape, dim)
    found = resampler(x)
    assert found.shape == (*shape[:2], latents, dim)
    assert_close(found, by_hand(resampler.state_dict(), x, heads), **EXACT)


def test_the_defaults_are_the_published_ones():
    resampler = PerceiverResampler(32)
    assert len(resampler.layers) == 6 and resampler.latents.shape == (64, 32)
    assert resampler.layers[0][0].to_kv.weight.shape == (2 * 8 * 64, 32)
    assert resampler.layers[0][1][1].weight.shape == (128, 32)
    D, n, hd, m = 32, 64, 512, 4
    expected = n * D + 6 * (2 * D * hd + 2 * D * hd + 4 * D + 2 * D + 2 * m * D**2) + 2 * D
    assert sum(p.numel() for p in resampler.parameters()) == expected


def test_gradients_are_those_of_the_formula():
    resampler = build(6, depth=1, heads=2, head_dim=3, num_latents=2, max_frames=2)
    x = tokens(1, 2, 2, 2, 6).requires_grad_()
    names, values = zip(*resampler.named_parameters(), strict=True)

    def run(media, *parameters):
        return torch.func.functional_call(resampler, dict(zip(names, parameters, strict=True)), (media,))

    assert torch.autograd.gradcheck(run, (x, *(v.detach().requires_grad_() for v in values)))


def test_more_frames_than_embeddings_interpolate_them():
    resampler = build(max_frames=2)
    x = tokens(1, 1, 3, 2, 12)
    first, last = resampler.frame_embs.detach()
    state = resampler.state_dict() | {"frame_embs": torch.stack([first, (first + last) / 2, last])}
    assert_close(resampler(x), by_hand(state, x, heads=3), **EXACT)


# -- what changes nothing ---------------------------------------------------------------------------------------------


def test_the_order_of_tokens_within_an_item_means_nothing():
    resampler, x = build(), tokens(2, 2, 1, 7, 12)
    assert_close(resampler(x[:, :, :, torch.randperm(7)]), resampler(x), **EXACT)


def test_frame_embeddings_tell_frames_apart():
    resampler, x = build(max_frames=2), tokens(2, 1, 2, 3, 12)
    assert not torch.allclose(resampler(x.flip(2)), resampler(x), atol=1e-3)


def test_a_media_items_latents_depend_on_it_alone():
    resampler, x = build(), tokens(1, 3, 2, 4, 12).requires_grad_()
    resampler(x)[:, 1].square().sum().backward()
    assert x.grad[:, 1].abs().sum() > 0
    assert not x.grad[:, 0].any() and not x.grad[:, 2].any()


@settings(max_examples=20, deadline=None)
@given(real=st.lists(st.booleans(), min_size=8, max_size=8), junk=st.sampled_from([0.0, 1e3, -1e6]))
def test_masked_tokens_change_nothing(real, junk):
    resampler, mask = build(), torch.tensor(real).view(1, 1, 2, 4)
    x = tokens(1, 1, 2, 4, 12)
    spoilt = torch.where(mask[..., None], x, junk)
    assert_close(resampler(spoilt, mask), by_hand(resampler.state_dict(), x, heads=3, mask=mask), **EXACT)


def test_a_mask_without_padding_is_no_mask():
    resampler, x = build(), tokens(2, 2, 1, 5, 12)
    assert_close(resampler(x, torch.ones(2, 2, 1, 5, dtype=torch.bool)), resampler(x), **EXACT)


def test_half_precision_stays_close():
    resampler = build().float()
    x = tokens(2, 1, 1, 9, 12).float()
    with torch.autocast("cpu", torch.bfloat16):
        half = resampler(x)
    assert torch.linalg.vector_norm(half.float() - resampler(x)) < 0.05 * torch.linalg.vector_norm(half.float())


# -- checkpoints ------------------------------------------------------------------------------------------------------

LAYER = [
    *(f"0.{name}" for name in ("norm_media.weight", "norm_media.bias", "norm_latents.weight", "norm_latents.bias")),
    *(f"0.{name}.weight" for name in ("to_q", "to_kv", "to_out")),
    *("1.0.weight", "1.0.bias", "1.1.weight", "1.3.weight"),
]
KEYS = ["latents", *(f"layers.{i}.{key}" for i in (0, 1) for key in LAYER), "norm.weight", "norm.bias"]


def published(dim=12, depth=2, inner=15, latents=4, **extra):
    shapes = {"latents": (latents, dim), "norm.weight": (dim,), "norm.bias": (dim,)} | extra
    matrices = {
        "to_q": (inner, dim),
        "to_kv": (2 * inner, dim),
        "to_out": (dim, inner),
        "1.1": (4 * dim, dim),
        "1.3": (dim, 4 * dim),
    }
    for i in range(depth):
        for key in LAYER:
            end = key.removesuffix(".weight").removeprefix("0.")
            shapes[f"layers.{i}.{key}"] = matrices.get(end, (dim,))
    return {key: tokens(*shape, seed=n) for n, (key, shape) in enumerate(shapes.items())}


def test_the_state_dict_has_the_published_keys():
    assert sorted(build().state_dict()) == sorted(KEYS)
    more = build(max_media=2, max_frames=3).state_dict()
    assert more["media_time_embs"].shape == (2, 1, 12) and more["frame_embs"].shape == (3, 12)


@pytest.mark.parametrize("prefix", ["", "perceiver.", "module.perceiver.", "model.vision.resampler."])
def test_openflamingo_weights_load_under_any_prefix(prefix):
    state = published()
    others = {"lang_encoder.wte.weight": tokens(2, 2)} if prefix else {}
    resampler = build()
    left = resampler.load_openflamingo({f"{prefix}{k}": v for k, v in state.items()} | others)
    assert left == list(others)
    assert all(torch.equal(value, state[key]) for key, value in resampler.state_dict().items())


def test_a_training_checkpoint_is_opened():
    state = published()
    resampler = build()
    assert (
        resampler.load_openflamingo({"epoch": 3, "model_state_dict": {f"module.{k}": v for k, v in state.items()}})
        == []
    )
    assert torch.equal(resampler.latents, state["latents"])


def test_one_of_several_resamplers_is_chosen_by_prefix():
    first, second = published(), {k: v + 1 for k, v in published().items()}
    both = {f"a.perceiver.{k}": v for k, v in first.items()} | {f"b.perceiver.{k}": v for k, v in second.items()}
    resampler = build()
    with pytest.raises(CheckpointError, match=r"2 modules with 'latents'.*prefix="):
        resampler.load_openflamingo(both)
    left = resampler.load_openflamingo(both, prefix="b.perceiver")
    assert torch.equal(resampler.latents, second["latents"]) and all(key.startswith("a.") for key in left)
    with pytest.raises(CheckpointError, match="no key that ends in 'latents' under 'c'"):
        resampler.load_openflamingo(both, prefix="c")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda s: s.pop("norm.bias"), "missing: norm.bias"),
        (lambda s: s.update(extra=torch.zeros(1)), "unexpected: extra"),
        (lambda s: s.update(frame_embs=torch.zeros(8, 12)), r"unexpected: frame_embs.*max_frames=8"),
        (lambda s: s.update(latents=torch.zeros(9, 12)), r"latents is \(9, 12\).*num_latents=9"),
        (lambda s: s.pop("latents"), "no key that ends in 'latents'"),
        (lambda s: s.update(step=3), "more than tensors, for example 'step'"),
    ],
)
def test_a_checkpoint_that_does_not_fit_says_why_and_changes_nothing(change, message):
    state, resampler = published(), build()
    before = {key: value.clone() for key, value in resampler.state_dict().items()}
    change(state)
    with pytest.raises(CheckpointError, match=message):
        resampler.load_openflamingo(state)
    assert all(torch.equal(before[key], value) for key, value in resampler.state_dict().items())


@pytest.mark.parametrize("qk_norm", [False, True])
def test_idefics_weights_give_the_numbers_of_transformers(qk_norm):
    from transformers import IdeficsConfig
    from transformers.models.idefics.perceiver import IdeficsPerceiverResampler

    config = IdeficsConfig(
        vision_config={"embed_dim": 12}, perceiver_config={"qk_layer_norms_perceiver": qk_norm, "use_resampler": True}
    )
    theirs = IdeficsPerceiverResampler(config, 12, depth=2, n_heads=3, head_dim=5, n_latents=4).double()
    stir(theirs)
    ours = build(qk_norm=qk_norm)
    state = {f"model.perceiver_resampler.{key}": value for key, value in theirs.state_dict().items()}
    assert ours.load_idefics(state | {"lm_head.weight": tokens(2, 2)}) == ["lm_head.weight"]
    x = tokens(3, 1, 1, 6, 12)
    assert_close(ours(x)[:, 0], theirs(x[:, 0, 0]), **EXACT)
    if not qk_norm:
        assert_close(ours(x), by_hand(ours.state_dict(), x, heads=3, act="relu"), **EXACT)


def test_idefics_weights_need_the_norms_that_they_have():
    from transformers import IdeficsConfig
    from transformers.models.idefics.perceiver import IdeficsPerceiverResampler

    config = IdeficsConfig(vision_config={"embed_dim": 12}, perceiver_config={"qk_layer_norms_perceiver": True})
    theirs = IdeficsPerceiverResampler(config, 12, depth=2, n_heads=3, head_dim=5, n_latents=4)
    with pytest.raises(CheckpointError, match=r"unexpected: layers.0.0.k_norm.*qk_norm=True"):
        build().load_idefics(theirs.state_dict())


@pytest.mark.parametrize("size", ["dim", "head_dim", "heads", "num_latents", "max_media", "max_frames"])
def test_a_size_of_zero_is_an_error_that_names_it(size):
    with pytest.raises(ConfigError, match=f"{size} is 0"):
        PerceiverResampler(**{"dim": 8, size: 0})


@pytest.mark.parametrize("shape", [(2, 1, 0, 5), (2, 1, 3, 0), (0, 1, 3, 5), (2, 0, 3, 5)])
def test_without_a_token_the_latents_read_themselves(shape):
    resampler = PerceiverResampler(8, depth=2, head_dim=4, heads=2, num_latents=3, max_frames=2)
    found = resampler(torch.randn(*shape, 8))
    assert found.shape == (*shape[:2], 3, 8)
    padded = torch.randn(*shape[:2], 4, 5, 8)
    wanted = resampler(padded, torch.zeros(padded.shape[:-1], dtype=torch.bool))
    torch.testing.assert_close(found, wanted)  # as where all tokens are padding


def test_wrong_shapes_are_errors_that_name_them():
    resampler = build(max_media=2)
    with pytest.raises(ConfigError, match=r"takes \[B, T, F, N, 12\], got \[1, 4, 12\]"):
        resampler(tokens(1, 4, 12))
    with pytest.raises(ConfigError, match="3 media items, but max_media is 2"):
        resampler(tokens(1, 3, 1, 4, 12))
    with pytest.raises(ConfigError, match=r"must be \[1, 1, 1, 4\], got \[1, 4\]"):
        resampler(tokens(1, 1, 1, 4, 12), torch.ones(1, 4, dtype=torch.bool))


# -- the adapter ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("pooling", ["mean", "first"])
def test_the_adapter_resamples_the_patch_tokens(pooling):
    encoder = tiny.shared("timm")
    x = tiny.batch(encoder)["image"]
    grafted = graft(encoder, "perceiver_resampler", depth=1, num_latents=3, pooling=pooling)
    adapter = grafted.adapters["perceiver_resampler"]
    with torch.no_grad():
        features = grafted(x)
        plain = grafted.ungraft()(x)
        latents = adapter.resampler["image"](plain.tokens[:, None, None, 1:])[:, 0]
    assert features.n_prefix == 0 and features.grid == (3,)
    assert_close(features.tokens, latents)
    assert_close(features.pooled, latents.mean(1) if pooling == "mean" else latents[:, 0])


def test_slices_of_a_volume_are_told_apart_by_frame_embeddings():
    encoder = tiny.shared("brain")
    depth = encoder.towers()["volume"](tiny.batch(encoder)["volume"]).grid[0]
    grafted = graft(encoder, "perceiver_resampler", depth=1, num_latents=2, max_frames=depth)
    assert grafted.adapters["perceiver_resampler"].resampler["volume"].frame_embs.shape[0] == depth
    with torch.no_grad():
        assert grafted(tiny.batch(encoder)["volume"]).tokens.shape[1] == 2
    grafted.ungraft()


def test_padding_of_a_text_does_not_reach_the_latents():
    encoder = tiny.shared("brain")
    ids = tiny.batch(encoder)["text"]
    grafted = graft(encoder, "perceiver_resampler", depth=1, num_latents=2, modality="text")
    tower = encoder.towers()["text"]
    with torch.no_grad():
        features = tower(ids)
        grafted.ungraft()
        plain = tower(ids)
    assert plain.mask is not None and not plain.mask.all()
    resampler = grafted.adapters["perceiver_resampler"].resampler["text"]
    short = plain.tokens[:, 1 : int(plain.mask.sum(1).max())]
    with torch.no_grad():
        assert_close(features.tokens, resampler(short[:, None, None])[:, 0], rtol=1e-4, atol=1e-5)


def test_it_refuses_what_it_cannot_read():
    adapter = PerceiverResamplerAdapter(PerceiverResamplerAdapter.Config(modality="text"))
    assert "no text tower" in adapter.supports(tiny.shared("timm")).reason
    assert "single values" in PerceiverResamplerAdapter().supports(tiny.shared("pixels_2d")).reason
