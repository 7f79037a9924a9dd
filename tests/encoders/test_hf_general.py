"""Models of transformers without a class of their own here: the library's numbers, sites, stages, scores, refusals."""

from __future__ import annotations

import copy
import functools
from typing import Any, NamedTuple

import numpy as np
import pytest
import torch
import transformers
from safetensors.torch import save_file

from medgraft.adapters.lora import Lora
from medgraft.encoders.parts.hf.families import family_of
from medgraft.encoders.transformers import TransformersSource
from medgraft.errors import CheckpointError, ConfigError, IncompatibleError, MedgraftError, UnknownNameError
from medgraft.grafting import Grafted

VIT: dict[str, Any] = {
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "intermediate_size": 64,
    "image_size": 32,
    "patch_size": 8,
}
DINO2 = {key: value for key, value in VIT.items() if key != "intermediate_size"}
NAFLEX = {key: value for key, value in VIT.items() if key != "image_size"} | {"num_patches": 16}
STAGES: dict[str, Any] = {"hidden_sizes": [8, 12, 16, 20], "depths": [1, 1, 2, 1]}
TEXT: dict[str, Any] = {
    "hidden_size": 24,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "intermediate_size": 48,
    "vocab_size": 60,
    "max_position_embeddings": 16,
    "pad_token_id": 1,
    "bos_token_id": 2,
    "eos_token_id": 3,
}
GROUPED = TEXT | {"num_key_value_heads": 2}
DEBERTA = TEXT | {"relative_attention": True, "pos_att_type": ["c2p", "p2c"]}


class Image(NamedTuple):
    """A vision model: what of its tokens stand for no place, how they are pooled, and whether it has CLS scores."""

    config: dict[str, Any]
    n_prefix: int
    pooling: str
    scores: bool
    attention: bool = True


IMAGES = {
    "dinov3_vit": Image(VIT | {"num_register_tokens": 2}, 3, "cls", True),
    "dinov3_convnext": Image(STAGES | {"image_size": 64}, 1, "the library's pooler", False, False),
    "siglip2_vision_model": Image(NAFLEX, 0, "attention pooling", False),
    "vit_mae": Image(VIT, 1, "cls", True),
    "vit_msn": Image(VIT, 1, "cls", True),
    "beit": Image(VIT | {"use_relative_position_bias": True}, 1, "the library's pooler", False),
    "data2vec_vision": Image(VIT | {"use_shared_relative_position_bias": True}, 1, "cls", False),
    "ijepa": Image(VIT, 0, "mean", False),
    "deit": Image(VIT, 2, "cls", True),
    "convnext": Image(STAGES | {"image_size": 64}, 0, "the library's pooler", False, False),
    "swin": Image(
        {"embed_dim": 8, "depths": [1, 1], "num_heads": [2, 2], "window_size": 4, "image_size": 32, "patch_size": 2},
        0,
        "the library's pooler",
        False,
        False,
    ),
    "resnet": Image(STAGES | {"embedding_size": 8}, 0, "the library's pooler", False, False),
    "bit": Image(
        {"embedding_size": 8, "hidden_sizes": [16, 32], "depths": [1, 1], "num_groups": 4},
        0,
        "the library's pooler",
        False,
        False,
    ),
}


class Words(NamedTuple):
    """A text model: its pooling, whether it has CLS scores, and widths of q, k and v."""

    config: dict[str, Any]
    pooling: str
    scores: bool
    widths: tuple[int, int, int] = (24, 24, 24)


TEXTS = {
    "qwen3": Words(GROUPED | {"head_dim": 6}, "last token", False, (24, 12, 12)),
    "llama": Words(GROUPED, "last token", False, (24, 12, 12)),
    "mistral": Words(GROUPED, "last token", False, (24, 12, 12)),
    "phi3": Words(GROUPED, "last token", False, (24, 12, 12)),
    "gemma2": Words(GROUPED | {"head_dim": 8}, "last token", False, (32, 16, 16)),
    "modernbert": Words(TEXT | {"layer_types": ["sliding_attention", "full_attention"]}, "cls", True),
    "distilbert": Words(
        {"dim": 24, "n_layers": 2, "n_heads": 4, "hidden_dim": 48, "vocab_size": 60, "max_position_embeddings": 16},
        "cls",
        True,
    ),
    "deberta": Words(DEBERTA, "cls", False),
    "deberta_v2": Words(DEBERTA | {"share_att_key": True, "position_buckets": 4}, "cls", False),
    "electra": Words(TEXT | {"embedding_size": 12}, "cls", True),
    "albert": Words(TEXT | {"embedding_size": 12}, "cls", True),
    "mpnet": Words(TEXT, "cls", False),
    "xlm_roberta": Words(TEXT, "cls", True),
    "gpt2": Words({"n_embd": 24, "n_layer": 2, "n_head": 4, "vocab_size": 60, "n_positions": 16}, "last token", False),
    "bloom": Words({"hidden_size": 24, "n_layer": 2, "n_head": 4, "vocab_size": 60}, "last token", False),
    "gpt_neox": Words(TEXT, "last token", False),
    "t5": Words(
        {"d_model": 24, "d_kv": 6, "num_heads": 4, "num_layers": 2, "d_ff": 48, "vocab_size": 60}, "mean", False
    ),
}


def build(*args: Any, **options: Any) -> Any:
    return TransformersSource.build(*args, **options)


@functools.cache
def library(name: str) -> Any:
    """The library's model in float64, with biases and norms that are not trivial."""
    family = family_of(name, name)
    config: Any = {**IMAGES, **TEXTS}[name].config
    torch.manual_seed(0)
    made = getattr(transformers, family.config)(**copy.deepcopy(config))
    if name == "vit_mae":
        made.mask_ratio = 0.0
    model = getattr(transformers, family.model)(made).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.1 * torch.randn(parameter.shape))
        for key, value in model.named_buffers():
            if key.endswith("running_var"):
                value.uniform_(0.5, 2)
    return model.float().double()


@functools.cache
def folder(name: str) -> str:
    import tempfile

    path = tempfile.mkdtemp(prefix=f"medgraft-test-{name}-")
    copy.deepcopy(library(name)).float().save_pretrained(path)
    return path


@functools.cache
def encoder(name: str) -> Any:
    return build(name, folder(name))


def pixels(tower: Any, dtype=torch.float64) -> torch.Tensor:
    size = (2, tower.spec.channels, *tower.spec.input_size)
    return torch.randn(size, generator=torch.Generator().manual_seed(1), dtype=dtype)


def ids(tower: Any) -> torch.Tensor:
    length = tower.spec.input_size[0]
    found = torch.randint(4, 60, (2, length), generator=torch.Generator().manual_seed(1))
    found[0, 6:] = tower.pad_id
    return found


def exact(name: str) -> Any:
    """The encoder as it was loaded, in float64; the file holds every digit of the reference's weights."""
    return copy.deepcopy(encoder(name)).double()


@torch.no_grad()
def expected(name: str, x: torch.Tensor) -> Any:
    """The library's output: of a masked autoencoder its own unmasked order, of NaFlex its own patches."""
    model = library(name)
    if name == "vit_mae":
        return model(pixel_values=x, noise=torch.arange(16.0).expand(2, -1))
    if name == "siglip2_vision_model":
        from transformers.models.siglip2.image_processing_siglip2 import convert_image_to_patches

        patches = torch.stack([convert_image_to_patches(image, 8) for image in x])
        shapes = torch.tensor([[4, 4], [4, 4]])
        return model(pixel_values=patches, pixel_attention_mask=torch.ones(2, 16).long(), spatial_shapes=shapes)
    return model(pixel_values=x)


@pytest.mark.parametrize("name", IMAGES)
def test_images_are_encoded_as_the_library_does(name):
    tower, case = exact(name), IMAGES[name]
    x = pixels(tower)
    with torch.no_grad():
        features, wanted = tower(x), expected(name, x)
    last = wanted.last_hidden_state
    tokens = last.flatten(2).transpose(1, 2) if last.ndim == 4 else last
    assert torch.allclose(features.tokens, tokens, rtol=1e-9, atol=1e-9)
    if case.pooling == "mean":
        pooled = tokens.mean(dim=1)
    elif case.pooling == "cls":
        pooled = tokens[:, 0]
    else:
        pooled = wanted.pooler_output.flatten(1)
    assert torch.allclose(features.pooled, pooled, rtol=1e-9, atol=1e-9)
    assert (features.n_prefix, tower.spec.pooling) == (case.n_prefix, case.pooling)
    assert features.n_prefix + features.grid[0] * features.grid[1] == features.tokens.shape[1]
    assert tower.has_scores == case.scores and bool(tower.attention) == case.attention
    assert features.tokens.shape[-1] == tower.spec.dim


@pytest.mark.parametrize("name", IMAGES)
def test_every_stage_ends_where_the_whole_run_does(name):
    tower = encoder(name)
    x = pixels(tower, torch.float32)
    with torch.no_grad():
        whole = tower(x)
        assert tower.n_stages == len(tower.block_paths()) + 1 > 2
        for stage in range(tower.n_stages):
            hidden = tower.prefix(x, stage)
            again = tower(hidden, start=stage)
            assert torch.equal(again.tokens, whole.tokens) and torch.equal(again.pooled, whole.pooled)
    assert not any("forward" in vars(module) for module in tower.modules()), "a run leaves nothing behind"
    assert not any(module._forward_pre_hooks for module in tower.modules())


@pytest.mark.parametrize("name", TEXTS)
def test_texts_are_encoded_as_the_library_does(name):
    tower, case = exact(name), TEXTS[name]
    x = ids(tower)
    model = library(name).get_encoder() if name == "t5" else library(name)
    mask = x != tower.pad_id
    with torch.no_grad():
        features = tower(x)
        wanted = model(input_ids=x, attention_mask=mask.long()).last_hidden_state
    assert torch.allclose(features.tokens.double()[mask], wanted[mask], rtol=1e-5, atol=1e-5)  # features are float32
    lengths = mask.sum(dim=1)
    pooled = {
        "cls": wanted[:, 0],
        "last token": wanted[torch.arange(2), lengths - 1],
        "mean": (wanted * mask[..., None]).sum(1) / lengths[:, None],
    }[case.pooling]
    assert torch.allclose(features.pooled.double(), pooled, rtol=1e-5, atol=1e-5)
    assert tower.spec.pooling == case.pooling and tower.has_scores == case.scores
    assert torch.equal(features.mask, mask)
    assert {layout.widths for layout in tower.attention} == {case.widths}


@pytest.mark.parametrize("name", [*(n for n, c in IMAGES.items() if c.attention), *TEXTS])
def test_lora_reaches_every_projection(name):
    """Default targets work, each projection has its own width, and all of them get a gradient."""
    tower = copy.deepcopy(encoder(name))
    sites = tower.sites()
    blocks = len(tower.attention)
    for index in range(blocks):
        wanted = {f"blocks.{index}{part}" for part in ("", ".attn.q", ".attn.k", ".attn.v", ".attn.out", ".attn")}
        assert wanted <= set(sites), name
        assert f"blocks.{index}.mlp" in sites
    assert any(site.kind == "norm" and site.block == 0 for site in sites.values())
    lora = Lora(Lora.Config(rank=2, targets=("q", "k", "v", "out")))  # pyright: ignore[reportCallIssue]
    grafted = Grafted(tower, {"lora": lora})
    x = ids(tower) if name in TEXTS else pixels(tower, torch.float32)
    before = encoder(name)(x).tokens
    assert torch.allclose(grafted(x).tokens, before, atol=1e-5)
    for parameter in grafted.trainable_parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    features = grafted(x)
    weight = torch.randn(features.tokens.shape, generator=torch.Generator().manual_seed(2))
    ((features.tokens * weight).sum() + (features.pooled * weight[:, 0]).sum()).backward()
    dead = [key for key, p in lora.named_parameters() if p.grad is None or p.grad.abs().sum() == 0]
    assert not dead


@pytest.mark.parametrize("name", [n for n, c in {**IMAGES, **TEXTS}.items() if c.scores])
def test_cls_scores_are_the_librarys_attention(name):
    tower = encoder(name)
    twin = copy.deepcopy(tower.model)
    twin.set_attn_implementation("eager")
    with torch.no_grad():
        if name in TEXTS:
            x = ids(tower)
            features = tower(x, scores=True)
            weights = twin(input_ids=x, attention_mask=(x != tower.pad_id).long(), output_attentions=True).attentions
        else:
            x = pixels(tower, torch.float32)
            features = tower(x, scores=True)
            weights = tower.call(_Eager(twin), x).attentions
    row = weights[-1][:, :, 0, features.n_prefix :]
    assert torch.allclose(features.cls_probs, row, rtol=1e-4, atol=1e-6)


class _Eager:
    """The library's model, asked for its attention as well."""

    def __init__(self, model):
        self.model, self.config = model, model.config

    def __call__(self, **options):
        return self.model(**options, output_attentions=True)


@pytest.mark.parametrize("name", ["beit", "deberta", "mpnet", "siglip2_vision_model", "qwen3"])
def test_scores_that_queries_and_keys_do_not_give_are_refused(name):
    tower = encoder(name)
    x = ids(tower) if name in TEXTS else pixels(tower, torch.float32)
    with pytest.raises(ConfigError, match="no CLS"):
        tower(x, scores=True)


def test_nothing_is_masked_in_an_autoencoder_by_default_settings():
    tower = build("vit_mae", "random", config=VIT)
    x = pixels(tower, torch.float32)
    state = torch.get_rng_state()
    with torch.no_grad():
        first, second = tower(x), tower(x)
    assert torch.equal(first.tokens, second.tokens) and first.tokens.shape[1] == 17
    assert torch.equal(state, torch.get_rng_state())


@pytest.mark.parametrize("name", ["vit", "dinov3_vit", "beit", "convnext", "siglip2_vision_model"])
def test_one_channel_runs_on_its_own_prepared_input(name, radiograph):
    config = {"vit": VIT, **{key: case.config for key, case in IMAGES.items()}}[name]
    tower = build(name, "random", config=config | {"num_channels": 1})
    x = tower.prepare(radiograph)
    assert x.shape == (1, *tower.spec.input_size) and tower.spec.channels == 1
    assert tower(x[None]).tokens.isfinite().all()
    assert torch.allclose(tower.prepare(np.full((40, 50), 255, np.uint8)).amax(), x.new_tensor(1.0), atol=2)
    with pytest.raises(ConfigError, match="4 channels"):
        build(name, "random", config=config | {"num_channels": 4})


def test_the_image_tower_of_a_pair_can_be_loaded_alone(tmp_path):
    text = TEXT | {"projection_dim": 16}
    config = transformers.CLIPConfig(vision_config=VIT, text_config=text, projection_dim=16)  # pyright: ignore
    model = transformers.CLIPModel(config).eval()
    model.save_pretrained(tmp_path)
    alone = build("clip_vision_model", str(tmp_path))
    x = torch.randn(2, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        assert torch.allclose(alone(x).pooled, model.vision_model(x).pooler_output, atol=1e-5)


def test_heads_beside_the_encoder_are_left_out_and_missing_weights_are_not(tmp_path):
    kind = transformers.ElectraForPreTraining(transformers.ElectraConfig(**TEXTS["electra"].config))
    kind.save_pretrained(tmp_path / "whole")
    assert build("electra", str(tmp_path / "whole")).spec.dim == 24
    state = {k: v.contiguous() for k, v in kind.state_dict().items() if "attention.self.query" not in k}
    save_file(state, tmp_path / "part.safetensors")
    with pytest.raises(CheckpointError, match=r"missing: .*query"):
        build("electra", str(tmp_path / "part.safetensors"), config=TEXTS["electra"].config)


@pytest.mark.parametrize(
    ("name", "error", "reason"),
    [
        ("dinov3", UnknownNameError, "dinov3_vit"),
        ("distlbert", UnknownNameError, "distilbert"),
        ("whisper", IncompatibleError, "reads input_features"),
        ("vits", MedgraftError, "vits"),
    ],
)
def test_what_cannot_be_built_is_refused_with_its_reason(name, error, reason):
    with pytest.raises(error, match=reason):
        build(name, "random")


def test_a_size_that_a_model_does_not_run_on_is_refused_at_build():
    with pytest.raises(MedgraftError, match=r"does not run on an image|no grid|options"):
        build("vit_msn", "random", config=VIT | {"image_size": 4})
