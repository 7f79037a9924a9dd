"""A tiny language model beside a tiny image encoder, for adapters that feed images to language models."""

from __future__ import annotations

import math
import zlib
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from medgraft.encoder import Encoder, EncoderSpec, MultimodalEncoder
from medgraft.errors import DataError
from medgraft.features import Features
from medgraft.language_model import (
    Decoding,
    Ending,
    Generated,
    LanguageModel,
    Prompts,
    as_options,
    check_room,
    laid_out,
)
from medgraft.testing.tiny import DEPTH, HEADS, TEXT_WIDTH, Block, TinyViT, layouts, randomise
from medgraft.typed.pytorch import fork_random, named_modules

WORDS, CONTEXT = 64, 48
BEGIN, END = 1, 2


class TinyLanguage(LanguageModel):
    """Two causal blocks over hashed words; the library-free case of the contract.

    It generates token by token from the whole text so far: slow, plain, and what a cache has to agree with.
    """

    any_length = True
    has_cls = False

    def __init__(self) -> None:
        super().__init__(
            EncoderSpec(
                name="tiny:language",
                modality="text",
                input_size=(CONTEXT,),
                dim=TEXT_WIDTH,
                heads=HEADS,
                pooling="last token",
                licence="Apache-2.0",
                weights="random",
            )
        )
        self.context = CONTEXT
        self.words = nn.Embedding(WORDS, TEXT_WIDTH)
        self.position = nn.Parameter(torch.zeros(CONTEXT, TEXT_WIDTH))
        self.blocks = nn.ModuleList(Block(TEXT_WIDTH, HEADS, "split") for _ in range(DEPTH))
        self.norm = nn.LayerNorm(TEXT_WIDTH)
        self.attention = layouts("split", TEXT_WIDTH, HEADS, DEPTH)
        randomise(self)

    def block_paths(self) -> Sequence[str]:
        """``blocks.0`` and ``blocks.1``."""
        return [f"blocks.{i}" for i in range(len(self.blocks))]

    def _run(self, x: Tensor, mask: Tensor) -> Tensor:
        """Hidden states of vectors ``[B, L, C]``, of which ``mask`` ``[B, L]`` are real."""
        places = (mask.long().cumsum(dim=1) - 1).clamp(min=0)
        x = x + self.position[places]
        L = x.shape[1]
        causal = torch.ones(L, L, dtype=torch.bool, device=x.device).tril()
        allowed = (causal & mask[:, None, :]) | torch.eye(L, dtype=torch.bool, device=x.device)
        for block in self.blocks:
            x = block(x, allowed)
        return self.norm(x)

    def encode(self, x: Tensor, *, start: int = 0) -> Features:
        """Features of token ids ``[B, L]``; ``pooled`` is the last real token."""
        mask = self.real_tokens(x)
        tokens = self._run(self.words(x), mask)
        last = (mask.long() * torch.arange(x.shape[1], device=x.device)).amax(dim=1)
        return Features(tokens, tokens[torch.arange(len(x), device=x.device), last], 0, (x.shape[1],), mask=mask)

    def prepare(self, raw: Any) -> Tensor:
        """A text -> ``int64 [L]``: the beginning, hashed words, padding."""
        ids = self._ids(str(raw))[:CONTEXT]
        return torch.tensor(ids + [self.pad_id] * (CONTEXT - len(ids)))

    def _ids(self, text: str) -> list[int]:
        return [BEGIN, *(3 + zlib.crc32(word.encode()) % (WORDS - 3) for word in text.lower().split())]

    def embed(self, ids: Tensor) -> Tensor:
        """See :meth:`LanguageModel.embed`."""
        return self.words(ids)

    def prompts(self, texts: Sequence[str], soft: Tensor | None = None, soft_mask: Tensor | None = None) -> Prompts:
        """See :meth:`LanguageModel.prompts`."""
        rows = [self._ids(text) for text in texts]
        width = max(map(len, rows))
        ids = torch.tensor([[self.pad_id] * (width - len(row)) + row for row in rows], device=self.device)
        made = Prompts(ids, ids != self.pad_id, soft, soft_mask, lead=1)
        check_room(self.spec.name, made, self.context)
        return made

    def answers(self, texts: Sequence[str]) -> tuple[Tensor, Tensor]:
        """See :meth:`LanguageModel.answers`."""
        rows = [[*self._ids(text)[1:], END] for text in texts]
        width = max(map(len, rows))
        ids = torch.tensor([row + [self.pad_id] * (width - len(row)) for row in rows], device=self.device)
        return ids, ids != self.pad_id

    def text_of(self, ids: Sequence[int]) -> str:
        """See :meth:`LanguageModel.text_of`; words were hashed, so their numbers stand for them."""
        return " ".join(str(token) for token in ids if token > END)

    def logits(self, prompts: Prompts, answers: tuple[Tensor, Tensor] | None = None) -> Tensor:
        """See :meth:`LanguageModel.logits`."""
        x, mask = laid_out(self, prompts, answers)
        return F.linear(self._run(x, mask), self.words.weight)

    @torch.no_grad()
    def generate(self, prompts: Prompts, decoding: Decoding | None = None) -> Generated:
        """Greedy; see :meth:`LanguageModel.generate`."""
        how = as_options(decoding)
        if how.beams > 1 or how.temperature > 0 or how.stop:
            raise DataError(f"{self.spec.name} decodes greedily alone")
        check_room(self.spec.name, prompts, self.context)
        B = len(prompts.ids)
        ids = torch.zeros(B, 0, dtype=torch.long, device=self.device)
        done = torch.zeros(B, dtype=torch.bool, device=self.device)
        for _ in range(min(how.limit, self.context - prompts.length)):
            token = self.logits(prompts, (ids, torch.ones_like(ids, dtype=torch.bool)))[:, -1].argmax(dim=-1)
            ids = torch.cat([ids, token.masked_fill(done, self.pad_id)[:, None]], dim=1)
            done |= token == END
            if done.all():
                break
        drawn = [[int(token) for token in row] for row in ids]
        rows = [row[: row.index(END) + 1] if END in row else row for row in drawn]
        endings: list[Ending] = ["end" if END in row else "limit" for row in rows]
        return Generated(tuple(map(self.text_of, rows)), tuple(map(tuple, rows)), tuple(endings))


def beside_language() -> MultimodalEncoder:
    """A tiny image encoder and the language model as one."""
    visual = TinyViT("packed", 2)
    spec = visual.spec.model_copy(update={"name": "tiny:language-2d", "modality": "image+text"})
    return MultimodalEncoder(spec, {"image": visual, "text": TinyLanguage()})


def _made() -> Encoder:
    with fork_random([]):
        return beside_language().freeze()


def _packed() -> Encoder:
    """The same with the linear maps of the language model's blocks in four bits, which takes torchao."""
    from torchao.quantization import to_nf4  # pyright: ignore[reportUnknownVariableType, reportMissingTypeStubs]

    encoder = _made()
    for name, module in named_modules(encoder):
        if name.startswith("tower.text.blocks.") and isinstance(module, nn.Linear):
            blocks = module.weight.numel() // 64
            packed: Any = to_nf4(module.weight.detach(), 64, math.gcd(blocks, 256))
            module.weight = nn.Parameter(packed, requires_grad=False)
    return encoder


LANGUAGE_ENCODERS: Mapping[str, Callable[[], Encoder]] = {"language-2d": _made}
"""Name -> builder of what is tried where an adapter fits none of :data:`medgraft.testing.tiny.ENCODERS`."""

PACKED_ENCODERS: Mapping[str, Callable[[], Encoder]] = {"language-4bit": _packed}
"""Name -> builder of what is tried where an adapter fits none of those either; torchao must be installed."""
