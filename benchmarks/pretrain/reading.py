"""Whether a language model reads what a prompt tells: questions on findings with and without a list of them."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import torch

from medgraft.benchmarks.pretrain.corpus.documents import pick
from medgraft.benchmarks.pretrain.corpus.domains import DOMAINS
from medgraft.benchmarks.pretrain.corpus.facts import as_list, draw, positives
from medgraft.benchmarks.pretrain.corpus.questions import diameter, extent, place, side

_STREAM = 10_000_141
"""Of the corpus, which neither training steps nor perplexities have."""

ASKED = {"side": side, "extent": extent, "place": place, "millimetres": diameter}
TOKENS = 24


def questions(seed: int, count: int) -> Iterator[tuple[str, str, str]]:
    """The findings of an image, a question on a side, size, place or diameter of one of them, and the answer.

    Args:
        seed: Of the corpus.
        count: How many.
    """
    rng, made = np.random.default_rng([seed, _STREAM]), 0
    while made < count:
        domain = DOMAINS[made % len(DOMAINS)]
        facts = draw(domain, rng)
        known = [(fact, name) for fact in positives(facts) for name in ASKED if getattr(fact, name)]
        if known:
            fact, name = pick(rng, known)
            asked, answer = ASKED[name](domain, fact, rng)
            yield f"Findings: {as_list(facts, rng)}.", asked, answer
            made += 1


@torch.no_grad()
def reading(network: Any, words: Any, seed: int, count: int = 150) -> dict[str, float]:
    """Shares of right answers, word for word, where the prompt tells the findings and where it does not.

    The second is what a model knows from how often each answer is right; of a model that reads, the first is far above.

    Args:
        network: The library's model.
        words: Tokenizer of ``tokenizers``, with ``<pad>`` and ``</s>``.
        seed: Of the corpus.
        count: Questions.
    """
    network.eval()
    right = {"told": 0, "not told": 0}
    pad, end = words.token_to_id("<pad>"), words.token_to_id("</s>")
    for told, asked, answer in questions(seed, count):
        for name, prompt in (("told", f"{told} {asked}"), ("not told", asked)):
            ids = torch.tensor([words.encode(prompt).ids])
            made = network.generate(
                ids, attention_mask=torch.ones_like(ids), max_new_tokens=TOKENS, do_sample=False,
                pad_token_id=pad, eos_token_id=end,
            )  # fmt: skip
            said = words.decode(made[0, ids.shape[1] :].tolist()).strip()
            right[name] += said.lower() == answer.lower()
    return {name: round(each / count, 4) for name, each in right.items()}
