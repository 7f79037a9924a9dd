"""ACE-HGNN against plain loops over the published formulas, and its two forms against each other."""

from __future__ import annotations

import math

import pytest
import tiny_encoders as tiny
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from medgraft.adapters.ace_hgnn import AceHgnn, AceHgnnAdapter, BottleneckMap
from medgraft.adapters.kernels.hypergraph.reference import incidence
from medgraft.encoders.embedded import assemble
from medgraft.errors import ConfigError, IncompatibleError
from medgraft.grafting import Grafted, graft

pytestmark = pytest.mark.usefixtures("seeded")
# float64 over sums of some hundred terms leaves 1e-13; 1e-9 is what the two forms are held to.
EXACT = {"rtol": 1e-9, "atol": 1e-9}
shapes = given(
    batch=st.integers(1, 3),
    n=st.integers(2, 12),
    dim=st.integers(3, 8),  # in one dimension every cosine is 1 or -1, a tie
    hidden=st.integers(1, 6),
    top_k=st.integers(1, 14),
    seed=st.integers(0, 2**31),
)
fast = settings(max_examples=60, deadline=None, derandomize=True, database=None)


def make(batch: int, n: int, dim: int, hidden: int, top_k: int, seed: int) -> tuple[AceHgnn, Tensor, Tensor]:
    torch.manual_seed(seed)
    layer = AceHgnn(dim, hidden, top_k).double()
    tokens = torch.randn(batch, n, dim, dtype=torch.float64).requires_grad_()
    scores = torch.randn(batch, n - 1, dtype=torch.float64).requires_grad_()
    return layer, tokens, scores


def reference_row(values: dict[int, Tensor], top_k: int) -> dict[int, Tensor]:
    """Softmax over the ``top_k`` largest values, by column."""
    kept = sorted(values, key=lambda j: -values[j].item())[:top_k]
    total = sum((torch.exp(values[j]) for j in kept), torch.zeros((), dtype=torch.float64))
    return {j: torch.exp(values[j]) / total for j in kept}


def reference(x: Tensor, a: Tensor, top_k: int, edge: BottleneckMap, node: BottleneckMap) -> Tensor:
    """All tokens of one sample, ``[N, C]``, one scalar weight at a time."""
    n = len(x)

    def phi(z: Tensor, maps: BottleneckMap) -> Tensor:
        inner = maps.down.weight @ z + maps.down.bias
        inner = torch.where(inner > 0, inner, 0.2 * inner)
        return maps.up.weight @ inner + maps.up.bias

    rows = [reference_row({j: a[j - 1] for j in range(1, n)}, top_k)]
    for i in range(1, n):
        cosines = {j: x[i] @ x[j] / (x[i].norm() * x[j].norm()) for j in range(1, n) if j != i}
        rows.append(reference_row(cosines, top_k))
    incidence = [[torch.zeros((), dtype=torch.float64) for _ in range(n)] for _ in range(n)]
    for i, row in enumerate(rows):
        for j, weight in row.items():
            incidence[i][j] = weight
        incidence[i][i] = torch.ones((), dtype=torch.float64)
    for j in range(1, n):
        incidence[j][0] = incidence[0][j]
    edges = [phi(sum((incidence[i][j] * x[j] for j in range(n)), torch.zeros_like(x[0])), edge) for i in range(n)]
    nodes = [sum((incidence[i][j] * edges[i] for i in range(n)), torch.zeros_like(x[0])) for j in range(n)]
    return torch.stack([phi(z, node) for z in nodes])


def gradients(layer: AceHgnn, tokens: Tensor, scores: Tensor, cls: Tensor) -> list[Tensor | None]:
    weights = torch.linspace(1, 2, cls.shape[-1], dtype=torch.float64)
    return list(torch.autograd.grad((cls * weights).sum(), [tokens, scores, *layer.parameters()], allow_unused=True))


@settings(fast, max_examples=25)
@shapes
def test_all_tokens_equal_the_plain_loops(batch, n, dim, hidden, top_k, seed):
    layer, tokens, scores = make(batch, n, dim, hidden, top_k, seed)
    wanted = torch.stack([reference(x, a, top_k, layer.edge, layer.node) for x, a in zip(tokens, scores, strict=True)])
    torch.testing.assert_close(layer(tokens, scores, return_tokens=True), wanted, **EXACT)


@settings(fast, max_examples=25)
@shapes
def test_the_gradients_of_cls_equal_those_of_the_plain_loops(batch, n, dim, hidden, top_k, seed):
    layer, tokens, scores = make(batch, n, dim, hidden, top_k, seed)
    rows = [reference(x, a, top_k, layer.edge, layer.node)[0] for x, a in zip(tokens, scores, strict=True)]
    wanted = gradients(layer, tokens, scores, torch.stack(rows))
    got = gradients(layer, tokens, scores, layer(tokens, scores))
    for ours, theirs, like in zip(got, wanted, [tokens, scores, *layer.parameters()], strict=True):
        zero = torch.zeros_like(like)
        torch.testing.assert_close(zero if ours is None else ours, zero if theirs is None else theirs, **EXACT)


@fast
@shapes
def test_the_short_form_is_row_zero_of_the_long_one(batch, n, dim, hidden, top_k, seed):
    layer, tokens, scores = make(batch, n, dim, hidden, top_k, seed)
    torch.testing.assert_close(layer(tokens, scores), layer(tokens, scores, return_tokens=True)[:, 0], **EXACT)


@fast
@shapes
def test_the_short_form_has_the_gradients_of_the_long_one(batch, n, dim, hidden, top_k, seed):
    layer, tokens, scores = make(batch, n, dim, hidden, top_k, seed)
    short = gradients(layer, tokens, scores, layer(tokens, scores))
    long = gradients(layer, tokens, scores, layer(tokens, scores, return_tokens=True)[:, 0])
    torch.testing.assert_close(short, long, **EXACT)


@fast
@shapes
def test_the_rows_of_the_incidence_matrix_sum_to_two_besides_the_weight_of_cls(batch, n, dim, hidden, top_k, seed):
    _, tokens, scores = make(batch, n, dim, hidden, top_k, seed)
    with torch.no_grad():
        matrix = incidence(tokens, scores, top_k)
    assert torch.equal(matrix.diagonal(dim1=1, dim2=2), torch.ones(batch, n, dtype=torch.float64))
    torch.testing.assert_close(matrix[:, 1:, 0], matrix[:, 0, 1:], rtol=0, atol=0)
    neighbours = matrix[:, :, 1:].sum(dim=2)
    neighbours[:, 1:] -= 1
    alone = torch.zeros_like(neighbours) if n == 2 else torch.ones_like(neighbours)
    alone[:, 0] = 1  # CLS always has a patch; with two tokens the patch has nobody
    torch.testing.assert_close(neighbours, alone, **EXACT)


def test_masked_scores_of_minus_infinity_give_finite_gradients():
    layer, tokens, scores = make(2, 6, 4, 3, 5, 0)
    masked = scores.masked_fill(torch.arange(5) > 1, float("-inf"))
    torch.nn.functional.normalize(layer(tokens, masked), dim=-1).sum().backward()
    assert tokens.grad.isfinite().all() and scores.grad.isfinite().all()


def test_a_top_k_of_zero_is_refused():
    with pytest.raises(ValueError, match="top_k is 0"):
        AceHgnn(8, top_k=0)


@pytest.mark.parametrize("shape", [(2, 6), (2, 4), (1, 5)])
def test_scores_of_another_shape_are_refused(shape):
    with pytest.raises(ValueError, match="one per token but CLS"):
        AceHgnn(8)(torch.randn(2, 6, 8), torch.randn(shape))


# -- parameters -------------------------------------------------------------------------------------------------------


def test_the_parameters_have_the_published_names():
    names = {
        f"{part}.{layer}.{kind}" for part in ("edge", "node") for layer in ("down", "up") for kind in ("weight", "bias")
    }
    assert set(AceHgnn(8).state_dict()) == names


def test_two_layers_have_the_published_number_of_parameters():
    count = sum(p.numel() for _ in range(2) for p in AceHgnn(512).parameters())
    assert count == 4 * (512 * 128 + 128 + 128 * 512 + 512) == 526_848


def test_the_initial_weights_are_kaiming_normal():
    maps = BottleneckMap(512, 128)
    assert abs(maps.down.weight.std().item() / math.sqrt(2 / 512) - 1) < 0.02  # 65,536 draws
    assert abs(maps.up.weight.std().item() / math.sqrt(2 / 128) - 1) < 0.02
    assert maps.down.bias.abs().max() <= 1 / math.sqrt(512)


# -- the adapter ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["chest", "timm", "mha"])
def test_the_embedding_is_the_layer_on_projected_unit_tokens_and_mean_scores(name):
    encoder = tiny.fresh(name)
    inputs = tiny.batch(encoder)
    with torch.no_grad():
        plain = {key: tower(inputs[key], scores=True) for key, tower in encoder.towers().items()}
        grafted = graft(encoder, "ace_hgnn", hidden_dim=8).eval()
        for key, features in grafted.encode(inputs).items():
            raw = plain[key].cls_probs if key == "text" else plain[key].cls_scores
            tokens = F.normalize(encoder.towers()[key].project(plain[key].tokens), dim=-1)
            cls = grafted.adapters["ace_hgnn"].layer[key](tokens, raw.mean(dim=1), return_tokens=True)[:, 0]
            # float32: two forms of the same sum, 1e-5 is some hundred roundings of values below 1.
            torch.testing.assert_close(features.embedding, F.normalize(cls, dim=-1), rtol=1e-5, atol=1e-5)
            assert torch.equal(features.embedding, features.pooled)


class WithRegister(tiny.MhaViT):
    """Token 1 is a register."""

    def encode(self, x: Tensor, *, start: int = 0):
        return super().encode(x, start=start).replace(n_prefix=2)


def test_registers_are_no_nodes():
    encoder = WithRegister()
    encoder.freeze()
    grafted = graft(encoder, "ace_hgnn", hidden_dim=8).eval()
    seen = {}
    layer = grafted.adapters["ace_hgnn"].layer["image"]
    layer.register_forward_hook(lambda module, args, output: seen.update(tokens=args[0], scores=args[1]))
    features = grafted(torch.randn(2, 1, 16, 16))
    assert seen["tokens"].shape == (2, 16, 32) and seen["scores"].shape == (2, 15)
    unit = F.normalize(features.tokens, dim=-1)
    assert torch.equal(seen["tokens"], torch.cat([unit[:, :1], unit[:, 2:]], dim=1))


def test_the_graph_runs_in_full_precision_under_autocast():
    encoder = tiny.fresh("timm")
    grafted = graft(encoder, "ace_hgnn").eval()
    with torch.autocast("cpu", torch.bfloat16):
        assert grafted(tiny.batch(encoder)["image"]).embedding.dtype == torch.float32


@pytest.mark.parametrize(
    ("modality", "towers"), [("both", ["image", "text"]), ("visual", ["image"]), ("text", ["text"])]
)
def test_modality_chooses_the_towers(modality, towers):
    encoder = tiny.shared("chest")
    grafted = graft(encoder, "ace_hgnn", modality=modality)
    found = list(grafted.adapters["ace_hgnn"].layer)
    grafted.ungraft()
    assert found == towers


@pytest.mark.parametrize(
    ("name", "options", "reason"),
    [
        ("timm_cnn", {}, "no attention"),
        ("hf_clip", {}, "text tower has no CLS"),
        ("timm", {"modality": "text"}, "no text tower"),
    ],
)
def test_the_reason_of_a_refusal_names_what_is_missing(name, options, reason):
    with pytest.raises(IncompatibleError, match=reason):
        graft(tiny.shared(name), "ace_hgnn", **options)


def test_features_without_scores_are_refused_with_the_remedy():
    encoder = tiny.fresh("timm")
    x = tiny.batch(encoder)["image"]
    features = encoder(x)
    grafted = graft(encoder, "ace_hgnn")
    with pytest.raises(ConfigError, match="scores=True"):
        grafted(features)


def test_lora_trains_through_the_scores_alone():
    # Cut off from the tokens, the only way from the embedding to the query is the CLS row of the scores.
    encoder = tiny.fresh("timm")
    last = f"blocks.{len(encoder.attention) - 1}.attn.q"
    grafted = graft(encoder, "lora+ace_hgnn", lora={"targets": [last]})
    layer = grafted.adapters["ace_hgnn"].layer["image"]
    layer.register_forward_pre_hook(lambda module, args: (args[0].detach(), args[1]))
    with torch.no_grad():
        grafted.adapters["lora"].delta[last.replace(".", "/")].B.normal_()
    grafted(tiny.batch(encoder)["image"]).embedding.sum().backward()
    assert all(p.grad.any() for p in grafted.adapters["lora"].parameters())


def test_the_options_of_the_adapter_reach_the_layer():
    encoder = tiny.shared("timm")
    grafted = Grafted(encoder, {"hgnn": AceHgnnAdapter(AceHgnnAdapter.Config(hidden_dim=3, top_k=2))})
    layer = grafted.adapters["hgnn"].layer["image"]
    grafted.ungraft()
    assert (layer.edge.down.out_features, layer.top_k) == (3, 2)


@pytest.mark.parametrize("kind", [torch.float64, torch.bfloat16])
def test_the_graph_follows_an_encoder_of_another_precision(kind):
    encoder = assemble("chest", ["[pad]", "[cls]", "[unk]"]).towers()["image"].to(kind).freeze()
    grafted = graft(encoder, AceHgnnAdapter(AceHgnnAdapter.Config(hidden_dim=8)))
    refined = grafted(torch.randn(2, 1, 128, 128, dtype=kind)).pooled
    assert refined.dtype == kind and torch.isfinite(refined).all()
    assert {p.dtype for p in grafted.trainable_parameters()} == {torch.promote_types(kind, torch.float32)}


# -- options ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["chest", "timm"])
def test_all_tokens_on_request_with_the_same_cls(name):
    encoder = tiny.fresh(name)
    inputs = tiny.batch(encoder)
    found = {}
    for wanted in (False, True):
        torch.manual_seed(3)
        grafted = graft(encoder, "ace_hgnn", hidden_dim=8, return_tokens=wanted).eval()
        with torch.no_grad():
            found[wanted] = grafted.encode(inputs)
        grafted.ungraft()
    for key, features in found[True].items():
        short = found[False][key]
        torch.testing.assert_close(features.embedding, short.embedding, rtol=1e-5, atol=1e-5)
        assert features.tokens.shape == (*short.tokens.shape[:2], short.embedding.shape[-1])
        torch.testing.assert_close(F.normalize(features.tokens[:, 0], dim=-1), features.embedding)
        assert features.n_prefix == 1 and (features.mask is None or features.mask.shape == features.tokens.shape[:2])


@pytest.mark.parametrize(
    ("choice", "image", "text"),
    [
        ("published", "cls_scores", "cls_probs"),
        ("logits", "cls_scores", "cls_scores"),
        ("probabilities", "cls_probs", "cls_probs"),
    ],
)
def test_what_cls_weighs_tokens_by_can_be_chosen(choice, image, text):
    encoder = tiny.fresh("chest")
    inputs = tiny.batch(encoder)
    with torch.no_grad():
        plain = {key: tower(inputs[key], scores=True) for key, tower in encoder.towers().items()}
    grafted = graft(encoder, "ace_hgnn", hidden_dim=8, cls_attention=choice).eval()
    seen = {}
    for key, layer in grafted.adapters["ace_hgnn"].layer.items():
        layer.register_forward_hook(lambda module, args, output, key=key: seen.update({key: args[1]}))
    with torch.no_grad():
        features = grafted.encode(inputs)
    for key, row in (("image", image), ("text", text)):
        torch.testing.assert_close(seen[key], getattr(plain[key], row).mean(dim=1))
        assert features[key].embedding.isfinite().all()  # masked logits are minus infinity


def test_prompts_joined_before_the_layer_are_averaged_position_by_position():
    encoder = tiny.fresh("chest")
    ids = torch.cat([tiny.batch(encoder)["text"][:2]] * 2)[[0, 1, 0, 1]]
    ids[2, 1] = ids[0, 2]
    grafted = graft(encoder, "ace_hgnn", hidden_dim=8, prompt_ensemble="tokens").eval()
    adapter, tower = grafted.adapters["ace_hgnn"], encoder.towers()["text"]
    grafted.activate()
    with torch.no_grad():
        plain = tower(ids, scores=True)
        grafted.activate("ace_hgnn")
        alone = tower(ids).embedding
        with adapter.prompt_ensemble(2):
            joined = tower(ids).embedding
        unit = F.normalize(tower.project(plain.tokens), dim=-1)
        for i in range(2):
            tokens, row = unit[2 * i : 2 * i + 2].mean(0), plain.cls_probs[2 * i : 2 * i + 2].mean(dim=(0, 1))
            wanted = F.normalize(adapter.layer["text"](tokens[None], row[None])[0], dim=0)
            torch.testing.assert_close(joined[i], wanted, rtol=1e-5, atol=1e-5)
        assert torch.equal(tower(ids).embedding, alone) and len(alone) == 4


def test_by_default_prompts_are_averaged_after_the_layer():
    grafted = graft(tiny.fresh("chest"), "ace_hgnn")
    assert grafted.adapters["ace_hgnn"].prompt_ensemble(2) is None


def test_a_graph_on_the_image_alone_has_no_prompts_to_join():
    grafted = graft(tiny.fresh("chest"), "ace_hgnn", modality="visual", prompt_ensemble="tokens")
    assert grafted.adapters["ace_hgnn"].prompt_ensemble(2) is None
