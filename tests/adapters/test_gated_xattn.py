"""Gated cross-attention against its formula and against transformers' Idefics, its masks, text that reads images."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.testing import assert_close

from medgraft.adapters.gated_xattn import GatedCrossAttention
from medgraft.adapters.parts.cross_attention import IdeficsForm
from medgraft.errors import CheckpointError, ConfigError

pytestmark = pytest.mark.usefixtures("seeded")
EXACT = {"rtol": 1e-9, "atol": 1e-9}
D, M = 10, 6
KEYS = {
    "attn.norm.weight": (D,),
    "attn.norm.bias": (D,),
    "attn.to_q.weight": (12, D),
    "attn.to_kv.weight": (24, M),
    "attn.to_out.weight": (D, 12),
    "attn_gate": (1,),
    "ff.0.weight": (D,),
    "ff.0.bias": (D,),
    "ff.1.weight": (4 * D, D),
    "ff.3.weight": (D, 4 * D),
    "ff_gate": (1,),
}


def tokens(*shape, seed=1):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def published(seed=0):
    return {key: tokens(*shape, seed=seed + n) for n, (key, shape) in enumerate(KEYS.items())}


def build(opened=True, **options) -> GatedCrossAttention:
    block = GatedCrossAttention(D, M, head_dim=4, heads=3, **options).double()
    if opened:
        block.load_openflamingo(published())
    return block


def where(*rows):
    """Media locations, written as strings: ``"..i.i"``."""
    return torch.tensor([[letter == "i" for letter in row] for row in rows])


def norm(x, weight, bias):
    centred = x - x.mean()
    return centred / math.sqrt(centred.pow(2).mean() + 1e-5) * weight + bias


def read_by_hand(w, x, media, shown, heads=3):
    """What one text token reads: ``shown`` lists the indices of the media items that it sees."""
    if not shown:
        return torch.zeros_like(x)
    keys = torch.cat([media[item] for item in shown])
    inner = len(w["attn.to_q.weight"])
    d = inner // heads
    q = w["attn.to_q.weight"] @ norm(x, w["attn.norm.weight"], w["attn.norm.bias"])
    mixed = []
    for h in range(heads):
        rows = slice(h * d, (h + 1) * d)
        k = torch.einsum("nm,dm->nd", keys, w["attn.to_kv.weight"][:inner][rows])
        v = torch.einsum("nm,dm->nd", keys, w["attn.to_kv.weight"][inner:][rows])
        weights = torch.exp(torch.einsum("d,nd->n", q[rows], k) / math.sqrt(d))
        mixed.append(torch.einsum("n,nd->d", weights / weights.sum(), v))
    return w["attn.to_out.weight"] @ torch.cat(mixed)


def by_hand(w, x, media, shown):
    """Token by token; ``shown[b][t]`` as in :func:`read_by_hand`, or a ready-made vector."""
    out = torch.empty_like(x)
    for b in range(len(x)):
        for t in range(x.shape[1]):
            seen = shown[b][t]
            read = seen if torch.is_tensor(seen) else read_by_hand(w, x[b, t], media[b], seen)
            y = x[b, t] + torch.tanh(w["attn_gate"]) * read
            u = w["ff.1.weight"] @ norm(y, w["ff.0.weight"], w["ff.0.bias"])
            u = 0.5 * u * (1 + torch.erf(u / math.sqrt(2)))
            out[b, t] = y + torch.tanh(w["ff_gate"]) * (w["ff.3.weight"] @ u)
    return out


def uniform(w, media):
    """The mean over all items, which the published form reads where it masks a whole row."""
    return w["attn.to_out.weight"] @ (w["attn.to_kv.weight"][12:] @ media.flatten(0, 1).mean(0))


def seen(row, immediate=True):
    """Items that each text token sees, by counting."""
    shown, count = [], 0
    for letter in row:
        count += letter == "i"
        shown.append(([count - 1] if count else []) if immediate else list(range(count)))
    return shown


# -- the formula ------------------------------------------------------------------------------------------------------


def test_it_computes_the_published_formula():
    rows = ("..i.i..", "i....i.")
    x, media = tokens(2, 7, D), tokens(2, 2, 3, M, seed=2)
    assert_close(build()(x, media, where(*rows)), by_hand(published(), x, media, [seen(r) for r in rows]), **EXACT)


@settings(max_examples=25, deadline=None)
@given(row=st.text("i.", min_size=1, max_size=7), n=st.integers(1, 3), immediate=st.booleans(), extra=st.integers(0, 2))
def test_it_computes_the_formula_wherever_the_media_are(row, n, immediate, extra):
    x, media = tokens(1, len(row), D), tokens(1, max(1, row.count("i") + extra), n, M, seed=2)
    strict = build(immediate_only=immediate, strict=True)(x, media, where(row))
    assert_close(strict, by_hand(published(), x, media, [seen(row, immediate)]), **EXACT)
    if immediate:
        assert_close(build()(x, media, where(row)), strict, **EXACT)


def test_text_before_the_first_item_reads_the_mean_of_all_where_the_published_form_does():
    x, media, w = tokens(1, 5, D), tokens(1, 2, 3, M, seed=2), published()
    shown = seen("..i.i", immediate=False)
    shown[:2] = [uniform(w, media[0])] * 2
    assert_close(build(immediate_only=False)(x, media, where("..i.i")), by_hand(w, x, media, [shown]), **EXACT)


def test_text_after_more_locations_than_items_reads_the_mean_unless_strict():
    x, media, w = tokens(1, 3, D), tokens(1, 1, 3, M, seed=2), published()
    for strict, last in ((False, uniform(w, media[0])), (True, [])):
        found = build(strict=strict)(x, media, where("i.i"))
        assert_close(found, by_hand(w, x, media, [[[0], [0], last]]), **EXACT)


def test_gradients_are_those_of_the_formula():
    block = build()
    x, media = tokens(1, 3, D).requires_grad_(), tokens(1, 2, 2, M, seed=2).requires_grad_()
    names, values = zip(*block.named_parameters(), strict=True)

    def run(text, images, *parameters):
        state = dict(zip(names, parameters, strict=True))
        return torch.func.functional_call(block, state, (text, images, where(".ii")))

    assert torch.autograd.gradcheck(run, (x, media, *(v.detach().requires_grad_() for v in values)))


def test_half_precision_stays_close():
    block = build().float()
    x, media = tokens(2, 5, D).float(), tokens(2, 2, 3, M, seed=2).float()
    locations = where("..i.i", "i...i")
    full = block(x, media, locations)
    with torch.autocast("cpu", torch.bfloat16):
        half = block(x, media, locations).float()
    assert half.isfinite().all() and torch.linalg.vector_norm(half - full) < 0.05 * torch.linalg.vector_norm(full)


# -- gates ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("idefics", [None, IdeficsForm(16), IdeficsForm(16, gate="vector", qk_norm=True)])
def test_a_fresh_block_is_the_identity_and_only_its_gates_learn(idefics):
    block = build(opened=False, idefics=idefics)
    x, media = tokens(2, 5, D), tokens(2, 2, 3, M, seed=2).requires_grad_()
    out = block(x, media, where("..i.i", "i...i"))
    assert torch.equal(out, x)
    (out * tokens(2, 5, D, seed=4)).sum().backward()
    assert {k for k, p in block.named_parameters() if p.grad is not None and p.grad.any()} == {"attn_gate", "ff_gate"}
    assert not media.grad.any()


def test_the_first_gradient_of_the_attention_gate_is_what_the_text_reads():
    block = build()
    with torch.no_grad():
        block.attn_gate.zero_(), block.ff_gate.zero_()
    x, media, g = tokens(1, 3, D), tokens(1, 1, 3, M, seed=2), tokens(1, 3, D, seed=4)
    (block(x, media, where(".i.")) * g).sum().backward()
    read = torch.stack([read_by_hand(published(), x[0, t], media[0], s) for t, s in enumerate(seen(".i."))])
    assert_close(block.attn_gate.grad[0], (read * g[0]).sum(), **EXACT)


# -- masks ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("immediate", [True, False])
def test_later_items_do_not_reach_earlier_text(immediate):
    block = build(immediate_only=immediate, strict=True)
    x, media = tokens(1, 6, D), tokens(1, 2, 3, M, seed=2).requires_grad_()
    out = block(x, media, where(".i..i."))
    early = torch.autograd.grad(out[:, 1:4].sum(), media, retain_graph=True)[0]
    assert early[:, 0].any() and not early[:, 1].any()
    assert not torch.autograd.grad(out[:, 0].sum(), media, retain_graph=True)[0].any()
    late = torch.autograd.grad(out[:, 4:].sum(), media)[0]
    assert late[:, 1].any() and bool(late[:, 0].any()) != immediate


def test_the_order_of_tokens_within_an_item_means_nothing():
    x, media = tokens(1, 4, D), tokens(1, 2, 5, M, seed=2)
    locations = where("i.i.")
    assert_close(build()(x, media[:, :, torch.randperm(5)], locations), build()(x, media, locations), **EXACT)


@pytest.mark.parametrize("options", [{}, {"immediate_only": False}, {"immediate_only": False, "strict": True}])
def test_a_media_mask_without_padding_is_no_mask(options):
    block, x, media = build(**options), tokens(1, 5, D), tokens(1, 2, 3, M, seed=2)
    full = torch.ones(1, 2, 3, dtype=torch.bool)
    plain = block(x, media, where("..i.i"))
    assert_close(block(x, media, where("..i.i"), media_mask=full), plain, **EXACT)


@settings(max_examples=25, deadline=None)
@given(
    real=st.lists(st.integers(0, 3), min_size=2, max_size=2),
    junk=st.sampled_from([0.0, 1e4, -1e4]),
    immediate=st.booleans(),
)
def test_padded_media_change_nothing(real, junk, immediate):
    """As if the padding had been cut off, and text whose items are all padding reads nothing."""
    x, media, w = tokens(1, 5, D), tokens(1, 2, 3, M, seed=2), published()
    mask = torch.tensor([[[i < n for i in range(3)] for n in real]])
    cut = [[item[:n] for item, n in zip(media[0], real, strict=True)]]
    shown = [[i for i in row if real[i]] for row in seen(".i.i.", immediate)]
    block = build(immediate_only=immediate, strict=True)
    found = block(x, torch.where(mask[..., None], media, junk), where(".i.i."), media_mask=mask)
    assert_close(found, by_hand(w, x, cut, [shown]), **EXACT)
    everything = block(x, torch.where(mask[..., None], media, junk), use_cached_media=True, media_mask=mask)
    assert_close(everything, by_hand(w, x, cut, [[[i for i in (0, 1) if real[i]]] * 5]), **EXACT)


@settings(max_examples=15, deadline=None)
@given(row=st.text("i.", min_size=1, max_size=6), immediate=st.booleans(), new=st.integers(1, 3))
def test_cached_media_equal_uncached_ones(row, immediate, new):
    block = build(immediate_only=immediate)
    x, media = tokens(1, len(row) + new, D), tokens(1, max(1, row.count("i")), 2, M, seed=2)
    whole = block(x, media, where(row + "." * new))
    later = block(x[:, len(row) :], media, where(row), use_cached_media=True)
    assert_close(later, whole[:, len(row) :], **EXACT)


def test_without_locations_cached_media_are_all_seen():
    x, media = tokens(2, 3, D), tokens(2, 2, 3, M, seed=2)
    expected = by_hand(published(), x, media, [[[0, 1]] * 3] * 2)
    assert_close(build()(x, media, use_cached_media=True), expected, **EXACT)


def test_visible_says_what_each_token_sees():
    x, media = tokens(1, 3, D), tokens(1, 2, 3, M, seed=2)
    visible = torch.tensor([[[True, True], [False, True], [False, False]]])
    expected = by_hand(published(), x, media, [[[0, 1], [1], []]])
    assert_close(build()(x, media, visible=visible), expected, **EXACT)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"x": tokens(1, 4, 3)}, r"text must be \[B, L, 10\], got \[1, 4, 3\]"),
        ({"media": tokens(1, 2, M)}, r"media must be \[1, T, n, 6\]"),
        ({"media": tokens(3, 2, 3, M)}, r"media must be \[1, T, n, 6\], got \[3, 2, 3, 6\]"),
        ({"media_locations": where("i")}, r"media_locations must be \[1, 4\], got \[1, 1\]"),
        ({"media_locations": None}, "give media_locations or visible"),
        ({"visible": torch.ones(1, 4, 2)}, "without media_locations"),
        ({"media_mask": torch.ones(1, 2)}, r"media_mask must be \[1, 2, 3\]"),
    ],
)
def test_wrong_inputs_are_errors_that_name_them(change, message):
    inputs = {"x": tokens(1, 4, D), "media": tokens(1, 2, 3, M), "media_locations": where("i.i.")} | change
    with pytest.raises(ConfigError, match=message):
        build()(**inputs)


# -- checkpoints ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("sizes", [(0, 3), (2, 0), (0, 0)])
@pytest.mark.parametrize("options", [{"immediate_only": True}, {"immediate_only": False}, {"strict": True}])
def test_text_without_any_media_reads_nothing(sizes, options):
    block = GatedCrossAttention(8, 6, head_dim=4, heads=2, **options)
    with torch.no_grad():
        block.attn_gate.fill_(1.0)
    x, locations = torch.randn(1, 5, 8), torch.tensor([[False, True, False, True, False]])
    assert torch.equal(block(x, torch.randn(1, *sizes, 6), locations), x)


def test_the_state_dict_has_the_published_keys():
    assert {key: tuple(value.shape) for key, value in build().state_dict().items()} == KEYS


@pytest.mark.parametrize("prefix", ["", "module.", "module.lang_encoder.gated_cross_attn_layers.2."])
def test_openflamingo_weights_load_under_any_prefix(prefix):
    block, state = build(opened=False), published(seed=5)
    others = ["perceiver.latents"] if prefix else []
    whole = {f"{prefix}{key}": value for key, value in state.items()} | dict.fromkeys(others, tokens(1))
    assert block.load_openflamingo(whole) == [key for key in others if not key.startswith(prefix)]
    assert all(torch.equal(value, state[key]) for key, value in block.state_dict().items())


def test_one_block_of_a_model_is_chosen_by_prefix():
    layers = {f"lang_encoder.gated_cross_attn_layers.{i}.": published(seed=20 * i) for i in (1, 3, 13)}
    whole = {prefix + key: value for prefix, state in layers.items() for key, value in state.items()}
    block = build(opened=False)
    with pytest.raises(CheckpointError, match=r"3 modules with 'attn_gate'.*choose one with prefix="):
        block.load_openflamingo(whole)
    left = block.load_openflamingo(whole, prefix="gated_cross_attn_layers.3")
    assert len(left) == 2 * len(KEYS)
    assert torch.equal(block.attn_gate, published(seed=60)["attn_gate"])


def test_a_checkpoint_that_does_not_fit_says_why():
    state = published()
    del state["ff.3.weight"]
    state["attn.extra"] = tokens(1)
    with pytest.raises(CheckpointError, match=r"missing: ff.3.weight; unexpected: attn.extra"):
        build().load_openflamingo(state)


def idefics_layer(gate, qk_norm, eps=1e-6):
    from transformers import IdeficsConfig
    from transformers.models.idefics.modeling_idefics import IdeficsGatedCrossAttentionLayer

    config = IdeficsConfig(
        hidden_size=12,
        num_attention_heads=3,
        intermediate_size=20,
        alpha_type=gate,
        rms_norm_eps=eps,
        qk_layer_norms=qk_norm,
        vision_config={"embed_dim": M},
        attn_implementation="sdpa",
    )
    layer = IdeficsGatedCrossAttentionLayer(config, layer_idx=0).double().eval()
    with torch.no_grad():
        for n, parameter in enumerate(layer.parameters()):
            parameter.copy_(0.5 * tokens(*parameter.shape, seed=n))
    return layer


@pytest.mark.parametrize("qk_norm", [False, True])
@pytest.mark.parametrize("gate", ["float", "vector"])
def test_idefics_weights_give_the_numbers_of_transformers(gate, qk_norm):
    theirs = idefics_layer(gate, qk_norm, eps=1e-2)
    block = GatedCrossAttention(12, M, head_dim=4, heads=3).double()
    state = {f"model.gated_cross_attn_layers.0.{key}": value for key, value in theirs.state_dict().items()}
    inverse = "model.gated_cross_attn_layers.0.cross_attn.rotary_emb.inv_freq"  # in the files of older releases
    left = block.load_idefics(eps=1e-2, state_dict=state | {inverse: tokens(2), "lm_head.weight": tokens(2)})
    assert left == ["lm_head.weight", "cross_attn.rotary_emb.inv_freq"]

    x, media = tokens(2, 4, 12), tokens(2, 2, 3, M, seed=2)
    visible = torch.tensor([[[True, False], [True, True], [False, True], [False, False]]] * 2)
    additive = torch.zeros(2, 1, 4, 6, dtype=torch.float64)
    additive.masked_fill_(~visible.repeat_interleave(3, dim=-1)[:, None], torch.finfo(torch.float64).min)
    wanted = theirs(
        x,
        image_hidden_states=media.flatten(1, 2),
        image_attention_mask=additive,
        cross_attention_gate=visible.any(-1).double(),
    )
    # transformers takes the variance of its norms in float32, whatever the type of the rest.
    assert_close(block(x, media, visible=visible), wanted, rtol=1e-6, atol=1e-6)
    assert block(x, media, visible=visible).dtype == torch.float64


def test_a_block_in_the_form_of_idefics_loads_what_it_saved():
    first = GatedCrossAttention(12, M, head_dim=4, heads=3).double()
    first.load_idefics(idefics_layer("vector", True).state_dict())
    second = GatedCrossAttention(12, M, 4, 3, idefics=IdeficsForm(20, gate="vector", qk_norm=True)).double()
    second.load_state_dict(first.state_dict())
    x, media = tokens(1, 4, 12), tokens(1, 2, 3, M, seed=2)
    assert torch.equal(first(x, media, where("i.i.")), second(x, media, where("i.i.")))


def test_idefics_weights_of_another_width_change_nothing():
    block = build()
    before = {key: value.clone() for key, value in block.state_dict().items()}
    with pytest.raises(CheckpointError, match=r"Idefics block does not fit: of another shape: attn.norm.weight"):
        block.load_idefics(idefics_layer("float", False).state_dict())
    assert all(torch.equal(before[key], value) for key, value in block.state_dict().items())
