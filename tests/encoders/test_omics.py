"""Encoders of expression tables: how rows are placed, which genes get tokens, and what they refuse."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from medgraft import build_encoder, graft
from medgraft.encoders.omics import GENOTYPE, GeneTokens, OmicsSource
from medgraft.errors import ConfigError

MODELS = ("row", "mlp", "gene_tokens")


def row(genes: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal(genes + GENOTYPE).astype(np.float32)


@pytest.mark.parametrize("model", MODELS)
def test_a_short_row_leaves_the_last_places_empty_and_a_missing_number_is_the_mean(model):
    encoder, raw = OmicsSource.build(model, genes=30), row(20)
    raw[3] = np.nan
    x = encoder.prepare(raw)
    assert x.shape == (32,) and x[3] == 0 and (x[20:30] == 0).all()
    np.testing.assert_array_equal(x[30:], raw[20:])
    assert torch.isfinite(encoder(x[None]).pooled).all()


@pytest.mark.parametrize("model", MODELS)
@pytest.mark.parametrize("length", [0, 2, 33])
def test_rows_without_genes_or_with_too_many_are_refused(model, length):
    with pytest.raises(ConfigError, match="reads 1 to 30 genes"):
        OmicsSource.build(model, genes=30).prepare(np.zeros(length, np.float32))


def test_the_genes_that_deviate_most_get_tokens_and_the_genotype_always_does():
    encoder = OmicsSource.build("gene_tokens", genes=30)
    assert isinstance(encoder, GeneTokens)
    encoder.tokens = 4
    x = torch.zeros(1, 32)
    x[0, [2, 9, 17, 25]] = torch.tensor([-5.0, 3.0, 4.0, -2.0])
    x[0, 11], x[0, 31] = 1.0, 0.1
    embedded = encoder.embed(x)[0]
    places = torch.tensor([30, 31, 2, 9, 17, 25])
    expected = encoder.gene(places) + encoder.value(x[0, places, None])
    assert embedded.shape == (1 + 2 + 4, 128)
    torch.testing.assert_close(embedded[1:], expected)
    x[0, 11] = 1.9  # still not among the four
    torch.testing.assert_close(encoder.embed(x)[0], embedded)


def test_a_prefix_and_the_rest_are_the_whole():
    encoder, x = OmicsSource.build("gene_tokens", genes=40), torch.randn(3, 42)
    whole = encoder(x)
    for stage in range(1, encoder.n_stages):
        torch.testing.assert_close(encoder(encoder.prefix(x, stage), start=stage).tokens, whole.tokens)


def test_fresh_weights_are_always_the_same_and_a_file_brings_others(tmp_path):
    first, second = (build_encoder("omics:mlp") for _ in range(2))
    assert all(torch.equal(a, b) for a, b in zip(first.parameters(), second.parameters(), strict=True))
    state = {name: value + 1 for name, value in first.state_dict().items()}
    torch.save(state, tmp_path / "mlp.pt")
    loaded = build_encoder(f"omics:mlp@{tmp_path / 'mlp.pt'}")
    assert torch.equal(loaded.get_parameter("fc1.weight"), first.get_parameter("fc1.weight") + 1)
    assert loaded.spec.weights.startswith("pretrained:")
    with pytest.raises(ConfigError, match="has no weights"):
        build_encoder(f"omics:row@{tmp_path / 'mlp.pt'}")


@pytest.mark.parametrize("adapter", ["lora", "houlsby", "adaptformer", "bitfit"])
def test_adapters_of_tokens_attach_to_tokens_of_genes(adapter):
    grafted = graft(OmicsSource.build("gene_tokens", genes=40), adapter)
    assert sum(grafted.trainable_count().values()) > 0
    grafted(torch.randn(2, 42)).pooled[:, 0].sum().backward()  # a layer norm's whole sum never changes
    assert any(p.grad is not None and p.grad.any() for p in grafted.trainable_parameters())
