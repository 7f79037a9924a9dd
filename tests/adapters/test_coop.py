"""CoOp and CoCoOp: against a run on hand-made word embeddings, and where the vectors go in each kind of text tower."""

from __future__ import annotations

import pytest
import tiny_encoders as tiny
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from medgraft.adapters.cocoop import CoCoOp
from medgraft.adapters.coop import CoOp, TextForm, text_form, with_room, word_table
from medgraft.checkpoints.opening import load_graft
from medgraft.encoder import DualEncoder, TextEncoder
from medgraft.encoders import embedded
from medgraft.errors import CheckpointError, ConfigError
from medgraft.grafting import Grafted, graft
from medgraft.registry import build_adapter

pytestmark = pytest.mark.usefixtures("seeded")
CHEST = "embedded:chest@random"
TEXTS = ("edema .", "pleural effusion .", "no finding .")


def parts(grafted: Grafted) -> tuple[TextEncoder, CoOp | CoCoOp]:
    tower, adapter = grafted.towers()["text"], next(iter(grafted.adapters.values()))
    assert isinstance(tower, TextEncoder) and isinstance(adapter, CoOp | CoCoOp)
    return tower, adapter


def by_hand(tower: embedded.TextTower, ids: Tensor, contexts: Tensor) -> Tensor:
    """The published prompt: start token, vectors, words; ``contexts`` ``[B, M, C]``, all rows with room at the end."""
    M = contexts.shape[1]
    words = tower.words(ids)
    x = torch.cat([words[:, :1], contexts, words[:, 1 : ids.shape[1] - M]], dim=1) + tower.position
    mask = torch.cat([torch.ones(len(ids), M, dtype=torch.bool), (ids != tower.pad_id)[:, : ids.shape[1] - M]], dim=1)
    for block in tower.blocks:
        x = block(x, mask)
    return tower.norm(x)[:, 0]


@pytest.fixture
def ids() -> Tensor:
    encoder = graft(CHEST, "zero_shot").towers()["text"]
    assert isinstance(encoder, TextEncoder)
    return encoder.tokenize(TEXTS)


# --- CoOp -------------------------------------------------------------------------------------------------------------


def test_texts_are_read_with_the_vectors_in_front(ids):
    grafted = graft(CHEST, "coop", length=5).eval()
    tower, adapter = parts(grafted)
    with torch.no_grad():
        got = grafted.encode({"text": ids})["text"].pooled
        context = adapter.context
        assert isinstance(tower, embedded.TextTower) and context is not None and context.shape == (5, 128)
        grafted.activate()
        torch.testing.assert_close(got, by_hand(tower, ids, context.expand(3, -1, -1)))


def test_vectors_that_are_words_read_as_these_words():
    grafted = graft(CHEST, "coop", init="a chest x-ray of").eval()
    tower, _ = parts(grafted)
    with torch.no_grad():
        spoken = grafted.encode({"text": tower.tokenize(TEXTS)})["text"].pooled
        grafted.activate()
        written = grafted.encode({"text": tower.tokenize([f"a chest x-ray of {text}" for text in TEXTS])})["text"]
    torch.testing.assert_close(spoken, written.pooled)


def test_class_specific_vectors_serve_the_class_and_leave_captions_alone(ids):
    grafted = graft(CHEST, "coop", class_specific=True, length=3).eval()
    tower, adapter = parts(grafted)
    adapter.fit_classes(torch.zeros(0, 128), torch.zeros(0, dtype=torch.long), 3)
    context = adapter.context
    assert context is not None and context.shape == (3, 3, 128) and isinstance(tower, embedded.TextTower)
    assert not torch.equal(context[0], context[1])
    classes = torch.tensor([2, 0, 1])
    with torch.no_grad():
        captions = grafted.encode({"text": ids})["text"].pooled
        with adapter.prompting(classes, None):
            prompts = grafted.encode({"text": ids})["text"].pooled
        grafted.activate()
        assert torch.equal(captions, grafted.encode({"text": ids})["text"].pooled)
        torch.testing.assert_close(prompts, by_hand(tower, ids, context[classes]))


def test_class_specific_vectors_are_saved_and_a_fresh_graft_makes_room(tmp_path):
    grafted = graft(CHEST, "coop", class_specific=True)
    _, adapter = parts(grafted)
    adapter.fit_classes(torch.zeros(0, 128), torch.zeros(0, dtype=torch.long), 4)
    grafted.save(tmp_path)
    _, again = parts(load_graft(tmp_path, CHEST))
    assert adapter.context is not None and again.context is not None and torch.equal(adapter.context, again.context)


def test_a_class_name_longer_than_the_context_is_an_error_that_names_it():
    _, adapter = parts(graft(CHEST, "coop", length=16))
    long = " ".join(["effusion"] * 90)
    with pytest.raises(ConfigError, match=r"'effusion effusion .* 16 context vectors are longer"):
        adapter.class_prompts(["edema", long])
    assert adapter.class_prompts(["edema"]) == (("edema.",),)


def test_more_vectors_than_the_tower_reads_are_refused():
    assert "nearly fill" in build_adapter("coop", {"length": 94}).supports(tiny.shared("chest")).reason
    with pytest.raises(ConfigError, match="init 'x x x"):
        graft(CHEST, "coop", init="x " * 95)


# --- where the vectors go ---------------------------------------------------------------------------------------------


def clip() -> DualEncoder:
    from medgraft.encoders.open_clip import OpenClipSource

    vision = {"image_size": 32, "patch_size": 16, "width": 32, "head_width": 16, "layers": 1}
    text = {"context_length": 12, "vocab_size": 49408, "width": 32, "heads": 2, "layers": 1}
    return OpenClipSource.build("ViT-B-32", "random", config={"embed_dim": 16, "vision_cfg": vision, "text_cfg": text})


def test_open_clips_texts_keep_start_and_end_token():
    encoder = clip()
    tower = encoder.towers()["text"]
    assert isinstance(tower, TextEncoder)
    form = text_form(tower)
    assert form == TextForm(1, 49407, 0)
    short, full = (tower.tokenize([text]) for text in ("edema.", "edema " * 20))
    for ids in (short, full):
        moved = with_room(ids, 4, form)
        assert moved[0, 0] == 49406 and moved.shape == ids.shape and (moved == 49407).sum() == 1
        assert moved.argmax() == (ids.argmax() + 4).clamp(max=11)
    grafted = graft(encoder, "coop", length=4).eval()
    _, adapter = parts(grafted)
    with torch.no_grad():
        before = grafted.encode({"text": short})["text"].pooled
        assert adapter.context is not None
        adapter.context += 1
        assert not torch.allclose(before, grafted.encode({"text": short})["text"].pooled)


def bert(folder) -> DualEncoder:
    """BiomedCLIP's layout in small; its tokenizer is not at hand."""
    from transformers import BertConfig

    from medgraft.encoders.open_clip import OpenClipSource

    settings = {"num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 48, "vocab_size": 60}
    (folder / "config.json").write_text(BertConfig(hidden_size=32, **settings).to_json_string(use_diff=False))
    vision = {"timm_model_name": "test_vit", "timm_pool": "", "timm_proj": "linear", "image_size": 160}
    text = {"hf_proj_type": "mlp", "hf_pooler_type": "cls_last_hidden_state_pooler", "context_length": 12}
    config = {"embed_dim": 16, "vision_cfg": vision, "text_cfg": text | {"hf_model_name": str(folder)}}
    return OpenClipSource.build("tiny", "random", config=config)


def siglip(folder) -> DualEncoder:
    from medgraft.encoders.transformers import TransformersSource

    text = {**tiny.HF_TEXT, "projection_size": 32, "hidden_size": 32}
    encoder = TransformersSource.build(
        "siglip", "random", config={"vision_config": tiny.HF_VISION, "text_config": text}
    )
    assert isinstance(encoder, DualEncoder)
    return encoder


@pytest.mark.parametrize("adapter", ["coop", "cocoop"])
@pytest.mark.parametrize("build", [bert, siglip, lambda folder: tiny.fresh("hf_clip")], ids=["bert", "siglip", "clip"])
def test_the_vectors_reach_the_embedding_in_the_text_towers_of_the_libraries(build, adapter, tmp_path):
    encoder = build(tmp_path)
    inputs = tiny.batch(encoder)
    table = word_table(encoder.towers()["text"])
    before = encoder.towers()["text"](inputs["text"]).pooled
    grafted = graft(encoder, adapter, length=2)
    outputs = grafted.encode(inputs)
    tower, own = parts(grafted)
    tower.project(outputs["text"].pooled).square().sum().backward()
    assert own.context is not None and own.context.grad is not None and bool(own.context.grad.abs().sum(dim=1).all())
    assert all(p.grad is not None for p in own.parameters()) and table is not None and table.weight.grad is None
    assert not torch.allclose(outputs["text"].pooled, before)
    assert torch.equal(grafted.ungraft().towers()["text"](inputs["text"]).pooled, before)


class Sentences(embedded.TextTower):
    """Without a start token and with an end token that is also the padding, as SigLIP's."""

    pad_id = 1

    def prepare(self, raw):
        ids = [self.index.get(word, 2) for word in str(raw).split()][: self.length - 1]
        return torch.tensor(ids + [1] * (self.length - len(ids)))


class Mute(embedded.TextTower):
    def prepare(self, raw):
        raise CheckpointError("no tokenizer")


@pytest.mark.parametrize(("kind", "form"), [(Sentences, TextForm(0, 1, 1)), (Mute, TextForm(1, 0, 0))])
def test_the_form_of_a_text_is_read_off_its_tokenizer(kind, form):
    tower = kind(tiny.shared("chest").towers()["text"].spec, tiny.WORDS)
    assert text_form(tower) == form


@given(st.integers(0, 9), st.integers(1, 4), st.booleans())
def test_every_word_that_has_room_stays_behind_the_placeholders(words, room, ends):
    length, form = 12, TextForm(1, 2 if ends else 0, 0)
    text = [1, *range(10, 10 + words), *([2] if ends else [])]
    ids = torch.tensor([text + [0] * (length - len(text))])
    moved = with_room(ids, room, form)[0].tolist()
    assert len(moved) == length and moved[: 1 + room] == [1] * (1 + room)
    kept = [token for token in moved[1 + room :] if token >= 10]
    assert kept == list(range(10, 10 + len(kept)))
    assert len(kept) == min(words, length - 1 - room - 1) or len(kept) == words
    assert not ends or 2 in moved


def test_the_word_table_is_found_and_needed():
    encoder = tiny.shared("hf_clip")
    table = word_table(encoder.towers()["text"])
    assert table is not None and table.num_embeddings == tiny.HF_TEXT["vocab_size"]
    encoder = tiny.fresh("chest")
    tower = encoder.towers()["text"]
    assert isinstance(tower, embedded.TextTower)
    tower.words = nn.Identity()  # pyright: ignore[reportAttributeAccessIssue]
    assert "no table of word embeddings" in build_adapter("coop").supports(encoder).reason


# --- CoCoOp -----------------------------------------------------------------------------------------------------------


def moved(adapter: CoCoOp, images: Tensor) -> Tensor:
    """``v_m + h(x)`` by hand, ``[B, M, C]``."""
    state = adapter.state_dict()
    hidden = (images @ state["meta.0.weight"].T + state["meta.0.bias"]).clamp(min=0)
    return state["context"][None] + (hidden @ state["meta.2.weight"].T + state["meta.2.bias"])[:, None]


def test_the_image_of_a_pair_moves_the_vectors_of_its_text(ids):
    grafted = graft(CHEST, "cocoop").eval()
    tower, adapter = parts(grafted)
    assert isinstance(adapter, CoCoOp) and isinstance(tower, embedded.TextTower)
    pixels = torch.randn(3, 1, 128, 128)
    with torch.no_grad():
        outputs = grafted.encode({"text": ids, "image": pixels})
        alone = grafted.encode({"text": ids})["text"].pooled
        images = F.normalize(grafted.towers()["image"].project(outputs["image"].pooled), dim=-1)
        wanted, plain = moved(adapter, images), adapter.state_dict()["context"].expand(3, -1, -1)
        grafted.activate()
        torch.testing.assert_close(outputs["text"].pooled, by_hand(tower, ids, wanted))
        torch.testing.assert_close(alone, by_hand(tower, ids, plain))


def test_class_prompts_are_moved_by_the_image_they_are_compared_with(ids):
    grafted = graft(CHEST, "cocoop").eval()
    tower, adapter = parts(grafted)
    assert isinstance(adapter, CoCoOp) and isinstance(tower, embedded.TextTower)
    images = F.normalize(torch.randn(3, 128), dim=1)
    with torch.no_grad():
        with adapter.prompting(torch.arange(3), images):
            got = grafted.encode({"text": ids})["text"].pooled
        wanted = moved(adapter, images)
        grafted.activate()
        torch.testing.assert_close(got, by_hand(tower, ids, wanted))


def test_the_network_has_the_published_widths():
    count = graft(CHEST, "cocoop").trainable_count()["cocoop"]
    assert count == 4 * 128 + (128 * 8 + 8) + (8 * 128 + 128)


def test_the_hidden_layer_never_gets_a_single_unit():
    encoder = tiny.fresh("hf_clip")  # a space of 16
    _, adapter = parts(graft(encoder, "cocoop"))
    assert adapter.state_dict()["meta.0.weight"].shape == (4, 16)


@settings(max_examples=5, deadline=None)
@given(st.integers(1, 6))
def test_a_graft_leaves_the_text_tower_as_it_was(length):
    encoder = tiny.fresh("chest")
    inputs = {"text": tiny.batch(encoder)["text"]}
    before = encoder.towers()["text"](inputs["text"]).pooled
    grafted = graft(encoder, "coop", length=length)
    grafted.encode(inputs)
    after = grafted.ungraft().towers()["text"](inputs["text"]).pooled
    assert torch.equal(before, after)
