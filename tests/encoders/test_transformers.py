"""transformers: the same numbers as the library, its attention, its processors and tokenizers, its checkpoints."""

from __future__ import annotations

import copy
import functools
import json
from typing import Any

import pytest
import torch
import transformers
from PIL import Image
from safetensors.torch import save_file

from medgraft.checkpoints.weights import state_digest
from medgraft.encoders.transformers import FAMILIES, TransformersSource
from medgraft.errors import CheckpointError, ConfigError, UnknownNameError

VISION: dict[str, Any] = {
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "intermediate_size": 64,
    "image_size": 32,
    "patch_size": 8,
}
DINO = {key: value for key, value in VISION.items() if key != "intermediate_size"}
TEXT: dict[str, Any] = {
    "hidden_size": 24,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "intermediate_size": 48,
    "vocab_size": 60,
    "max_position_embeddings": 8,
    "bos_token_id": 58,
    "eos_token_id": 59,
    "pad_token_id": 1,
}
CONFIGS: dict[str, dict[str, Any]] = {
    "vit": VISION,
    "dinov2": DINO,
    "dinov2_with_registers": DINO | {"num_register_tokens": 3},
    "clip": {"vision_config": VISION, "text_config": TEXT, "projection_dim": 16},
    "siglip": {"vision_config": VISION, "text_config": TEXT | {"projection_size": 32}},
}
IDS = torch.tensor([[58, 4, 5, 59, 59, 59, 59, 59], [58, 9, 8, 7, 6, 5, 4, 59]])


def build(*args: Any, **options: Any) -> Any:
    return TransformersSource.build(*args, **options)


@functools.cache
def model_of(family: str) -> Any:
    """The library's model with biases and norms that are not trivial."""
    torch.manual_seed(0)
    config = getattr(transformers, FAMILIES[family].config)(**copy.deepcopy(CONFIGS[family]))
    extra = {"add_pooling_layer": False} if family == "vit" else {}
    model = getattr(transformers, FAMILIES[family].model)(config, **extra).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.1 * torch.randn(parameter.shape))
    return model


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    root = tmp_path_factory.mktemp("models")
    for family in CONFIGS:
        model_of(family).save_pretrained(root / family)
    return root


def close(a, b):
    """Equal but for rounding: weights read from a file may be aligned otherwise in memory than fresh ones."""
    return a.shape == b.shape and torch.allclose(a, b, rtol=1e-5, atol=1e-5)


def images(dtype=torch.float32, size=32):
    return torch.randn(2, 3, size, size, generator=torch.Generator().manual_seed(0), dtype=dtype)


@pytest.mark.parametrize("family", ["vit", "dinov2", "dinov2_with_registers"])
def test_vision_features_are_the_librarys(family, folders):
    encoder = build(family, str(folders / family))
    with torch.no_grad():
        features = encoder(images())
        expected = encoder.model(pixel_values=images()).last_hidden_state
        reference = model_of(family)(pixel_values=images()).last_hidden_state
    assert torch.equal(features.tokens, expected) and torch.equal(features.pooled, expected[:, 0])
    assert close(features.tokens, reference)
    assert features.n_prefix == (4 if "registers" in family else 1) and features.grid == (4, 4)
    assert encoder.spec.weights == f"pretrained:{state_digest(encoder)}"


@pytest.mark.parametrize("family", ["clip", "siglip"])
def test_both_towers_end_in_the_librarys_shared_space(family, folders):
    encoder, model = build(family, str(folders / family)), model_of(family)
    image, text = encoder.towers()["image"], encoder.towers()["text"]
    with torch.no_grad():
        seen, read = image(images()), text(IDS)
        expected_image = model.get_image_features(pixel_values=images())
        expected_text = model.get_text_features(input_ids=IDS)
        states = model.vision_model(pixel_values=images()).last_hidden_state
        expected_tokens = model.vision_model.post_layernorm(states) if family == "clip" else states
        assert close(seen.tokens, expected_tokens)
        assert close(read.tokens, model.text_model(input_ids=IDS).last_hidden_state)
        assert close(image.project(seen.pooled), expected_image.pooler_output)
        assert close(text.project(read.pooled), expected_text.pooler_output)
        assert torch.equal(seen.pooled, image.model(pixel_values=images()).pooler_output)
        assert image.project(seen.tokens).shape == (2, 17 - (family == "siglip"), 16 if family == "clip" else 32)
    assert encoder.logit_scale == pytest.approx(model.logit_scale.exp().item())


def test_text_masks_end_with_the_end_token(folders):
    clip = build("clip", str(folders / "clip")).towers()["text"]
    assert clip(IDS).mask.sum(dim=1).tolist() == [4, 8]
    siglip = build("siglip", str(folders / "siglip")).towers()["text"]
    padded = torch.tensor([[5, 6, 7, 1, 1, 1, 1, 1]])
    assert siglip(padded).mask.sum(dim=1).tolist() == [4]


def test_clip_checkpoints_with_the_wrong_end_id_pool_as_the_library_does():
    config = copy.deepcopy(CONFIGS["clip"])
    config["text_config"]["eos_token_id"] = 2
    text = build("clip", "random", config=config).towers()["text"]
    features = text(IDS)
    assert features.mask.sum(dim=1).tolist() == [4, 8]
    assert torch.equal(features.pooled, features.tokens[torch.arange(2), torch.tensor([3, 7])])


@pytest.mark.parametrize("family", ["vit", "dinov2", "dinov2_with_registers", "clip"])
def test_cls_row_is_the_librarys_attention(family, folders):
    encoder = build(family, str(folders / family))
    tower = next(iter(encoder.towers().values())).double()
    eager = copy.deepcopy(tower.model)
    eager.set_attn_implementation("eager")
    with torch.no_grad():
        features = tower(images(torch.float64), scores=True)
        attention = eager(pixel_values=images(torch.float64), output_attentions=True).attentions[-1]
    expected = attention[:, :, 0, features.n_prefix :]
    # The library takes its softmax in single precision, except in DINOv2.
    assert (features.cls_probs - expected).abs().max() < (1e-9 if "dino" in family else 1e-6)


def test_dinov2_takes_the_size_of_its_processor(folders, radiograph, tmp_path):
    """The hub's DINOv2 has positions for 518 x 518 and a processor that crops to another size."""
    model_of("dinov2").save_pretrained(tmp_path)
    processor = transformers.BitImageProcessor(
        size={"shortest_edge": 56}, crop_size={"height": 48, "width": 48}, image_mean=[0.53] * 3, image_std=[0.26] * 3
    )
    processor.save_pretrained(tmp_path)
    encoder = build(str(tmp_path))
    assert encoder.spec.input_size == (48, 48) and encoder.spec.intensity == "(grey / 255 - 0.53) / 0.26"
    prepared = encoder.prepare(radiograph)
    picture = Image.fromarray(radiograph).convert("RGB")
    assert torch.equal(prepared, processor(images=picture, return_tensors="pt")["pixel_values"][0])
    features = encoder(prepared[None])
    assert features.grid == (6, 6)
    assert close(features.tokens, model_of("dinov2")(pixel_values=prepared[None]).last_hidden_state)


@pytest.mark.parametrize("family", CONFIGS)
def test_families_prepare_without_a_processor_at_hand(family, radiograph):
    encoder = build(family, "random", config=copy.deepcopy(CONFIGS[family]))
    tower = next(iter(encoder.towers().values()))
    prepared = tower.prepare(radiograph)
    assert prepared.shape == (3, 32, 32) and prepared.dtype == torch.float32
    assert prepared.abs().max() < 5


def old_keys(state):
    """The layout of ViT checkpoints before version 5, as in the hub's files."""
    names = {
        "layers.": "encoder.layer.",
        "attention.q_proj": "attention.attention.query",
        "attention.k_proj": "attention.attention.key",
        "attention.v_proj": "attention.attention.value",
        "attention.o_proj": "attention.output.dense",
        "mlp.fc1": "intermediate.dense",
        "mlp.fc2": "output.dense",
    }
    renamed = {}
    for key, value in state.items():
        for new, old in names.items():
            key = key.replace(new, old)
        renamed[f"vit.{key}"] = value.clone()
    return renamed | {"classifier.weight": torch.zeros(3, 32), "classifier.bias": torch.zeros(3)}


@pytest.mark.parametrize("wrapper", ["", "module."])
def test_a_single_file_in_the_old_layout_loads(tmp_path, wrapper):
    state = {f"{wrapper}{key}": value for key, value in old_keys(model_of("vit").state_dict()).items()}
    save_file(state, tmp_path / "vit.safetensors")
    encoder = build("vit", str(tmp_path / "vit.safetensors"), config=dict(VISION))
    assert close(encoder(images()).tokens, model_of("vit")(pixel_values=images()).last_hidden_state)


def test_a_file_beside_its_configuration_needs_no_options(folders):
    encoder = build("somebody/vit", str(folders / "vit" / "model.safetensors"))
    assert close(encoder(images()).tokens, model_of("vit")(pixel_values=images()).last_hidden_state)


def test_checkpoints_that_do_not_fit_are_refused(tmp_path, pickle_bomb, folders):
    def load(state):
        save_file(state, tmp_path / "vit.safetensors")
        return build("vit", str(tmp_path / "vit.safetensors"), config=dict(VISION))

    state = old_keys(model_of("vit").state_dict())
    with pytest.raises(CheckpointError, match=r"missing: .*layernorm\.weight"):
        load({key: value for key, value in state.items() if key != "vit.layernorm.weight"})
    with pytest.raises(CheckpointError, match="cls_token"):
        load(state | {"vit.embeddings.cls_token": torch.zeros(1, 1, 8)})
    with pytest.raises(CheckpointError, match="stranger"):
        load(state | {"stranger.weight": torch.zeros(1)})
    bomb, fuse = pickle_bomb
    with pytest.raises(CheckpointError, match="more than tensors"):
        build("vit", str(bomb), config=dict(VISION))
    folder = tmp_path / "folder"
    folder.mkdir()
    (folder / "config.json").write_text((folders / "vit" / "config.json").read_text())
    (folder / "pytorch_model.bin").write_bytes(bomb.read_bytes())
    with pytest.raises(CheckpointError, match="could not be loaded"):
        build("vit", str(folder))
    assert not fuse.exists()
    (folder / "config.json").write_text("{")
    with pytest.raises(CheckpointError, match="could not be loaded"):
        build("vit", str(folder))
    with pytest.raises(CheckpointError, match=r"no config\.json"):
        build("vit", str(tmp_path))


def write_clip_tokenizer(folder):
    letters = "abcdefghijklmnopqrstuvwxyz."
    words = [*letters, *(f"{letter}</w>" for letter in letters)]
    vocabulary = {word: i for i, word in enumerate([*words, "<|startoftext|>", "<|endoftext|>"])}
    (folder / "vocab.json").write_text(json.dumps(vocabulary))
    (folder / "merges.txt").write_text("#version: 0.2\n")
    settings = {"tokenizer_class": "CLIPTokenizer", "pad_token": "<|endoftext|>", "model_max_length": 8}
    (folder / "tokenizer_config.json").write_text(json.dumps(settings))
    return vocabulary


def test_the_tokenizer_beside_the_weights_is_used(tmp_path):
    vocabulary = write_clip_tokenizer(tmp_path)
    config = copy.deepcopy(CONFIGS["clip"])
    start, end = vocabulary["<|startoftext|>"], vocabulary["<|endoftext|>"]
    config["text_config"] |= {"vocab_size": len(vocabulary), "bos_token_id": start, "eos_token_id": end}
    transformers.CLIPModel(transformers.CLIPConfig(**config)).save_pretrained(tmp_path)
    text = build("clip", str(tmp_path)).towers()["text"]
    ids = text.tokenize(["a b", "abcdefghijkl"])
    assert ids.shape == (2, 8) and ids.dtype == torch.int64
    assert ids[0].tolist() == [start, vocabulary["a</w>"], vocabulary["b</w>"], *[end] * 5]
    assert ids[1, 0] == start and ids[1, -1] == end
    assert text(ids).mask.sum(dim=1).tolist() == [4, 8]


def test_without_a_tokenizer_only_texts_are_refused():
    text = build("clip", "random", config=copy.deepcopy(CONFIGS["clip"])).towers()["text"]
    assert text(IDS).pooled.shape == (2, 24)
    with pytest.raises(CheckpointError, match="tokenizer="):
        text.prepare("no pneumothorax")


def test_names_and_options_that_do_not_exist():
    with pytest.raises(UnknownNameError, match="did you mean dinov2"):
        build("dinov3", "random")
    with pytest.raises(UnknownNameError, match="did you mean hidden_size"):
        build("vit", "random", config={"hiden_size": 32})
    with pytest.raises(UnknownNameError, match="did you mean hidden_size"):
        build("clip", "random", config={"text_config": {"hiden_size": 32}})
    with pytest.raises(ConfigError, match="bare family"):
        build("microsoft/rad-dino", "random", config={"hidden_size": 32})
    with pytest.raises(ConfigError, match="hidden_size"):
        build("vit", "random", config={"hidden_size": "wide"})


def test_a_folder_of_another_family_is_refused(folders):
    with pytest.raises(UnknownNameError, match="unknown transformers family 'clip'"):
        build("vit", str(folders / "clip"))


@pytest.mark.parametrize("name", ["vit", "microsoft/rad-dino"])
def test_no_network_is_one_sentence_with_a_remedy(name):
    with pytest.raises(CheckpointError, match="@random") as caught:
        build(name)
    assert f"transformers:{name}" in str(caught.value) and "\n" not in str(caught.value)


def test_the_librarys_own_reports_stay_off_the_terminal(folders, capsys):
    from transformers.utils import logging

    level = logging.get_verbosity()
    build("clip", str(folders / "clip"))
    assert logging.get_verbosity() == level and logging.is_progress_bar_enabled()
    captured = capsys.readouterr()
    assert captured.out == "" and captured.err == ""
