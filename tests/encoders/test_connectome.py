"""The source ``connectome``: permutations of regions, signs, kinds of weights, files and adapters."""

from __future__ import annotations

import functools
from typing import Any

import numpy as np
import pytest
import torch
from torch.testing import assert_close

from medgraft import graft
from medgraft.encoders.connectome import ConnectomeEncoder, ConnectomeSource, degrees, scaled
from medgraft.encoders.parts.connectome.network import edges_of
from medgraft.errors import CheckpointError, ConfigError, DataError, IncompatibleError, UnknownNameError
from medgraft.registry import build_encoder, check_encoder

# Sums in another order, in double precision.
exact = functools.partial(assert_close, rtol=1e-10, atol=1e-10)


def graph(regions=9, kinds=1, share=0.6, seed=0) -> np.ndarray:
    """Symmetric weights of both signs, of which a share is not 0."""
    random = np.random.default_rng(seed)
    weights = random.standard_normal((kinds, regions, regions)) * (random.random((regions, regions)) < share)
    upper = np.triu(weights, 1)
    return (upper + upper.swapaxes(1, 2)).astype(np.float32)


def built(**options) -> ConnectomeEncoder:
    encoder = ConnectomeSource.build("tiny", "random", **{"regions": 9, **options}).double()
    assert isinstance(encoder, ConnectomeEncoder)
    return encoder


def batch(encoder: ConnectomeEncoder, *graphs: np.ndarray) -> torch.Tensor:
    return torch.stack([encoder.prepare(each) for each in graphs]).double()


# -- regions ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kinds", [1, 2])
def test_without_profiles_a_permutation_of_the_regions_permutes_their_tokens(kinds):
    encoder, raw = built(features="degree", kinds=kinds), graph(kinds=kinds)
    order = np.random.default_rng(1).permutation(9)
    a, b = encoder(batch(encoder, raw)), encoder(batch(encoder, raw[:, order][:, :, order]))
    exact(b.tokens, a.tokens[:, order])
    exact(b.pooled, a.pooled)
    assert not torch.allclose(b.tokens, a.tokens)


def test_with_profiles_it_does_so_once_the_columns_that_read_them_are_permuted_too():
    encoder, raw = built(kinds=2), graph(kinds=2)
    order = np.random.default_rng(1).permutation(9)
    a = encoder(batch(encoder, raw))
    turned = batch(encoder, raw[:, order][:, :, order])
    assert not torch.allclose(encoder(turned).pooled, a.pooled)
    with torch.no_grad():
        columns = encoder.embedding.weight.unflatten(1, (2, 9))
        encoder.embedding.weight.copy_(columns[:, :, order].flatten(1))
    exact(encoder(turned).tokens, a.tokens[:, order])


def test_attention_is_that_of_the_formula_with_weights_in_keys_and_values():
    encoder, raw = built(kinds=2), graph(kinds=2)
    x = batch(encoder, raw)
    block: Any = encoder.blocks[0]
    tokens, conv = torch.randn(1, 9, 16, dtype=torch.float64), block.attn.conv
    q, k, v = (layer(tokens[0]).view(9, 2, 8) for layer in (conv.lin_query, conv.lin_key, conv.lin_value))
    expected = torch.zeros(9, 2, 8, dtype=torch.float64)
    for i in range(9):
        linked = [j for j in range(9) if x[0, :, j, i].any()]
        added = torch.stack([conv.lin_edge(x[0, :, j, i]).view(2, 8) for j in linked])
        scores = (q[i] * (k[linked] + added)).sum(dim=-1) / 8**0.5
        expected[i] = (scores.softmax(dim=0)[..., None] * (v[linked] + added)).sum(dim=0)
    exact(block.attn(tokens, edges_of(x)), block.attn.proj(expected.flatten(1))[None])


def test_a_graph_of_fewer_regions_leaves_places_empty_that_count_for_nothing():
    wide, narrow = built(regions=12, features="degree"), built(regions=9, features="degree")
    whole, part = graph(12, seed=3), graph(9)
    x = batch(wide, whole, part)
    features = wide(x)
    assert features.mask is not None and features.mask.sum(dim=1).tolist() == [12, 9]
    exact(features.pooled[1], features.tokens[1, :9].mean(dim=0))
    alone = wide(x[1:])
    exact(features.tokens[1], alone.tokens[0])
    # Counts are shares of all places, so that only they tell twelve places from nine.
    counts = degrees(batch(narrow, part))[0] - degrees(x[1:])[0, :9] * torch.tensor([12, 9, 9, 12, 12]) / 9
    assert counts.abs().max() < 1e-12


def test_a_region_without_connections_is_masked_and_a_graph_without_any_is_not():
    encoder, raw = built(), graph()
    raw[:, 4], raw[:, :, 4] = 0, 0
    features = encoder(batch(encoder, raw, np.zeros_like(raw)))
    assert features.mask is not None
    assert features.mask.tolist() == [[i != 4 for i in range(9)], [True] * 9]
    assert features.tokens.isfinite().all() and features.pooled.isfinite().all()


def test_numbers_of_a_neighbourhood():
    weights = torch.zeros(1, 1, 4, 4)
    for i, j, w in ((0, 1, 2.0), (0, 2, -4.0), (1, 2, 1.0)):
        weights[0, 0, i, j] = weights[0, 0, j, i] = w
    found = degrees(weights)[0]
    assert found[0].tolist() == pytest.approx([2 / 4, 3, 1, 2 / 4, 2 / 4])
    assert found[1].tolist() == pytest.approx([2 / 4, 1.5, 0.5, 2 / 4, 2 / 4]) and not found[3].any()


# -- weights ----------------------------------------------------------------------------------------------------------


def test_signs_stay_and_matter():
    encoder, raw = built(), graph()
    a, b = encoder(batch(encoder, raw)), encoder(batch(encoder, np.abs(raw)))
    assert not torch.allclose(a.pooled, b.pooled)
    assert (np.sign(scaled(raw[0], "log")) == np.sign(raw[0])).all()


def test_each_kind_is_scaled_by_its_own_word():
    encoder, raw = built(kinds=2, scaling="log+largest"), graph(kinds=2) * np.float32(50)
    x = encoder.prepare(raw)
    assert_close(x[0], torch.from_numpy(np.sign(raw[0]) * np.log1p(np.abs(raw[0]))))
    assert_close(x[1], torch.from_numpy(raw[1] / np.abs(raw[1]).max()))
    assert "log and largest" in encoder.spec.intensity
    assert torch.equal(built().prepare(np.zeros((1, 9, 9), np.float32)), torch.zeros(1, 9, 9))


@pytest.mark.parametrize(
    ("raw", "words"),
    [
        (graph(10), "up to 9 regions, and got 1 between 10"),
        (graph(kinds=2), "reads 1 kinds"),
        (graph()[0], "shape"),
        (graph().astype(np.float64), "float64"),
        (np.triu(graph()), "not symmetric"),
        (graph() + np.eye(9, dtype=np.float32), "regions to themselves"),
    ],
)
def test_what_is_no_graph_of_the_encoder_is_refused(raw, words):
    with pytest.raises(DataError, match=words) as caught:
        built().prepare(raw)
    assert "\n" not in str(caught.value)


# -- stages, adapters, names ------------------------------------------------------------------------------------------


def test_any_stage_gives_what_a_whole_run_gives():
    encoder = built(kinds=2)
    x = batch(encoder, graph(kinds=2), graph(7, kinds=2))
    whole = encoder(x)
    for stage in range(encoder.n_stages):
        again = encoder(encoder.prefix(x, stage), start=stage)
        assert torch.equal(again.tokens, whole.tokens) and torch.equal(again.mask, whole.mask)


@pytest.mark.parametrize(
    ("adapter", "options"), [("lora", {"rank": 2}), ("houlsby", {"width": 3}), ("adaptformer", {})]
)
def test_adapters_learn_and_leave_it_as_it_was(adapter, options):
    encoder = built().float()
    x = batch(encoder, graph(), graph(seed=1)).float()
    before = encoder(x).tokens
    grafted = graft(encoder, adapter, **options).train()
    grafted.encode({"graph": x})["graph"].tokens.square().sum().backward()
    assert any(p.grad is not None and bool(p.grad.any()) for p in grafted.trainable_parameters())
    if adapter == "lora":
        assert grafted.trainable_count()["lora"] == 2 * 2 * 2 * (16 + 16)
    grafted.ungraft()
    assert torch.equal(encoder(x).tokens, before)


def test_lora_merges_into_queries_and_values():
    encoder = built()
    x = batch(encoder, graph())
    grafted = graft(encoder, "lora", rank=2).eval()
    with torch.no_grad():
        for parameter in grafted.trainable_parameters():
            parameter.add_(0.1)
    before = grafted.encode({"graph": x})["graph"].tokens
    grafted.merge()
    exact(grafted.encode({"graph": x})["graph"].tokens, before)


def test_prompts_have_no_edge_and_say_so():
    with pytest.raises(IncompatibleError, match="along edges of a graph"):
        graft(built().float(), "vpt")


def test_names_options_and_files_are_checked(tmp_path):
    assert check_encoder("connectome:base,regions=200,kinds=2,scaling=log+as_is").model.startswith("base,")
    assert build_encoder("connectome:tiny,regions=6").spec.input_size == (6, 6)
    for name, words in (
        ("tiny,scaling=log+as_is", "2 words for 1 kinds"),
        ("tiny,scaling=cube", "'cube' is none of"),
        ("tiny,regions=1", "regions"),
    ):
        with pytest.raises(ConfigError, match=words):
            check_encoder(f"connectome:{name}")
    with pytest.raises(UnknownNameError, match="did you mean tiny"):
        check_encoder("connectome:tinny")
    encoder = built().float()
    torch.save({k: v + 0.1 for k, v in encoder.state_dict().items()}, tmp_path / "trained.pt")
    loaded = build_encoder(f"connectome:tiny,regions=9@{tmp_path / 'trained.pt'}")
    assert loaded.spec.weights.startswith("pretrained:")
    with pytest.raises(CheckpointError, match="of another shape"):
        build_encoder(f"connectome:tiny,regions=8@{tmp_path / 'trained.pt'}")
