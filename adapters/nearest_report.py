"""The report of the most similar training sample, copied: what a table of generated reports must beat.

Similar by the cosine of frozen features, as in retrieval baselines for radiology reports (Endo et al., "Retrieval-Based
Chest X-Ray Report Generation Using a Pre-trained Contrastive Language-Image Model", ML4H 2021).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from types import MappingProxyType

import torch
import torch.nn.functional as F
from torch import Tensor

from medgraft.adapter import Adapter, AdapterConfig, Attachment, Support
from medgraft.adapter.protocols import Asked
from medgraft.encoder import Encoder
from medgraft.encoder.sites import Site
from medgraft.encoder.towers import visual_tower
from medgraft.errors import ConfigError, DataError

QUESTION, KIND, ANY = "the same question", "the same kind", "any"
"""Which training samples a text is chosen of."""


class NearestReport(Adapter):
    """Copies the text of the nearest training sample; nothing is trained, and no language model writes anything.

    It is the nearest of those that answer the same question, word by word; where none does, of those that answer one of
    the same kind; else of all. A saved one holds the features and the texts of its training samples.
    """

    title = "The report of the most similar training sample, copied"
    paper = (
        "Endo et al., Retrieval-Based Chest X-Ray Report Generation Using a Pre-trained Contrastive Language-Image "
        "Model, ML4H 2021"
    )
    licence = "Apache-2.0"
    formula = r"\mathrm{report}_{i}, \quad i = \mathrm{argmax}_{j}\; \frac{x \cdot x_j}{|x|\,|x_j|}"
    train_defaults = MappingProxyType({"epochs": 0})
    text_padding = 0
    export_refusal = (
        "it holds the features and the reports of every training sample, which are not to leave with a model"
    )

    class Config(AdapterConfig):
        """Options.

        Attributes:
            same_question: Of questions, only training samples that were asked the same count, where there are any.
        """

        same_question: bool = True

    config: Config

    keys: Tensor | None
    reports: Tensor | None
    questions: Tensor | None
    kinds: Tensor | None

    def __init__(self, config: AdapterConfig | None = None) -> None:
        super().__init__(config)
        for name in ("keys", "reports", "questions", "kinds"):
            self.register_buffer(name, None)
        self._alike: dict[tuple[str, str], Tensor] | None = None

    def supports(self, encoder: Encoder) -> Support:
        """Fits every encoder that sees something."""
        if visual_tower(encoder) is None:
            return Support(False, "it has no visual tower, by whose features samples are similar")
        return Support(True)

    def attach(self, encoder: Encoder, sites: Mapping[str, Site]) -> Attachment:
        """Notes that nothing before the features changes."""
        attachment = Attachment(encoder)
        attachment.record({"features": [site for site in sites.values() if site.kind == "features"]})
        return attachment

    def fit_reports(self, features: Tensor, reports: Sequence[str], asked: Sequence[Asked] = ()) -> None:
        """Keeps the training samples.

        Args:
            features: ``[n, D]``, frozen.
            reports: Text of each.
            asked: What each answers; none where all answer the same.

        Raises:
            DataError: There is none.
        """
        if not len(features):
            raise DataError("there is no training report to copy")
        self.keys = F.normalize(features.detach().float(), dim=-1)
        self.reports = _as_bytes(reports).to(features.device)
        self.questions = _as_bytes([each.question for each in asked]).to(features.device) if asked else None
        self.kinds = _as_bytes([each.kind for each in asked]).to(features.device) if asked else None
        self._alike = None

    def reports_for(self, features: Tensor, asked: Sequence[Asked] = ()) -> list[str]:
        """The text of the nearest training sample for features ``[B, D]``; of equally near ones the first.

        Args:
            features: Of the samples.
            asked: What each is asked; none where all are asked the same.

        Raises:
            ConfigError: It has seen no training samples.
        """
        if self.keys is None or self.reports is None:
            raise ConfigError(
                "nearest_report has seen no training report; call fit_reports() or load a saved one first"
            )
        cosines = F.normalize(features.float(), dim=-1) @ self.keys.T
        nearest = cosines.argmax(dim=1)
        for i, each in enumerate(asked):
            if (rows := self._like(each)[1]) is not None:
                nearest[i] = rows[cosines[i, rows].argmax()]
        return _as_texts(self.reports[nearest])

    def copied_from(self, asked: Sequence[Asked]) -> list[str]:
        """``"the same question"``, ``"the same kind"`` or ``"any"``: which training samples each text is chosen of."""
        return [self._like(each)[0] for each in asked]

    def _like(self, asked: Asked) -> tuple[str, Tensor | None]:
        """Which training samples are asked the same, and their numbers ``[m]``; ``None`` for all."""
        if not self.config.same_question:
            return ANY, None
        if self._alike is None:
            self._alike = self._groups()
        for level, name in ((QUESTION, asked.question), (KIND, asked.kind)):
            if name and (rows := self._alike.get((level, _stored(name)))) is not None:
                return level, rows
        return ANY, None

    def _groups(self) -> dict[tuple[str, str], Tensor]:
        numbers: dict[tuple[str, str], list[int]] = {}
        for level, names in ((QUESTION, self.questions), (KIND, self.kinds)):
            for i, name in enumerate([] if names is None else _as_texts(names)):
                numbers.setdefault((level, name), []).append(i)
        device = None if self.keys is None else self.keys.device
        return {group: torch.tensor(rows, device=device) for group, rows in numbers.items()}

    def resize_for_load(self, shapes: Mapping[str, tuple[int, ...]]) -> None:
        """Makes room for a file's samples: name in ``state_dict()`` -> shape."""
        for name in ("keys", "reports", "questions", "kinds"):
            kind = torch.float32 if name == "keys" else torch.uint8
            setattr(self, name, torch.zeros(shapes[name], dtype=kind) if name in shapes else None)
        self._alike = None


def _stored(text: str) -> str:
    """A text as it is kept, with no zero byte, which ends one."""
    return text.replace("\0", "")


def _as_bytes(texts: Sequence[str]) -> Tensor:
    """Texts as rows of their UTF-8 bytes and zeros, ``uint8 [n, L]``."""
    rows = [_stored(text).encode() for text in texts]
    made = torch.zeros(len(rows), max([1, *map(len, rows)]), dtype=torch.uint8)
    for row, content in zip(made, rows, strict=True):
        row[: len(content)] = torch.tensor(list(content), dtype=torch.uint8)
    return made


def _as_texts(rows: Tensor) -> list[str]:
    return [bytes(row[: int((row != 0).sum())]).decode() for row in rows.cpu().numpy()]
