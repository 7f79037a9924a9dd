"""Documents in rows: packed or padded, the loss of each is the same, and it is that of a language model's answers."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from medgraft.benchmarks.pretrain.corpus.documents import Document
from medgraft.benchmarks.pretrain.language import CONFIG, PAD, train_tokenizer
from medgraft.benchmarks.pretrain.packing import IGNORED, encoded, losses, packed
from medgraft.encoders.parts.hf.embedded_language import fresh_network

TEXTS = [
    Document("a", (("Describe.", "No pneumothorax. Small left effusion."),)),
    Document("b", (("", "The nurse found 12 keys."), (" How many?", "12"))),
    Document("c", (("Is there edema?", "Yes"),)),
]


@pytest.fixture(scope="module")
def words() -> Any:
    return train_tokenizer(0, 40)


@pytest.fixture(scope="module")
def network(words) -> Any:
    small = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2}
    return fresh_network(CONFIG | small | {"vocab_size": words.get_vocab_size()})


@torch.no_grad()
def by_document(network: Any, rows: Any) -> dict[int, float]:
    each, of = losses(network, rows)
    return {number: float(each[of == number].sum()) for number in of.unique().tolist()}


def test_packed_and_padded_rows_give_every_document_the_same_loss(words, network):
    together = by_document(network, packed(iter(TEXTS), words, 1, 120, PAD))
    longest = max(len(encoded(text, words)[0]) for text in TEXTS)
    padded = by_document(network, packed(iter(TEXTS), words, 3, longest, PAD))
    alone = [by_document(network, packed(iter([text]), words, 1, longest + 17, PAD))[0] for text in TEXTS]
    assert together == pytest.approx(dict(enumerate(alone)), rel=1e-5)
    assert padded == pytest.approx(dict(enumerate(alone)), rel=1e-5)


def test_answers_and_their_ends_are_learnt_and_nothing_else(words):
    ids, following = encoded(TEXTS[1], words)
    learnt = [token for token in following if token != IGNORED]
    end = words.token_to_id("</s>")
    told = [words.encode(text, add_special_tokens=False).ids for text in ("The nurse found 12 keys.", "12")]
    assert learnt == [*told[0], end, *told[1], end] and len(ids) == len(following)
    assert [b for b, counts in zip(ids[1:], following[:-1], strict=True) if counts != IGNORED] == learnt


def test_a_prompt_has_no_share_in_the_loss_but_through_the_answer(words, network):
    rows = packed(iter(TEXTS[:1]), words, 1, 60, PAD)
    x = network.get_input_embeddings()(rows.ids).detach().requires_grad_()
    logits = network(inputs_embeds=x, attention_mask=rows.visible, position_ids=rows.place, use_cache=False).logits
    learnt = rows.targets != IGNORED
    first = int(learnt.nonzero()[0, 1])
    torch.nn.functional.cross_entropy(logits[learnt], rows.targets[learnt]).backward()
    assert x.grad is not None and x.grad[0, :first].abs().sum() > 0
    assert not x.grad[0, int(learnt.nonzero()[-1, 1]) + 1 :].any()  # padding


def test_a_document_longer_than_a_row_is_left_out(words):
    long = Document("long", (("", "clear " * 80),))
    rows = packed(iter([long, TEXTS[2]]), words, 1, 40, PAD)
    assert rows.document.unique().tolist() == [-1, 0] and (rows.targets != IGNORED).sum() == 2
