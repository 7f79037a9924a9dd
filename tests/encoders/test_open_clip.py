"""open_clip: the same numbers as the library, its attention, BiomedCLIP's exact shape, local folders."""

from __future__ import annotations

import copy
import json
import re
from typing import Any

import open_clip
import pytest
import torch
import torch.nn.functional as F
from PIL import Image
from safetensors.torch import save_file
from transformers import BertConfig

from medgraft.checkpoints.weights import file_digest, state_digest
from medgraft.encoders.open_clip import BIOMEDBERT, BIOMEDCLIP, BIOMEDCLIP_CONFIG, OpenClipSource, construct
from medgraft.errors import CheckpointError, ConfigError, UnknownNameError

VISION: dict[str, Any] = {"image_size": 32, "patch_size": 8, "layers": 2, "width": 64, "head_width": 32}
TEXT: dict[str, Any] = {"context_length": 12, "vocab_size": 49408, "width": 32, "heads": 2, "layers": 2}
PLAIN: dict[str, Any] = {"embed_dim": 16, "vision_cfg": VISION, "text_cfg": TEXT}
TRUNK: dict[str, Any] = {"timm_model_name": "test_vit", "timm_pool": "", "timm_proj": "linear", "image_size": 160}
BERT: dict[str, Any] = {"hf_proj_type": "mlp", "hf_pooler_type": "cls_last_hidden_state_pooler", "context_length": 12}
WORDS = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "no", "pneumothorax", "##s", ".", "edema", "seen"]
BERT_IDS = torch.tensor([[2, 5, 6, 3, *[0] * 8], [2, 9, *[10] * 9, 3]])


def build(*args: Any, **options: Any) -> Any:
    return OpenClipSource.build(*args, **options)


@pytest.fixture(scope="module")
def bert_folder(tmp_path_factory):
    """A folder as the hub has them: the configuration and the vocabulary of a (tiny) BERT."""
    folder = tmp_path_factory.mktemp("bert")
    config = BertConfig(
        hidden_size=32, num_hidden_layers=2, num_attention_heads=2, intermediate_size=48, vocab_size=len(WORDS)
    )
    (folder / "config.json").write_text(config.to_json_string(use_diff=False))
    (folder / "vocab.txt").write_text("\n".join(WORDS) + "\n")
    settings = {"tokenizer_class": "BertTokenizer", "do_lower_case": True, "model_max_length": 12}
    (folder / "tokenizer_config.json").write_text(json.dumps(settings))
    return folder


def pair_with_bert(folder) -> dict[str, Any]:
    return {"embed_dim": 16, "vision_cfg": TRUNK, "text_cfg": BERT | {"hf_model_name": str(folder)}}


def stirred(config, seed=0) -> Any:
    """The library's model, biases and norms not trivial."""
    torch.manual_seed(seed)
    model = construct(copy.deepcopy(config)).eval()
    with torch.no_grad():
        for key, parameter in model.named_parameters():
            if parameter.ndim == 1 and not key.startswith("logit"):
                parameter.add_(0.3 * torch.randn(parameter.shape))
    return model


def saved(model, path):
    save_file({key: value.contiguous() for key, value in model.state_dict().items()}, path)
    return path


def loaded(model, config, tmp_path):
    path = saved(model, tmp_path / "open_clip_model.safetensors")
    return build("tiny", str(path), config=copy.deepcopy(config), sha256=file_digest(path))


def images(tower, dtype=torch.float32):
    size = tower.spec.input_size
    return torch.randn(2, 3, *size, generator=torch.Generator().manual_seed(0), dtype=dtype)


CONFIGS: dict[str, dict[str, Any]] = {
    "plain": PLAIN,
    "quickgelu": PLAIN | {"quick_gelu": True},
    "mean": PLAIN | {"vision_cfg": VISION | {"pool_type": "avg", "final_ln_after_pool": True}},
    "custom attention": PLAIN | {"vision_cfg": VISION | {"qk_norm": True}},
    "siglip": {
        "embed_dim": 96,
        "vision_cfg": {"timm_model_name": "test_vit3", "timm_pool": "map", "timm_proj": "none", "image_size": 160},
        "text_cfg": TEXT | {"width": 96, "no_causal_mask": True, "pool_type": "last", "proj_bias": True, "pad_id": 1},
        "init_logit_bias": -10,
    },
    "cnn trunk": PLAIN | {"vision_cfg": TRUNK | {"timm_model_name": "test_resnet", "timm_pool": "avg"}},
    "classifier as head": PLAIN | {"vision_cfg": TRUNK | {"timm_pool": "avg", "timm_proj": ""}},
    "mlp head": PLAIN | {"vision_cfg": TRUNK | {"timm_proj": "mlp"}},
}


@pytest.mark.parametrize("kind", CONFIGS)
def test_both_towers_end_in_the_librarys_shared_space(kind, tmp_path):
    model = stirred(CONFIGS[kind])
    encoder = loaded(model, CONFIGS[kind], tmp_path)
    image, text = encoder.towers()["image"], encoder.towers()["text"]
    ids = open_clip.tokenize(["no pneumothorax", "edema and more of it than there is room for in twelve tokens"], 12)
    with torch.no_grad():
        seen, read = image(images(image)), text(ids)
        assert torch.allclose(image.project(seen.pooled), model.encode_image(images(image)), atol=1e-6)
        assert torch.allclose(text.project(read.pooled), model.encode_text(ids), atol=1e-6)
        if kind not in ("siglip", "mean", "cnn trunk", "classifier as head"):
            assert torch.equal(seen.pooled, seen.tokens[:, 0])
    assert encoder.logit_scale == pytest.approx(model.logit_scale.exp().item())
    assert encoder.spec.weights == image.spec.weights == f"pretrained:{state_digest(encoder)}"
    assert bool(image.attention) == (kind not in ("custom attention", "cnn trunk"))
    assert not text.has_cls


def test_a_bert_tower_ends_in_the_librarys_shared_space(bert_folder, tmp_path):
    config = pair_with_bert(bert_folder)
    model = stirred(config)
    encoder = loaded(model, config, tmp_path)
    image, text = encoder.towers()["image"], encoder.towers()["text"]
    with torch.no_grad():
        features = text(BERT_IDS)
        assert torch.allclose(text.project(features.pooled), model.encode_text(BERT_IDS), atol=1e-6)
        assert torch.allclose(image.project(image(images(image)).pooled), model.encode_image(images(image)), atol=1e-6)
        assert text.project(features.tokens).shape == (2, 12, 16)
    assert features.mask.sum(dim=1).tolist() == [4, 12] and features.grid == (11,)
    assert torch.equal(features.pooled, features.tokens[:, 0])


@pytest.mark.parametrize("pooler", ["mean_pooler", "cls_pooler"])
def test_other_poolers_are_the_librarys(bert_folder, tmp_path, pooler):
    config = pair_with_bert(bert_folder)
    config["text_cfg"] |= {"hf_pooler_type": pooler}
    model = stirred(config)
    text = loaded(model, config, tmp_path).towers()["text"]
    with torch.no_grad():
        assert torch.allclose(text.project(text(BERT_IDS).pooled), model.encode_text(BERT_IDS), atol=1e-6)
    assert text.has_cls == (pooler == "cls_pooler")
    if not text.has_cls:
        with pytest.raises(ConfigError, match="CLS"):
            text(BERT_IDS, scores=True)


def test_cls_row_is_the_multihead_attentions_own(tmp_path):
    image = loaded(stirred(PLAIN), PLAIN, tmp_path).towers()["image"].double()
    x = images(image, torch.float64)
    block = image.model.transformer.resblocks[-1]
    with torch.no_grad():
        features = image(x, scores=True)
        hidden = block.ln_1(image.prefix(x, image.n_stages - 1))
        weights = block.attn(hidden, hidden, hidden, need_weights=True, average_attn_weights=False)[1]
    assert (features.cls_probs - weights[:, :, 0, 1:]).abs().max() < 1e-9


def test_cls_row_of_bert_is_the_librarys_attention_with_padding(bert_folder, tmp_path):
    config = pair_with_bert(bert_folder)
    text = loaded(stirred(config), config, tmp_path).towers()["text"].double()
    eager = copy.deepcopy(text.model.transformer)
    eager.set_attn_implementation("eager")
    mask = (BERT_IDS != 0).long()
    with torch.no_grad():
        features = text(BERT_IDS, scores=True)
        attention = eager(input_ids=BERT_IDS, attention_mask=mask, output_attentions=True).attentions[-1]
    assert (features.cls_probs - attention[:, :, 0, 1:]).abs().max() < 1e-9
    assert (features.cls_scores[0, :, 3:] == -torch.inf).all() and (features.cls_probs[0, :, 3:] == 0).all()


def test_padding_zero_is_told_from_an_exclamation_mark():
    """CLIP pads with 0, which is also the id of a ``!`` inside a text."""
    text = build("tiny", "random", config=PLAIN).towers()["text"]
    ids = torch.tensor([[49406, 0, 320, 0, 49407, *[0] * 7]])
    assert text(ids).mask.tolist() == [[True] * 5 + [False] * 7]
    prepared = text.tokenize(["no pneumothorax", "edema"])
    assert torch.equal(prepared, open_clip.tokenize(["no pneumothorax", "edema"], 12))


def test_prepare_is_the_librarys_transform(radiograph):
    image = build("tiny", "random", config=PLAIN).towers()["image"]
    transform: Any = open_clip.image_transform(32, is_train=False)
    expected = transform(Image.fromarray(radiograph).convert("RGB"))
    assert torch.equal(image.prepare(radiograph), expected)


# -- names and places -------------------------------------------------------------------------------------------------


def test_a_local_folder_brings_configuration_preprocessing_and_tokenizer(bert_folder, tmp_path, radiograph):
    config = pair_with_bert(bert_folder)
    config["text_cfg"] |= {"hf_tokenizer_name": "nobody/has-this"}
    model = stirred(config)
    saved(model, tmp_path / "open_clip_pytorch_model.safetensors")
    described = {"model_cfg": config, "preprocess_cfg": {"mean": [0.5] * 3, "std": [0.25] * 3}}
    (tmp_path / "open_clip_config.json").write_text(json.dumps(described))
    for name in ("vocab.txt", "tokenizer_config.json"):
        (tmp_path / name).write_text((bert_folder / name).read_text())
    encoder = build("hf-hub:nobody/has-this", str(tmp_path))
    image, text = encoder.towers()["image"], encoder.towers()["text"]
    assert image.spec.intensity == "(grey / 255 - 0.5) / 0.25"
    assert image.prepare(radiograph).shape == (3, 160, 160)
    ids = text.tokenize(["No pneumothorax.", "edemas seen " * 20])
    assert ids[0].tolist() == [2, 5, 6, 8, 3, *[0] * 7] and ids[1, -1] == 3
    with torch.no_grad():
        assert torch.allclose(text.project(text(ids).pooled), model.encode_text(ids), atol=1e-6)


def test_openai_layout_and_stray_buffers_are_understood(tmp_path):
    """CLIP's own files keep the text tower at the root; old ones of BERT towers carry a buffer of positions."""
    model = stirred(PLAIN)
    state = {key.removeprefix("text."): value for key, value in model.state_dict().items()}
    state = {f"module.{key}": value.clone() for key, value in state.items()}
    torch.save({"state_dict": state}, tmp_path / "clip.pt")
    encoder = build("tiny", str(tmp_path / "clip.pt"), config=PLAIN)
    text = encoder.towers()["text"]
    ids = open_clip.tokenize(["edema"], 12)
    assert torch.allclose(text.project(text(ids).pooled), model.encode_text(ids), atol=1e-6)


def test_checkpoints_that_do_not_fit_are_refused(tmp_path, pickle_bomb):
    model, path = stirred(PLAIN), tmp_path / "clip.safetensors"

    def load(state):
        save_file(state, path)
        return build("tiny", str(path), config=PLAIN)

    state = {key: value.contiguous() for key, value in model.state_dict().items()}
    with pytest.raises(CheckpointError, match=r"missing: visual\.proj"):
        load({key: value for key, value in state.items() if key != "visual.proj"})
    with pytest.raises(CheckpointError, match=r"visual\.proj is \(1, 2\), expected \(64, 16\)"):
        load(state | {"visual.proj": torch.zeros(1, 2)})
    bomb, fuse = pickle_bomb
    with pytest.raises(CheckpointError, match="more than tensors"):
        build("tiny", str(bomb), config=PLAIN)
    assert not fuse.exists()
    folder = tmp_path / "folder"
    folder.mkdir()
    (folder / "open_clip_config.json").write_text("{")
    with pytest.raises(CheckpointError, match=r"open_clip_config\.json cannot be read"):
        build("tiny", str(folder))
    (folder / "open_clip_config.json").write_text(json.dumps({"model_cfg": PLAIN}))
    with pytest.raises(CheckpointError, match="holds no weights"):
        build("tiny", str(folder))


def test_names_and_options_that_do_not_exist():
    with pytest.raises(UnknownNameError, match="ViT-B-32"):
        build("ViT-B-33", "random")
    with pytest.raises(ConfigError, match="layerz"):
        build("tiny", "random", config=PLAIN | {"vision_cfg": VISION | {"layerz": 3}})
    with pytest.raises(UnknownNameError, match="laion2b_s34b_b79k"):
        build("ViT-B-32", "laion2b_s34b")


@pytest.mark.parametrize(
    ("name", "weights"), [("ViT-B-32", "default"), ("ViT-B-32", "laion2b_s34b_b79k"), (BIOMEDCLIP, "default")]
)
def test_no_network_is_one_sentence_with_a_remedy(name, weights):
    with pytest.raises(CheckpointError, match="@random") as caught:
        build(name, weights)
    assert f"open_clip:{name}" in str(caught.value) and "\n" not in str(caught.value)


def test_a_hub_tokenizer_without_network_refuses_only_texts(bert_folder):
    config = pair_with_bert(bert_folder)
    config["text_cfg"] |= {"hf_tokenizer_name": BIOMEDBERT}
    text = build("tiny", "random", config=config).towers()["text"]
    assert text(BERT_IDS).pooled.shape == (2, 32)
    with pytest.raises(CheckpointError, match=re.escape("vocab.txt beside the weights")):
        text.prepare("no pneumothorax")
    text = build("tiny", "random", config=config, tokenizer=str(bert_folder)).towers()["text"]
    assert text.prepare("edema").tolist() == [2, 9, 3, *[0] * 9]


# -- BiomedCLIP -------------------------------------------------------------------------------------------------------


def test_biomedclip_has_the_published_shape():
    with torch.device("meta"):
        model = construct(BIOMEDCLIP_CONFIG)
    assert sum(parameter.numel() for parameter in model.parameters()) == 195_902_721
    assert len(model.state_dict()) == 351
    assert model.visual.head.proj.weight.shape == (512, 768) and model.visual.head.proj.bias is None
    assert [model.text.proj[i].weight.shape for i in (0, 2)] == [(640, 768), (512, 640)]


@pytest.mark.slow
def test_biomedclip_from_a_folder_as_on_the_hub(tmp_path):
    """The hub's file: the names of its time, and a buffer that transformers has dropped since."""
    torch.manual_seed(0)
    model = construct(BIOMEDCLIP_CONFIG).eval()
    with torch.no_grad():
        model.logit_scale.fill_(4.4454)
    state = {key: value.contiguous() for key, value in model.state_dict().items()}
    state["text.transformer.embeddings.position_ids"] = torch.arange(512)[None]
    save_file(state, tmp_path / "open_clip_model.safetensors")
    (tmp_path / "open_clip_config.json").write_text(json.dumps({"model_cfg": BIOMEDCLIP_CONFIG}))
    encoder = build(BIOMEDCLIP, str(tmp_path))
    image, text = encoder.towers()["image"], encoder.towers()["text"]
    assert encoder.logit_scale == pytest.approx(85.24, abs=0.05)
    assert encoder.spec.licence == "MIT" and encoder.spec.cohorts == ("PMC-15M",)
    assert text.spec.input_size == (256,) and len(image.attention) == len(text.attention) == 12
    ids = torch.zeros(1, 256, dtype=torch.int64)
    ids[0, :5] = torch.tensor([2, 1000, 2000, 3000, 3])
    with torch.no_grad():
        seen, read = image(images(image)[:1], scores=True), text(ids, scores=True)
        assert seen.cls_scores.shape == (1, 12, 196) and read.cls_probs.shape == (1, 12, 255)
        assert torch.allclose(image.project(seen.pooled), model.encode_image(images(image)[:1]), atol=1e-5)
        assert torch.allclose(text.project(read.pooled), model.encode_text(ids), atol=1e-5)
        expected = F.normalize(model.encode_text(ids), dim=-1)
    assert torch.allclose(F.normalize(text.project(read.pooled), dim=-1), expected, atol=1e-6)
