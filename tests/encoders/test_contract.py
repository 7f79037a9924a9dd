"""What every encoder of every source must do, run over one small model per kind."""

from __future__ import annotations

import copy
import functools
import math
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import torch
from torch import Tensor

from medgraft.adapters.lora import Lora
from medgraft.checkpoints.weights import state_digest
from medgraft.encoder import Encoder, TextEncoder
from medgraft.encoders import embedded
from medgraft.encoders.brainiac import BrainIacSource
from medgraft.encoders.causal_lm import CausalLmSource
from medgraft.encoders.m3d import M3dSource
from medgraft.encoders.medicalnet import MedicalNetSource
from medgraft.encoders.monai import MonaiSource
from medgraft.encoders.neuro_simclr import NeuroSimClrSource
from medgraft.encoders.open_clip import OpenClipSource
from medgraft.encoders.pixels import PixelsSource
from medgraft.encoders.swin_unetr import SwinUnetrSource
from medgraft.encoders.timm import TimmSource
from medgraft.encoders.transformers import TransformersSource
from medgraft.errors import ConfigError
from medgraft.grafting import Grafted

HF_VISION = {
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "intermediate_size": 64,
    "image_size": 32,
    "patch_size": 8,
}
DINO = {key: value for key, value in HF_VISION.items() if key != "intermediate_size"} | {"mlp_ratio": 2}
HF_TEXT = {
    "hidden_size": 24,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "intermediate_size": 48,
    "vocab_size": 60,
    "max_position_embeddings": 12,
    "bos_token_id": 58,
    "eos_token_id": 59,
    "pad_token_id": 1,
}
GPT2 = {"n_embd": 32, "n_layer": 2, "n_head": 2, "n_positions": 12, "vocab_size": 60, "eos_token_id": 59}
CLIP_VISION = {"image_size": 32, "patch_size": 8, "layers": 2, "width": 64, "head_width": 32}
CLIP_TEXT = {"context_length": 12, "vocab_size": 60, "width": 32, "heads": 2, "layers": 2}
MONAI_VIT = {"img_size": (32, 32, 16), "hidden_size": 32, "mlp_dim": 48, "num_layers": 2, "num_heads": 2}
M3D = {"img_size": (8, 64, 64), "dim": 24, "depth": 2, "heads": 2, "mlp_dim": 32}
DEPTH_64 = {"depth": 2, "img_size": 64}


@functools.cache
def tiny_bert() -> str:
    from transformers import BertConfig

    folder = Path(tempfile.mkdtemp(prefix="medgraft-test-bert-"))
    config = BertConfig(hidden_size=32, num_hidden_layers=2, num_attention_heads=2, intermediate_size=48, vocab_size=60)
    (folder / "config.json").write_text(config.to_json_string(use_diff=False))
    return str(folder)


def bert_pair() -> dict[str, Any]:
    vision = {"timm_model_name": "test_vit", "timm_pool": "", "timm_proj": "linear", "image_size": 160}
    text = {
        "hf_model_name": tiny_bert(),
        "hf_proj_type": "mlp",
        "hf_pooler_type": "cls_last_hidden_state_pooler",
        "context_length": 12,
    }
    return {"embed_dim": 16, "vision_cfg": vision, "text_cfg": text}


def siglip_pair() -> dict[str, Any]:
    vision = {"timm_model_name": "test_vit3", "timm_pool": "map", "timm_proj": "none", "image_size": 160}
    text = CLIP_TEXT | {"width": 96, "heads": 2, "no_causal_mask": True, "pool_type": "last", "pad_id": 1}
    return {"embed_dim": 96, "vision_cfg": vision, "text_cfg": text}


class Case(NamedTuple):
    build: Callable[[], Encoder]
    tower: str
    scores: bool
    sites: bool = True


def timm(model: str, scores: bool, **options: Any) -> Case:
    return Case(lambda: TimmSource.build(model, "random", **options), "image", scores)


def hf(family: str, tower: str, scores: bool, config: dict[str, Any]) -> Case:
    return Case(lambda: TransformersSource.build(family, "random", config=config), tower, scores)


def clip(tower: str, scores: bool, config: Callable[[], dict[str, Any]]) -> Case:
    return Case(lambda: OpenClipSource.build("tiny", "random", config=config()), tower, scores)


def monai(model: str, scores: bool, **options: Any) -> Case:
    return Case(lambda: MonaiSource.build(model, "random", **options), "volume", scores)


def m3d(model: str, scores: bool, **options: Any) -> Case:
    return Case(lambda: M3dSource.build(model, "random", **M3D, **options), "volume", scores)


def volume(source: Any, model: str, scores: bool = False, **options: Any) -> Case:
    return Case(lambda: source.build(model, "random", **options), "volume", scores)


def own(name: embedded.Name, tower: str) -> Case:
    words = (*embedded.SPECIALS, *(f"word{i}" for i in range(57)))
    return Case(lambda: embedded.assemble(name, words), tower, True)


HF_CLIP = {"vision_config": HF_VISION, "text_config": HF_TEXT, "projection_dim": 16}
HF_WORDS = {key: value for key, value in HF_TEXT.items() if not key.endswith("_token_id")} | {"pad_token_id": 1}
HF_SIGLIP = {"vision_config": HF_VISION, "text_config": HF_TEXT | {"projection_size": 32}}
OPEN_CLIP = {"embed_dim": 16, "vision_cfg": CLIP_VISION, "text_cfg": CLIP_TEXT}

CASES: dict[str, Case] = {
    "embedded-chest-image": own("chest", "image"),
    "embedded-chest-text": own("chest", "text"),
    "embedded-brain-volume": own("brain", "volume"),
    "timm-vit": timm("vit_tiny_patch16_224", True, **DEPTH_64),
    "timm-deit-distilled": timm("deit_tiny_distilled_patch16_224", True, **DEPTH_64),
    "timm-no-cls": timm("vit_base_patch16_siglip_224", False, embed_dim=48, num_heads=3, **DEPTH_64),
    "timm-dinov3": timm("vit_small_patch16_dinov3", True, embed_dim=96, num_heads=3, **DEPTH_64),
    "timm-pe-rope": timm("vit_pe_core_tiny_patch16_384", True, **DEPTH_64),
    "timm-rope-mixed": timm("vit_small_patch16_rope_mixed_224", True, embed_dim=96, num_heads=3, **DEPTH_64),
    "timm-eva-split": timm("eva02_tiny_patch14_224", True, depth=2, img_size=56),
    "timm-eva-packed": timm("eva_giant_patch14_224", True, depth=2, img_size=56, embed_dim=64, num_heads=2),
    "timm-qk-norm": timm("vit_tiny_patch16_224", True, qk_norm=True, **DEPTH_64),
    "timm-cnn": timm("test_resnet", False),
    "timm-swin": timm("swin_tiny_patch4_window7_224", False, embed_dim=24, depths=(1, 1, 1, 1), img_size=56),
    "timm-beit": timm("beit_base_patch16_224", False, depth=1, embed_dim=48, num_heads=3, img_size=64),
    "hf-vit": hf("vit", "image", True, HF_VISION),
    "hf-dinov2": hf("dinov2", "image", True, DINO),
    "hf-dinov2-registers": hf("dinov2_with_registers", "image", True, DINO),
    "hf-clip-image": hf("clip", "image", True, HF_CLIP),
    "hf-clip-text": hf("clip", "text", False, HF_CLIP),
    "hf-siglip-image": hf("siglip", "image", False, HF_SIGLIP),
    "hf-siglip-text": hf("siglip", "text", False, HF_SIGLIP),
    "open-clip-image": clip("image", True, lambda: OPEN_CLIP),
    "open-clip-text": clip("text", False, lambda: OPEN_CLIP),
    "open-clip-timm": clip("image", True, bert_pair),
    "open-clip-bert": clip("text", True, bert_pair),
    "open-clip-siglip-image": clip("image", False, siglip_pair),
    "open-clip-siglip-text": clip("text", False, siglip_pair),
    "monai-vit": monai("vit", False, **MONAI_VIT),
    "monai-vit-cls": monai("vit", True, classification=True, qkv_bias=True, **MONAI_VIT),
    "monai-resnet": monai("resnet18", False, img_size=(32, 32, 32), widen_factor=0.125),
    "monai-densenet": monai("densenet121", False, img_size=(32, 32, 32), block_config=(1, 2, 1), growth_rate=8),
    "m3d-clip": m3d("clip", True),
    "m3d-clip-pooled": m3d("clip_pooled", False),
    "m3d-clip-pooled-256": m3d("clip_pooled_256", False, volume_size=(16, 64, 64)),
    "brainiac": volume(BrainIacSource, "v2", **MONAI_VIT),
    "medicalnet": volume(MedicalNetSource, "resnet18", img_size=(16, 16, 24), widen_factor=0.125),
    "neuro-simclr": volume(NeuroSimClrSource, "t1", img_size=(16, 16, 24), widen_factor=0.125),
    "swin-unetr": volume(SwinUnetrSource, "ssl", img_size=(32, 32, 32), feature_size=12, depths=(1, 1, 1, 1)),
    "hf-bert": hf("bert", "text", True, HF_WORDS),
    "hf-llama": hf("llama", "text", False, HF_WORDS),
    "causal_lm-qwen2": Case(
        lambda: CausalLmSource.build("qwen2", "random", config=HF_WORDS | {"num_key_value_heads": 2}), "text", False
    ),
    "causal_lm-gpt2": Case(lambda: CausalLmSource.build("gpt2", "random", config=GPT2), "text", False),
    "causal_lm-embedded": Case(lambda: CausalLmSource.build("embedded", "random"), "text", False),
    "monai-swin": monai("swin_unetr", False, img_size=(32, 32, 32), feature_size=12, depths=(1, 1, 1, 1)),
    "pixels-2d": Case(lambda: PixelsSource.build("2d"), "image", False, sites=False),
    "pixels-3d": Case(lambda: PixelsSource.build("3d"), "volume", False, sites=False),
}


# Windowed attention, relative position biases, or none at all: usable as feature extractors only.
NO_ATTENTION = {"timm-cnn", "timm-swin", "timm-beit", "monai-resnet", "monai-densenet", "monai-swin"}
NO_ATTENTION |= {"pixels-2d", "pixels-3d", "medicalnet", "neuro-simclr", "swin-unetr"}


@functools.cache
def built(name: str) -> Encoder:
    return CASES[name].build().freeze()


def tower_of(name: str) -> Encoder:
    return built(name).towers()[CASES[name].tower]


def batch(encoder: Encoder) -> Tensor:
    """Two samples; texts start with 58, end with 59 and are padded with the tower's own padding."""
    generator = torch.Generator().manual_seed(1)
    if encoder.spec.modality != "text":
        return torch.randn(2, encoder.spec.channels, *encoder.spec.input_size, generator=generator)
    length = encoder.spec.input_size[0]
    ids = torch.randint(2, 57, (2, length), generator=generator)
    ids[:, 0] = 58
    ids[0, 6] = ids[1, -1] = 59
    assert isinstance(encoder, TextEncoder)
    ids[0, 7:] = encoder.pad_id
    return ids


each_case = pytest.mark.parametrize("name", CASES)


@each_case
def test_features_agree_with_the_spec(name):
    encoder = tower_of(name)
    x = batch(encoder)
    with torch.no_grad():
        features = encoder(x)
    B, N, C = features.tokens.shape
    assert (2, encoder.spec.dim) == (B, C)
    assert math.prod(features.grid) + features.n_prefix == N
    assert features.pooled.ndim == 2 and len(features.pooled) == 2
    assert features.tokens.isfinite().all() and features.pooled.isfinite().all()
    assert features.mask is None or features.mask.shape == (B, N)
    assert encoder.spec.weights in ("random", "none")
    shared = encoder.project(features.tokens)
    assert shared.shape[:2] == (B, N)
    assert bool(encoder.attention) == (name not in NO_ATTENTION)
    if encoder.attention:
        assert {layout.heads for layout in encoder.attention} == {encoder.spec.heads}
        assert len(encoder.attention) == len(encoder.block_paths()) or encoder.spec.modality == "text"


@each_case
def test_running_from_a_stage_equals_running_whole(name):
    encoder = tower_of(name)
    x = batch(encoder)
    with torch.no_grad():
        whole = encoder(x)
        for stage in range(encoder.n_stages):
            hidden = encoder.prefix(x, stage)
            kept = hidden.clone()
            features = encoder(hidden, start=stage)
            assert torch.equal(features.tokens, whole.tokens) and torch.equal(features.pooled, whole.pooled)
            assert torch.equal(hidden, kept), "a cached hidden state must survive the run"
    assert list(encoder.block_stages) in ([], list(range(1, encoder.n_stages)))


@pytest.mark.parametrize("name", [name for name in CASES if not name.startswith("embedded")])
def test_stages_and_shapes_that_do_not_exist_are_refused(name):
    encoder = tower_of(name)
    x = batch(encoder)
    with pytest.raises(ConfigError, match="stage"):
        encoder.prefix(x, encoder.n_stages)
    wrong = torch.cat([x, x[:, :1]], dim=1) if encoder.spec.modality == "text" else x[:, :, None]
    with pytest.raises(ConfigError, match="takes"):
        encoder(wrong)
    if encoder.spec.modality != "text":
        with pytest.raises(ConfigError, match="takes"):
            encoder(x.repeat(1, 2, *(1 for _ in encoder.spec.input_size)))


@each_case
def test_frozen_for_good(name):
    encoder = built(name)
    encoder.train(True)
    assert not any(parameter.requires_grad for parameter in encoder.parameters())
    assert not any(module.training for module in encoder.modules())
    tower = tower_of(name)
    assert not tower(batch(tower)).tokens.requires_grad


@each_case
def test_sites_resolve(name):
    encoder = built(name)
    sites = encoder.sites()
    assert "features" in {each.kind for each in sites.values()}
    for site in sites.values():
        module = encoder.get_submodule(site.path)
        if site.kind in ("projection", "layer") and not site.in_mha:
            weight = module.weight
            assert isinstance(weight, Tensor) and (site.rows is None or site.rows.stop <= len(weight))
    if CASES[name].sites:
        assert any(site.kind in ("projection", "layer") for site in sites.values())


@each_case
def test_scores_are_logits_of_the_probabilities(name):
    encoder = tower_of(name)
    x = batch(encoder)
    if not CASES[name].scores:
        with pytest.raises(ConfigError, match="CLS attention scores"):
            encoder(x, scores=True)
        return
    with torch.no_grad():
        plain, features = encoder(x), encoder(x, scores=True)
    assert torch.equal(plain.tokens, features.tokens)
    N = features.tokens.shape[1]
    assert features.cls_scores.shape == features.cls_probs.shape == (2, encoder.spec.heads, N - features.n_prefix)
    real = torch.ones(2, N, dtype=torch.bool) if features.mask is None else features.mask
    real = real[:, None, features.n_prefix :].expand_as(features.cls_probs)
    assert (features.cls_probs[~real] == 0).all() and (features.cls_scores[~real] == -torch.inf).all()
    offset = (features.cls_probs.log() - features.cls_scores).masked_fill(~real, torch.nan)
    spread = offset.nan_to_num(-torch.inf).amax(-1) - offset.nan_to_num(torch.inf).amin(-1)
    assert spread.abs().max() < 1e-5
    assert (features.cls_probs.sum(-1) <= 1 + 1e-6).all()


def _weight_of(encoder: Encoder, projection: str) -> Tensor:
    layout = encoder.attention[-1]
    path, rows = layout.location(projection)  # pyright: ignore[reportArgumentType]
    module: Any = encoder.get_submodule(path)
    weight = module.in_proj_weight if layout.style == "mha" else module.weight
    return weight if rows is None else weight[rows]


@pytest.mark.parametrize("name", [name for name, case in CASES.items() if case.scores])
def test_projections_are_where_the_layout_says(name):
    """Values change the tokens and not the scores; queries and keys change the scores."""
    encoder = copy.deepcopy(tower_of(name))
    x = batch(encoder)
    with torch.no_grad():
        before = encoder(x, scores=True)
        for projection in ("q", "k", "v"):
            weight = _weight_of(encoder, projection)
            kept = weight.clone()
            weight.mul_(torch.linspace(0.2, 1.9, len(weight))[:, None])
            after = encoder(x, scores=True)
            assert not torch.equal(after.tokens, before.tokens), projection
            moved = after.cls_probs - before.cls_probs
            assert (moved.abs().max() == 0) == (projection == "v"), projection
            weight.copy_(kept)
        assert torch.equal(encoder(x, scores=True).cls_scores, before.cls_scores)


@pytest.mark.parametrize("name", [name for name in CASES if name not in NO_ATTENTION])
def test_lora_trains_on_every_projection_and_leaves_no_trace(name):
    encoder = tower_of(name)
    digest, x = state_digest(encoder), batch(encoder)
    before = encoder(x)
    lora = Lora(Lora.Config(rank=1, targets=("q", "k", "v")))  # pyright: ignore[reportCallIssue]
    grafted = Grafted(encoder, {"lora": lora})
    assert torch.allclose(grafted(x).tokens, before.tokens, atol=1e-5), "the identity at the start"
    generator = torch.Generator().manual_seed(2)  # some draws saturate the attention, whose gradient is then exactly 0
    for parameter in grafted.trainable_parameters():
        torch.nn.init.normal_(parameter, std=0.5, generator=generator)
    features = grafted(x)
    assert not torch.allclose(features.tokens, before.tokens, atol=1e-3)
    parts = [features.tokens, features.pooled]  # an attention pooling has projections that no token sees
    torch.stack([(part * torch.randn(part.shape, generator=generator)).sum() for part in parts]).sum().backward()
    for key, parameter in lora.named_parameters():
        assert parameter.grad is not None and parameter.grad.abs().sum() > 0, key
    grafted.ungraft()
    assert torch.equal(encoder(x).tokens, before.tokens)
    assert state_digest(encoder) == digest


@each_case
def test_a_copy_is_independent(name):
    """The transforms of rotary attentions must follow the copy, not the original."""
    encoder = tower_of(name)
    twin = copy.deepcopy(encoder)
    x, scores = batch(encoder), CASES[name].scores
    with torch.no_grad():
        kept = encoder(x, scores=scores)
        for parameter in twin.parameters():
            parameter.mul_(1.3)
        twin(x, scores=scores)
        again = encoder(x, scores=scores)
        assert torch.equal(kept.tokens, again.tokens)
        if scores:
            assert torch.equal(kept.cls_scores, again.cls_scores)
        restored = copy.deepcopy(encoder)(x, scores=scores)
    assert not scores or torch.equal(restored.cls_scores, kept.cls_scores)


@pytest.mark.parametrize("name", ["timm-vit", "hf-clip-image", "open-clip-bert", "monai-vit"])
def test_random_weights_are_always_the_same_and_disturb_nothing(name):
    torch.manual_seed(7)
    expected = torch.rand(3)
    torch.manual_seed(7)
    encoder = CASES[name].build()
    assert torch.equal(torch.rand(3), expected)
    assert state_digest(encoder.freeze()) == state_digest(built(name))


def test_importing_the_sources_imports_no_library():
    code = (
        "import sys, medgraft.encoders.timm, medgraft.encoders.transformers, medgraft.encoders.open_clip\n"
        "import medgraft.encoders.m3d, medgraft.encoders.monai, medgraft.encoders.pixels\n"
        "import medgraft.encoders.braindecode\n"
        "medgraft.encoders.timm.TimmSource.models()\n"
        "heavy = ('timm', 'transformers', 'open_clip', 'monai', 'torchvision', 'braindecode', 'mne')\n"
        "print([n for n in heavy if n in sys.modules])"
    )
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert run.stdout.strip() == "[]"


@pytest.mark.parametrize(
    "source",
    [TimmSource, TransformersSource, OpenClipSource, MonaiSource, M3dSource, PixelsSource, embedded.EmbeddedSource],
)
def test_sources_list_what_they_build(source):
    assert source.api_version == 1
    models = source.models()
    assert models and all(isinstance(line, str) and line for line in models.values())
