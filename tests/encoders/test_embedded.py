"""embedded: the shipped encoders' architecture, attention, preprocessing and files."""

from __future__ import annotations

import copy
import json
from importlib import resources
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from safetensors.torch import save_file

from medgraft.checkpoints.weights import file_digest, read_weights
from medgraft.encoders import embedded
from medgraft.encoders.parts import shipped as shipped_weights
from medgraft.encoders.parts.shipped import read_card
from medgraft.errors import CheckpointError, UnknownNameError
from medgraft.registry import catalogue

WORDS = (*embedded.SPECIALS, "no", "effusion", ".", "12")


def dual(name: embedded.Name = "chest") -> Any:
    torch.manual_seed(0)
    return embedded.assemble(name, WORDS, logit_scale=12.0).freeze()


@pytest.fixture
def shipped(tmp_path, monkeypatch):
    """A weights folder with a card and fresh weights in half precision, as shipped."""
    for module in (embedded, shipped_weights):  # where the card is read, and where the weights are
        monkeypatch.setattr(module, "weights_folder", lambda: tmp_path)
    names: tuple[embedded.Name, ...] = ("chest", "brain", "slices")
    for name in names:
        card = {"vocabulary": WORDS, "logit_scale": 12.0 if name == "chest" else None}
        (tmp_path / f"{name}.json").write_text(json.dumps(card))
        state = {k: v.half() if v.is_floating_point() else v for k, v in dual(name).state_dict().items()}
        save_file({key: value.contiguous() for key, value in state.items()}, tmp_path / f"{name}.safetensors")
    return tmp_path


@pytest.mark.parametrize("name", ["chest", "brain", "slices"])
def test_weights_are_read_from_the_package(name, shipped):
    encoder = embedded.EmbeddedSource.build(name)
    digest = file_digest(shipped / f"{name}.safetensors")
    assert encoder.spec.weights == f"pretrained:{digest}" and encoder.spec.cohorts
    for tower in encoder.towers().values():
        assert tower.spec.weights == encoder.spec.weights
    outside = {key: value for key, value in dual(name).state_dict().items() if ".stem." not in key}
    for key, value in outside.items():  # the stem's normalisations are folded, see below
        assert torch.equal(encoder.state_dict()[key], value.half().float() if value.is_floating_point() else value)
    assert embedded.EmbeddedSource.build(name, sha256=digest).logit_scale == (12.0 if name == "chest" else None)
    again = [embedded.EmbeddedSource.build(name, "random").state_dict() for _ in range(2)]
    assert all(torch.equal(again[0][key], again[1][key]) for key in again[0])


def test_files_that_do_not_fit_are_refused(shipped, pickle_bomb):
    build = embedded.EmbeddedSource.build
    with pytest.raises(UnknownNameError, match="did you mean chest"):
        build("chst")
    with pytest.raises(CheckpointError, match="sha256"):
        build("chest", sha256="0" * 64)
    with pytest.raises(CheckpointError, match="does not fit"):
        build("chest", str(shipped / "brain.safetensors"))
    with pytest.raises(CheckpointError, match="more than tensors"):
        build("chest", str(pickle_bomb[0]))
    (shipped / "chest.json").write_text("{")
    with pytest.raises(CheckpointError, match="install medgraft again"):
        build("chest")


@pytest.mark.parametrize("modality", ["image", "text"])
def test_cls_row_is_the_attention_that_the_block_computes(modality):
    tower = copy.deepcopy(dual().towers()[modality]).double()
    if modality == "image":
        x = torch.randn(2, 1, 128, 128, dtype=torch.float64)
    else:
        x = tower.tokenize(["no effusion .", "12 " * 200])
    block, seen = tower.blocks[-1], {}
    block.qkv.register_forward_hook(lambda module, args, output: seen.update(qkv=output))
    with torch.no_grad():
        features = tower(x, scores=True)
    B, N, _ = seen["qkv"].shape
    q, k, v = seen["qkv"].view(B, N, 3, block.heads, -1).permute(2, 0, 3, 1, 4)
    mask = None if features.mask is None else features.mask[:, None, None, :]
    # The identity in place of the values makes the library return the probabilities themselves.
    probs = F.scaled_dot_product_attention(q, k, torch.eye(N, dtype=v.dtype).expand(B, block.heads, N, N), mask)
    assert (features.cls_probs - probs[:, :, 0, 1:]).abs().max() < 1e-9


def test_texts_become_words_with_a_cls_token():
    text = dual().towers()["text"]
    index = {word: i for i, word in enumerate(WORDS)}
    ids = text.prepare("No effusion, 12.")
    assert ids.shape == (96,) and ids.dtype == torch.int64
    assert ids[:6].tolist() == [index[w] for w in ("[cls]", "no", "effusion", "[unk]", "12", ".")]
    assert (ids[6:] == text.pad_id).all()
    assert text.prepare("no " * 500).shape == (96,)


def test_padding_does_not_change_a_text():
    text = dual().towers()["text"]
    short = text.prepare("no effusion .")[None]
    with torch.no_grad():
        padded, alone = text(short), text(short[:, :4])
    assert torch.allclose(padded.tokens[:, :4], alone.tokens, atol=1e-6)
    assert padded.mask.sum() == 4


def test_images_and_volumes_of_any_size_are_prepared(radiograph, volume):
    image = dual().towers()["image"].prepare(radiograph)
    assert image.shape == (1, 128, 128) and image.min() >= -2 and image.max() <= 2
    scan = dual("brain").towers()["volume"].prepare(volume)
    assert scan.shape == (1, 64, 80, 64) and scan.isfinite().all()
    assert not dual("brain").towers()["volume"].prepare(volume * 0).any()


@pytest.mark.parametrize(("name", "modality"), [("chest", "image"), ("brain", "volume"), ("slices", "image")])
def test_folding_the_normalisations_into_the_convolutions_changes_nothing(name, modality):
    folded = embedded.EmbeddedSource.build(name).towers()[modality]
    whole = embedded.assemble(name, read_card(name)["vocabulary"])
    path = resources.files("medgraft.encoders") / "weights" / f"{name}.safetensors"
    whole.load_state_dict({key: value.float() for key, value in read_weights(Path(str(path))).items()})
    whole.freeze()
    shape = (2, folded.spec.channels, *folded.spec.input_size)
    x = torch.randn(shape, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(folded(x).tokens, whole.towers()[modality](x).tokens, rtol=1e-4, atol=1e-4)
    assert not any("running_mean" in key for key in folded.state_dict())


@pytest.mark.parametrize("name", ["chest", "brain", "slices"])
def test_the_shipped_weights_are_those_of_the_card_and_of_the_catalogue(name):
    path = Path(str(resources.files("medgraft.encoders"))) / "weights" / f"{name}.safetensors"
    pinned = catalogue().encoders.aliases[f"phantom_{name}"].sha256
    assert file_digest(path) == read_card(name)["sha256"] == pinned


@pytest.mark.parametrize("name", ["chest", "brain", "slices"])
def test_the_card_records_how_the_weights_were_made(name):
    card = read_card(name)
    assert {"generator", "setting", "run", "log", "held_out"} <= card.keys()
    assert card["run"]["seed"] >= 0 and card["log"]
