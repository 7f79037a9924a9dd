"""Batches cut to their longest text: the same numbers as with all of the padding, for every adapter and text tower."""

from __future__ import annotations

import itertools

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tiny_encoders import batch, fresh, shared
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from medgraft import plugins
from medgraft.adapter import Adapter, Attachment
from medgraft.encoder import Encoder, TextEncoder
from medgraft.errors import IncompatibleError
from medgraft.fast.short_texts import can_cut, cut_texts, padding_needed, text_lengths
from medgraft.features import Features
from medgraft.grafting import Grafted
from medgraft.registry import build_adapters
from medgraft.testing.tiny import tiny_encoder

ENCODERS = ("chest", "brain", "hf_clip", "dual")
READS_PADDING = {"ace_hgnn", "ace_lora"}
"""Adapters whose published formula counts padding of texts."""
OPTIONS: dict[str, dict[str, object]] = {"perceiver_resampler": {"modality": "both"}}
VARIANTS = {"peft": ("peft:lora", "peft:vera", "peft:ia3", "peft:oft", "peft:fourierft", "peft:boft")}


PROMPTED = (
    "biomedcoop",
    "clap",
    "cocoop",
    "coop",
    "kgcoop",
    "lp_text",
    "ss_text",
    "taskres",
    "tip_adapter",
    "zero_shot",
)
UNFIT = {
    **{(name, "brain"): "no space that image and text share" for name in (*PROMPTED, "zslp")},
    **{("brain_adapter", encoder): "needs volumes" for encoder in ("chest", "hf_clip", "dual")},
    **{("scratch_cnn", encoder): "uses no encoder" for encoder in ENCODERS},
    **{(name, "hf_clip"): "no CLS token" for name in ("ace_hgnn", "ace_lora")},
    **{(name, encoder): "continues none" for name in ("soft_prefix", "xattn", "blind") for encoder in ENCODERS},
    **{("qlora", encoder): "stored in 32 bits|reads no text" for encoder in ENCODERS},
    **{(name, encoder): "grid of channels and time" for name in ("spectral", "channel_mixing") for encoder in ENCODERS},
    ("peft:fourierft", "hf_clip"): "n_frequency",
}
"""Adapters and encoders that do not go together -> words of the reason; whatever else does not is a fault."""


def adapters() -> list[str]:
    """Those of the package; of a family several members."""
    own = [name for name, plugin in plugins.discover("adapter").items() if plugin.builtin]
    return [each for name in own for each in VARIANTS.get(name, (name,))]


def encoder_of(name: str) -> Encoder:
    return tiny_encoder("dual-2d") if name == "dual" else fresh(name)


def text_of(encoder: Encoder) -> TextEncoder:
    tower = encoder.towers()["text"]
    assert isinstance(tower, TextEncoder)
    return tower


def texts(tower: TextEncoder, lengths: list[int], generator: torch.Generator) -> Tensor:
    """Ids of texts of these lengths; the last token ends a text where a tower looks for one."""
    ids = torch.randint(3, 30, (len(lengths), tower.spec.input_size[0]), generator=generator)
    ids[:, 0] = 2
    for row, length in zip(ids, lengths, strict=True):
        if tower.spec.pooling != "cls":
            row[length - 1] = 59
        row[length:] = tower.pad_id
    return ids


def graft(name: str, encoder: Encoder) -> Grafted:
    """A graft in float64 whose adapters are not as they began, since most begin by changing nothing."""
    torch.manual_seed(0)
    grafted = Grafted(encoder, build_adapters(name, OPTIONS.get(name, {})))
    with torch.no_grad():
        for parameter in grafted.trainable_parameters():
            parameter.add_(0.1 * torch.randn(parameter.shape))
    return grafted.double().eval()


def agree(full: Features, cut: Features) -> None:
    """All that is read: ``pooled``, the embedding, and the tokens and scores of real tokens."""
    assert torch.allclose(full.pooled, cut.pooled, rtol=0, atol=1e-10)
    if full.embedding is not None:
        assert cut.embedding is not None and torch.allclose(full.embedding, cut.embedding, rtol=0, atol=1e-10)
    if full.mask is None or cut.mask is None:
        assert torch.allclose(full.tokens, cut.tokens, rtol=0, atol=1e-10)
        return
    N = cut.mask.shape[1]
    assert torch.equal(full.mask[:, :N], cut.mask) and not full.mask[:, N:].any()
    assert torch.allclose(full.tokens[full.mask], cut.tokens[cut.mask], rtol=0, atol=1e-10)
    if full.cls_probs is not None and cut.cls_probs is not None:
        places = cut.cls_probs.shape[-1]
        assert torch.allclose(full.cls_probs[..., :places], cut.cls_probs, rtol=0, atol=1e-10)


@pytest.mark.parametrize(("adapter", "encoder"), UNFIT)
def test_what_does_not_go_together_says_why(adapter, encoder):
    with pytest.raises(IncompatibleError, match=UNFIT[adapter, encoder]):
        graft(adapter, encoder_of(encoder))


PAIRS = [pair for pair in itertools.product(adapters(), ENCODERS) if pair not in UNFIT]


@pytest.mark.parametrize(
    ("adapter", "encoder"), [*PAIRS, *((name, "language") for name in ("soft_prefix", "xattn", "blind", "lora"))]
)
def test_every_adapter_gives_the_same_for_a_cut_batch(adapter, encoder):
    """Each built-in adapter on each tower; gradients too, since training runs on cut batches."""
    grafted = graft(adapter, encoder_of(encoder))
    tower = text_of(grafted.encoder)
    size = 4
    inputs: dict[str, Tensor | Features] = {
        name: torch.randn(size, each.spec.channels, *each.spec.input_size, dtype=torch.float64)
        for name, each in grafted.towers().items()
        if name != "text"
    }
    inputs["text"] = ids = texts(tower, [3, 4, 1 if tower.spec.pooling == "cls" else 2, 4], torch.Generator())
    cut = cut_texts(grafted, inputs)
    shortened = cut["text"].shape[1] < ids.shape[1]  # pyright: ignore[reportAttributeAccessIssue]
    assert shortened == (adapter not in READS_PADDING)
    outputs, gradients = [], []
    for each in (inputs, cut):
        grafted.zero_grad()
        outputs.append(grafted.encode(each))
        total = torch.stack([x.pooled.sin().sum() for x in outputs[-1].values()]).sum()
        if total.requires_grad:
            total.backward()
        gradients.append({n: p.grad.clone() for n, p in grafted.named_parameters() if p.grad is not None})
    for name, features in outputs[0].items():
        agree(features, outputs[1][name])
    for name, gradient in gradients[0].items():
        assert torch.allclose(gradient, gradients[1][name], rtol=0, atol=1e-10), name


@pytest.mark.parametrize("encoder", ENCODERS)
@settings(max_examples=25, deadline=None)
@given(data=st.data())
def test_any_lengths_give_the_same(encoder, data):
    """Also of one token, of the whole context, and all equal."""
    tower = text_of(tiny_encoder("dual-2d") if encoder == "dual" else fresh(encoder)).double()
    L = tower.spec.input_size[0]
    lengths = data.draw(st.lists(st.integers(1 if tower.spec.pooling == "cls" else 2, L), min_size=1, max_size=5))
    ids = texts(tower, lengths, torch.Generator().manual_seed(data.draw(st.integers(0, 9))))
    assert text_lengths(tower, ids).tolist() == lengths
    with torch.no_grad():
        full = tower(ids, scores=tower.has_scores)
        for columns in range(max(lengths), L + 1):
            agree(full, tower(ids[:, :columns], scores=tower.has_scores))


def test_a_blank_text_keeps_a_token_and_a_long_one_is_cut_where_it_was():
    grafted = graft("lora", fresh("chest"))
    tower = text_of(grafted.encoder)
    blank, long = tower.tokenize([""]), tower.tokenize(["word1 " * 500, "word2"])
    assert cut_texts(grafted, {"text": blank})["text"].shape == (1, 1)  # pyright: ignore[reportAttributeAccessIssue]
    assert cut_texts(grafted, {"text": torch.zeros_like(blank)})["text"].shape == (1, 1)  # pyright: ignore
    assert torch.equal(cut_texts(grafted, {"text": long})["text"], long)  # pyright: ignore[reportArgumentType]


def test_short_texts_cost_less():
    grafted = graft("lora", fresh("chest"))
    ids = text_of(grafted.encoder).tokenize(["word1 word2", "word3"])
    costs = []
    for each in ({"text": ids}, cut_texts(grafted, {"text": ids})):
        with FlopCounterMode(display=False) as counter, torch.no_grad():
            grafted.encode(each)
        costs.append(counter.get_total_flops())
    assert costs[1] < costs[0] / 15  # 3 columns of 96


class Foreign(Adapter):
    """An adapter that says nothing of padding."""

    def attach(self, encoder, sites):
        return Attachment(encoder)


def test_what_says_nothing_of_padding_gets_the_whole_context(monkeypatch):
    ids = batch(shared("chest"))["text"]
    encoder = fresh("chest")

    def columns(grafted: Grafted) -> int:
        return cut_texts(grafted, {"text": ids})["text"].shape[1]  # pyright: ignore[reportAttributeAccessIssue]

    foreign = Grafted(encoder, {"foreign": Foreign()})
    assert padding_needed(foreign) is None and columns(foreign) == 96
    foreign.ungraft()
    bare = Grafted(encoder, {})
    assert columns(bare) == 9
    monkeypatch.setenv("MEDGRAFT_PLAIN", "1")
    assert columns(bare) == 96
    monkeypatch.delenv("MEDGRAFT_PLAIN")
    text_of(encoder).any_length = False
    assert columns(bare) == 96
    assert not can_cut(shared("chest").towers()["image"])


def test_features_and_hidden_states_stay_as_they_are():
    grafted = Grafted(fresh("chest"), {})
    features = grafted.encode(batch(grafted.encoder))["text"]
    assert cut_texts(grafted, {"text": features})["text"] is features
    hidden = torch.zeros(2, 96, 8, dtype=torch.long)
    assert cut_texts(grafted, {"text": hidden}, {"text": 1})["text"] is hidden


@pytest.mark.parametrize("adapter", ["lora", "peft:lora"])
def test_dropout_keeps_the_padding_while_it_trains(adapter):
    """It draws a number per token, so that a shorter batch would train with others."""
    options: dict[str, object] = {"dropout": 0.1}
    if adapter == "peft:lora":
        options = {"options": {"r": 2, "lora_alpha": 2, "lora_dropout": 0.1}}
    grafted = Grafted(fresh("chest"), build_adapters(adapter, options))
    assert padding_needed(grafted.train()) is None and padding_needed(grafted.eval()) == 0
    if adapter == "lora":
        assert padding_needed(grafted, frozen=True) is None
