"""Encoders of expression tables: a row of numbers, one for each gene, and two slots for the genotype.

``omics:row``
    no network, the row itself; a linear probe on it is the penalised logistic regression that others have to beat,
``omics:mlp``
    two hidden layers, 1024 and 512 wide, each with layer norm and GELU,
``omics:gene_tokens``
    a transformer on tokens of genes, each the embedding of its gene plus what an MLP makes of its value, as scGPT's are
    (Cui et al., "scGPT", Nature Methods 21, 2024); of a sample's genes the 512 that deviate most, by absolute value,
    get a token, the genotype always.

There are no published weights for blood arrays of bulk tissue, so the two networks begin at random, always the same;
train them with ``full_finetune``, or give a file that was saved before. Rows come from a task that chose and scaled the
genes on its training subjects, such as :mod:`medgraft.benchmarks.tasks.brain.adni_expression`: ``G`` standardised
numbers in one order for all samples, ``nan`` where a number is missing, then the number of APOE e4 alleles and a
polygenic score, standardised too. A missing number is its column's mean, 0; a row of fewer genes than the encoder has
places for leaves the last ones empty.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from medgraft.checkpoints.weights import load_strict, read_weights
from medgraft.encoder import EncoderSpec
from medgraft.encoder.attention import AttentionLayout
from medgraft.encoders.embedded import Block
from medgraft.encoders.parts.loading import StagedEncoder, finish, origin, seeded
from medgraft.errors import ConfigError
from medgraft.features import Features
from medgraft.sources import Source

GENES = 2000
"""Places for genes; a task chooses at most so many."""
GENOTYPE = 2
"""Places behind them: APOE e4 alleles, polygenic score."""
HIDDEN, WIDTH = 1024, 512
TOKENS, DIM, HEADS, DEPTH = 512, 128, 4, 4


class Row(StagedEncoder):
    """``omics:row``, and how a row is prepared for all of them.

    Args:
        spec: Facts; ``input_size`` is ``(G + 2,)``.
    """

    has_cls = False

    def prepare(self, raw: Any) -> Tensor:
        """A row ``float32 [g + 2]``, ``g`` at most the encoder's genes -> ``float32 [G + 2]``.

        Raises:
            ConfigError: The row has more genes than the encoder has places for, or no genotype's places.
        """
        row = np.nan_to_num(np.asarray(raw, np.float32), nan=0.0)
        places = self.spec.input_size[0]
        if not GENOTYPE < len(row) <= places:
            raise ConfigError(
                f"encoder {self.spec.name} reads 1 to {places - GENOTYPE} genes and {GENOTYPE} numbers of the "
                f"genotype, and got a row of {len(row)}; set the task's genes to {places - GENOTYPE} at most"
            )
        x = np.zeros(places, np.float32)
        x[: len(row) - GENOTYPE], x[places - GENOTYPE :] = row[:-GENOTYPE], row[-GENOTYPE:]
        return torch.from_numpy(x)

    def checked(self, x: Tensor) -> Tensor:
        """A prepared batch, once its shape is known to be right: ``[B, G + 2]``."""
        if x.ndim != 2 or x.shape[1] != self.spec.input_size[0]:
            shape = f"[B, {self.spec.input_size[0]}]"
            raise ConfigError(f"encoder {self.spec.name} takes {shape}, got {list(x.shape)}; use its prepare()")
        return x

    def embed(self, x: Tensor) -> Tensor:
        """``[B, G + 2]`` as it is."""
        return x

    def pool(self, x: Tensor) -> Features:
        """``[B, G + 2]`` -> tokens ``[B, G + 2, 1]`` and pooled ``[B, G + 2]``."""
        return Features(tokens=x[:, :, None], pooled=x, n_prefix=0, grid=(x.shape[1],))


class RowMlp(Row):
    """``omics:mlp``: one token, the second hidden layer.

    Args:
        spec: Facts; ``input_size`` is ``(G + 2,)``.
    """

    def __init__(self, spec: EncoderSpec) -> None:
        super().__init__(spec)
        self.fc1, self.norm1 = nn.Linear(spec.input_size[0], HIDDEN), nn.LayerNorm(HIDDEN)
        self.fc2, self.norm2 = nn.Linear(HIDDEN, WIDTH), nn.LayerNorm(WIDTH)

    def embed(self, x: Tensor) -> Tensor:
        """``[B, G + 2]`` -> ``[B, 512]``."""
        x = nn.functional.gelu(self.norm1(self.fc1(x)))
        return nn.functional.gelu(self.norm2(self.fc2(x)))

    def pool(self, x: Tensor) -> Features:
        """``[B, 512]`` -> tokens ``[B, 1, 512]`` and pooled ``[B, 512]``."""
        return Features(tokens=x[:, None], pooled=x, n_prefix=0, grid=(1,))


class GeneTokens(Row):
    """``omics:gene_tokens``: a CLS token, the two of the genotype, and those of the genes that deviate most.

    Args:
        spec: Facts; ``input_size`` is ``(G + 2,)``.
        tokens: Genes of a sample that get a token.
    """

    has_cls = True

    def __init__(self, spec: EncoderSpec, tokens: int = TOKENS) -> None:
        super().__init__(spec)
        self.tokens = min(tokens, spec.input_size[0] - GENOTYPE)
        self.cls = nn.Parameter(torch.randn(1, 1, spec.dim) * 0.02)
        self.gene = nn.Embedding(spec.input_size[0], spec.dim)
        self.value = nn.Sequential(nn.Linear(1, spec.dim), nn.GELU(), nn.Linear(spec.dim, spec.dim))
        self.blocks = nn.ModuleList(Block(spec.dim, spec.heads) for _ in range(DEPTH))
        self.norm = nn.LayerNorm(spec.dim)
        self.attention = [
            AttentionLayout("packed", f"blocks.{i}.qkv", heads=spec.heads, dim=spec.dim, out_path=f"blocks.{i}.proj")
            for i in range(DEPTH)
        ]
        self.set_blocks([f"blocks.{i}" for i in range(DEPTH)])

    def embed(self, x: Tensor) -> Tensor:
        """Rows ``[B, G + 2]`` -> ``[B, 1 + 2 + 512, C]``; genes stand in the row's order, ties go to the first."""
        genes = x.shape[1] - GENOTYPE
        most = x[:, :genes].abs().sort(dim=1, descending=True, stable=True).indices[:, : self.tokens].sort(dim=1).values
        places = torch.cat([torch.arange(genes, x.shape[1], device=x.device).expand(len(x), -1), most], dim=1)
        values = x.gather(1, places)[:, :, None]
        return torch.cat([self.cls.expand(len(x), -1, -1), self.gene(places) + self.value(values)], dim=1)

    def pool(self, x: Tensor) -> Features:
        """``[B, N, C]`` -> its last norm, of which the CLS token is ``pooled``."""
        x = self.norm(x)
        return Features(tokens=x, pooled=x[:, 0], n_prefix=1, grid=(x.shape[1] - 1,))


class OmicsSource(Source):
    """Entry point ``omics``."""

    name = "omics"

    @classmethod
    def models(cls) -> dict[str, str]:
        """Names that ``build`` takes, with a line each."""
        return {
            "row": "no network: the standardised row itself, for a linear probe",
            "mlp": "two hidden layers on the expression of genes and the genotype, from scratch",
            "gene_tokens": "transformer on tokens of the genes that deviate most and of the genotype, from scratch",
        }

    @classmethod
    def make(cls, model: str, weights: str, sha256: str | None, genes: int = GENES) -> Row:
        """Builds one of them.

        Args:
            model: A key of :meth:`models`.
            weights: ``"default"`` or ``"random"``, which are the same (seeded), or a local file of its parameters.
            sha256: Expected digest of the file.
            genes: Places for genes; a row has at most so many.

        Raises:
            ConfigError: ``genes`` is no positive number.
            CheckpointError: The file cannot be read or does not fit.
        """
        if genes < 1:
            raise ConfigError(f"encoder omics:{model} needs places for genes, got genes={genes}")
        place = origin(weights, sha256)
        if model == "row" and place not in ("default", "random"):
            raise ConfigError(f"encoder omics:row has no weights, so it cannot take {weights!r}; drop the @ part")
        tokens, dim = model == "gene_tokens", {"row": 1, "mlp": WIDTH, "gene_tokens": DIM}[model]
        spec = EncoderSpec(
            name=f"omics:{model}",
            modality="table",
            input_size=(genes + GENOTYPE,),
            intensity="standardised on the training subjects; missing 0",
            dim=dim,
            heads=HEADS if tokens else 0,
            pooling="cls" if tokens else "the layer itself",
            licence="Apache-2.0",
            weights="none" if model == "row" else "random",
        )
        if model == "row":
            encoder = Row(spec)
            encoder.freeze()
            return encoder
        with seeded():
            encoder = GeneTokens(spec) if tokens else RowMlp(spec)
        if isinstance(place, str):
            return finish(encoder, "random")
        load_strict(encoder, read_weights(place, sha256), str(place))
        return finish(encoder, place)
