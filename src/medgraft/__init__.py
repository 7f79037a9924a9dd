"""Graft small trainable adapters onto frozen medical encoders, and measure honestly what each graft is worth."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from medgraft.adapter import Adapter, AdapterConfig, Attachment, Support
    from medgraft.adapter.site_adapter import SiteAdapter
    from medgraft.benchmarks.predict.classifier import GraftClassifier
    from medgraft.benchmarks.predict.predictor import load
    from medgraft.checkpoints.opening import load_graft
    from medgraft.encoder import DualEncoder, Encoder, EncoderSpec, TextEncoder
    from medgraft.encoder.sites import Site, match_sites
    from medgraft.features import Features
    from medgraft.grafting import Grafted, encoder_of, graft, ungraft_all
    from medgraft.registry import build_encoder

__version__ = "0.1.0"

# Resolved on first use, so that `import medgraft` and the command line's help do not import torch.
_HOME = {
    "Adapter": "adapter",
    "AdapterConfig": "adapter",
    "Attachment": "adapter",
    "Support": "adapter",
    "DualEncoder": "encoder",
    "Encoder": "encoder",
    "EncoderSpec": "encoder",
    "TextEncoder": "encoder",
    "Features": "features",
    "GraftClassifier": "benchmarks.predict.classifier",
    "Grafted": "grafting",
    "encoder_of": "grafting",
    "graft": "grafting",
    "ungraft_all": "grafting",
    "Site": "encoder.sites",
    "SiteAdapter": "adapter.site_adapter",
    "match_sites": "encoder.sites",
    "build_encoder": "registry",
    "load": "benchmarks.predict.predictor",
    "load_graft": "checkpoints.opening",
}

__all__ = [
    "Adapter",
    "AdapterConfig",
    "Attachment",
    "DualEncoder",
    "Encoder",
    "EncoderSpec",
    "Features",
    "GraftClassifier",
    "Grafted",
    "Site",
    "SiteAdapter",
    "Support",
    "TextEncoder",
    "__version__",
    "build_encoder",
    "encoder_of",
    "graft",
    "load",
    "load_graft",
    "match_sites",
    "ungraft_all",
]


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module 'medgraft' has no attribute {name!r}")
    return getattr(importlib.import_module(f"medgraft.{_HOME[name]}"), name)
