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
from medgraft.encoder import Encoder
from medgraft.encoder.sites import Site
from medgraft.encoder.towers import visual_tower
from medgraft.errors import ConfigError, DataError


class NearestReport(Adapter):
    """Copies the text of the nearest training sample; nothing is trained, and no language model writes anything.

    A saved one holds the features and the texts of its training samples.
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

    keys: Tensor | None
    reports: Tensor | None

    def __init__(self, config: AdapterConfig | None = None) -> None:
        super().__init__(config)
        self.register_buffer("keys", None)
        self.register_buffer("reports", None)

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

    def fit_reports(self, features: Tensor, reports: Sequence[str]) -> None:
        """Keeps the training samples.

        Args:
            features: ``[n, D]``, frozen.
            reports: Text of each.

        Raises:
            DataError: There is none.
        """
        if not len(features):
            raise DataError("there is no training report to copy")
        rows = [text.replace("\0", "").encode() for text in reports]
        texts = torch.zeros(len(rows), max([1, *map(len, rows)]), dtype=torch.uint8)
        for row, content in zip(texts, rows, strict=True):
            row[: len(content)] = torch.tensor(list(content), dtype=torch.uint8)
        self.keys = F.normalize(features.detach().float(), dim=-1)
        self.reports = texts.to(features.device)

    def reports_for(self, features: Tensor) -> list[str]:
        """The text of the nearest training sample for features ``[B, D]``; of equally near ones the first.

        Raises:
            ConfigError: It has seen no training samples.
        """
        if self.keys is None or self.reports is None:
            raise ConfigError(
                "nearest_report has seen no training report; call fit_reports() or load a saved one first"
            )
        cosines = F.normalize(features.float(), dim=-1) @ self.keys.T
        rows = self.reports[cosines.argmax(dim=1)].cpu().numpy()
        return [bytes(row[: int((row != 0).sum())]).decode() for row in rows]

    def resize_for_load(self, shapes: Mapping[str, tuple[int, ...]]) -> None:
        """Makes room for a file's samples: name in ``state_dict()`` -> shape."""
        if "keys" in shapes:
            self.keys = torch.zeros(shapes["keys"])
        if "reports" in shapes:
            self.reports = torch.zeros(shapes["reports"], dtype=torch.uint8)
