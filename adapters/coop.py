"""CoOp: the words around a class's name become vectors that are trained.

Zhou et al., "Learning to Prompt for Vision-Language Models", IJCV 2022 (arXiv 2109.01134), equation 3: the prompt of a
class is ``[V]_1 ... [V]_M [CLASS].`` with ``M`` vectors of the width of a word embedding, shared by all classes
(unified) or of each class's own (class-specific), trained by the cross-entropy over classes. The name comes last.

The vectors take the place of word embeddings: placeholders go into the token ids behind the start token, and what the
text tower's word table makes of them is replaced. So every text tower with a word table is fit for it, whatever comes
behind the table.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from types import MappingProxyType

import torch
from pydantic import Field
from torch import Tensor, nn

from medgraft.adapter import AdapterConfig, Attachment, Support
from medgraft.adapter.class_prompts import ClassAdapter
from medgraft.adapter.knobs import SizeKnob
from medgraft.encoder import Encoder, TextEncoder
from medgraft.encoder.sites import Site
from medgraft.errors import CheckpointError, ConfigError

OTHER_TABLES = ("position", "type", "segment")
"""Parts of the names that libraries give to embeddings of something else than words."""

DEVIATION = 0.02
"""Standard deviation of fresh vectors, that of the authors' code."""


@dataclass(frozen=True)
class TextForm:
    """How a text tower's token ids begin and end.

    Attributes:
        start: Place of the first word, behind a start token where there is one.
        end: Token that ends a text, or pads it where nothing ends it.
        filler: Token that fills up short texts.
    """

    start: int
    end: int
    filler: int


def text_form(tower: TextEncoder) -> TextForm:
    """Reads off an empty text and one of a word; where no tokenizer is at hand, one start token is presumed."""
    try:
        blank, word = tower.prepare(""), tower.prepare("x")
    except CheckpointError:
        return TextForm(1, tower.pad_id, tower.pad_id)
    start = int((blank != word).long().argmax())
    return TextForm(start, int(blank[start]), int(blank[-1]))


def with_room(ids: Tensor, room: int, form: TextForm) -> Tensor:
    """Puts ``room`` placeholders before the first word of each text, ``int64 [B, L] -> [B, L]``.

    The placeholder is the text's own first token, which no tower takes for padding or for an end. A text that then
    fills the row loses words at its end and keeps the end token, as tokenizers do.

    Example:
        >>> with_room(torch.tensor([[1, 5, 6, 2, 0, 0]]), 2, TextForm(1, 2, 0))
        tensor([[1, 1, 1, 5, 6, 2]])
    """
    length, start = ids.shape[1], form.start
    placeholder = ids[:, :1].expand(-1, room)
    moved = torch.cat([ids[:, :start], placeholder, ids[:, start : length - room]], dim=1)
    last = torch.where(moved[:, -1:] == form.filler, form.filler, form.end)
    return torch.cat([moved[:, :-1], last], dim=1)


def word_table(tower: Encoder) -> nn.Embedding | None:
    """The table of word embeddings of a text tower: the largest that is not named after positions or segments."""
    named = [(path.lower(), module) for path, module in tower.named_modules() if isinstance(module, nn.Embedding)]
    words = [module for path, module in named if not any(other in path for other in OTHER_TABLES)]
    return max(words, key=lambda table: table.num_embeddings, default=None)


class ContextPrompts(ClassAdapter):
    """Base of methods that put trained vectors in front of the texts that a tower reads.

    Attributes:
        room: Number of vectors.
        start: Place of the first of them.
    """

    def __init__(self, config: AdapterConfig | None = None) -> None:
        super().__init__(config)
        self.register_parameter("context", None)
        self._vectors: Tensor | None = None
        self._cut: Callable[[str], bool] = lambda text: False

    context: Tensor | None
    room: int = 0

    def contexts(self, rows: int) -> Tensor | None:
        """Vectors in front of each text of a batch, ``[rows, M, C]``; ``None`` leaves the texts alone."""
        raise TypeError(f"{type(self).__name__} must implement contexts()")

    def supports(self, encoder: Encoder) -> Support:
        """Fits a text tower with a table of words and with room for the vectors and a word."""
        if not (support := super().supports(encoder)):
            return support
        tower = encoder.towers()["text"]
        length, n_context = tower.spec.input_size[0], getattr(self.config, "length", 0)
        if word_table(tower) is None:
            return Support(False, "its text tower has no table of word embeddings")
        if n_context > length - 3:
            return Support(
                False, f"its text tower reads {length} tokens, which {n_context} context vectors nearly fill"
            )
        return Support(True)

    def open_room(self, attachment: Attachment, sites: Mapping[str, Site], words: str, length: int) -> Tensor:
        """Makes the room and returns fresh vectors for it, ``[M, C]``.

        Args:
            attachment: Where to connect.
            sites: The encoder's.
            words: Words that the vectors start from; their number takes the place of ``length``.
            length: Number of vectors that are drawn where there are no words.
        """
        encoder = attachment.encoder
        tower = encoder.towers()["text"]
        table = word_table(tower)
        assert isinstance(tower, TextEncoder) and table is not None
        form = text_form(tower)
        vectors = _from_words(tower, table, form, words) if words else _drawn(table, length)
        self.room = len(vectors)
        self.text_padding = self.room + 1  # a text that ends in padding with the vectors in is one that was not cut
        self._cut = lambda text: bool((tower.prepare(text)[-self.room :] != form.filler).any())
        attachment.record({"words": [site for site in sites.values() if site.kind == "input" and site.tower == "text"]})

        def make_room(ids: Tensor) -> Tensor:
            self._vectors = self.contexts(len(ids))
            return ids if self._vectors is None else with_room(ids, self.room, form)

        def fill(embedded: Tensor) -> Tensor:
            if self._vectors is None:
                return embedded
            vectors, self._vectors = self._vectors.to(embedded.dtype), None
            return torch.cat([embedded[:, : form.start], vectors, embedded[:, form.start + self.room :]], dim=1)

        attachment.map_input(tower, make_room)
        path = next(name for name, module in encoder.named_modules() if module is table)
        attachment.map_output(Site("words", "layer", path, "text"), fill)
        return vectors

    def class_prompts(self, names: Sequence[str]) -> tuple[tuple[str, ...], ...]:
        """The class's name and a full stop.

        Raises:
            ConfigError: A name and the vectors are longer than the tower's context.
        """
        prompts = tuple((f"{name}.",) for name in names)
        for (prompt,) in prompts:
            if self._cut(prompt):
                raise ConfigError(
                    f"class {prompt[:-1]!r} and {self.room} context vectors are longer than the text tower's context; "
                    "choose a smaller length"
                )
        return prompts


def _drawn(table: nn.Embedding, length: int) -> Tensor:
    weight = table.weight
    return torch.randn(length, table.embedding_dim, dtype=weight.dtype, device=weight.device) * DEVIATION


def _from_words(tower: TextEncoder, table: nn.Embedding, form: TextForm, words: str) -> Tensor:
    """Embeddings of the tokens of ``words``, ``[M, C]``."""
    ids = tower.prepare(words)[form.start :]
    empty = tower.prepare("")[form.start :]
    length = len(ids)
    count = next(n for n in range(length + 1) if torch.equal(ids[n:], empty[: length - n]))
    if not 0 < count < length - 1:
        raise ConfigError(f"init {words!r} makes {count} tokens, and the text tower has room for 1 to {length - 2}")
    return table.weight[ids[:count].to(table.weight.device)].detach().clone()


class CoOp(ContextPrompts):
    """Trained vectors in front of every text that the text tower reads; class-specific ones for class prompts only.

    Not the identity at the start: the vectors are words that the text did not have.
    """

    paper = "Zhou et al., Learning to Prompt for Vision-Language Models, IJCV 2022 (arXiv 2109.01134)"
    licence = "Apache-2.0"
    formula = r"p(k \mid x) \propto \exp\left(s \cos(x, g(v_1, \ldots, v_M, c_k))\right)"
    train_defaults = MappingProxyType({"lr": 0.002, "epochs": 100})
    size_knob = SizeKnob("length")
    search = MappingProxyType({"length": (1, 2, 4, 8, 16)})
    identity_at_init = False

    class Config(AdapterConfig):
        """Options.

        Attributes:
            length: ``M``, number of vectors: 16 in most of the paper's results, 4 in its study of shifted domains.
            init: Words that the vectors start from, such as ``a photo of a``; their number of tokens takes the place
                of ``length``. Empty draws them.
            class_specific: Vectors of each class's own.
        """

        length: int = Field(4, ge=1)
        init: str = ""
        class_specific: bool = False

    config: Config

    def __init__(self, config: Config | None = None) -> None:
        super().__init__(config)
        self._classes: Tensor | None = None
        self._fresh: Tensor | None = None

    def attach(self, encoder: Encoder, sites: Mapping[str, Site]) -> Attachment:
        """Makes the vectors; class-specific ones when the number of classes is known."""
        attachment = Attachment(encoder)
        fresh = self.open_room(attachment, sites, self.config.init, self.config.length)
        self.context = None if self.config.class_specific else nn.Parameter(fresh)
        self._fresh = fresh if self.config.class_specific else None
        return attachment

    def fit_classes(self, images: Tensor, targets: Tensor, count: int) -> None:
        """Makes class-specific vectors ``[K, M, C]``, drawn for each class on its own, or the same words for all.

        See :meth:`ClassAdapter.fit_classes`.
        """
        if self._fresh is None:
            return
        fresh = self._fresh.expand(count, -1, -1)
        self.context = nn.Parameter(fresh.clone() if self.config.init else torch.randn_like(fresh) * DEVIATION)

    def resize_for_load(self, shapes: Mapping[str, tuple[int, ...]]) -> None:
        """Makes class-specific vectors of the file's number."""
        if self._fresh is not None and "context" in shapes:
            self.context = nn.Parameter(self._fresh.new_zeros(shapes["context"]))

    @contextmanager
    def prompting(self, classes: Tensor, images: Tensor | None) -> Iterator[None]:
        """Notes the classes, ``int64 [R]``, for class-specific vectors."""
        self._classes = classes
        try:
            yield
        finally:
            self._classes = None

    def contexts(self, rows: int) -> Tensor | None:
        """The vectors of each row, ``[rows, M, C]``."""
        if self.context is None:
            return None
        if not self.config.class_specific:
            return self.context.expand(rows, -1, -1)
        return None if self._classes is None else self.context[self._classes]
