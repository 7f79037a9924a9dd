"""Language models of transformers, frozen, with their last linear map: texts continued and not only encoded.

``causal_lm:gpt2@/path/to/folder``, ``causal_lm:meta-llama/Llama-3.2-1B`` (a hub id), or a bare family with fresh
weights (``causal_lm:qwen2@random``): whatever the library opens by ``AutoModelForCausalLM``. ``causal_lm:embedded`` is
a small one that comes with the package. Options stand behind the model: ``causal_lm:llama,bits=4@/path``; see
:class:`medgraft.encoders.parts.hf.storage.Storage`.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, cast

import torch

from medgraft.encoder import Encoder
from medgraft.encoders.parts.hf.causal import CausalLm
from medgraft.encoders.parts.hf.embedded_language import NAME as EMBEDDED
from medgraft.encoders.parts.hf.embedded_language import TOKENIZER as EMBEDDED_TOKENIZER
from medgraft.encoders.parts.hf.embedded_language import build_embedded
from medgraft.encoders.parts.hf.embedded_language import fresh_network as fresh_embedded
from medgraft.encoders.parts.hf.storage import Storage, library_for
from medgraft.encoders.parts.hf.text import spec_of_text
from medgraft.encoders.parts.hub import demand, fetching
from medgraft.encoders.parts.loading import finish, options_of, origin, seeded
from medgraft.encoders.parts.name_options import OptionsInName, parse, values_of
from medgraft.encoders.parts.quiet import quiet
from medgraft.errors import CheckpointError, ConfigError, UnknownNameError
from medgraft.sources import check_hub_id, check_weights

__all__ = ["EMBEDDED_TOKENIZER", "CausalLmSource", "fresh_embedded", "parse"]

FAMILIES = {
    "embedded": "a small LLaMA that comes with medgraft, pre-trained on generated reports and questions",
    "gpt2": "GPT-2; for example openai-community/gpt2",
    "opt": "OPT; for example facebook/opt-125m",
    "llama": "LLaMA; for example meta-llama/Llama-3.2-1B",
    "mistral": "Mistral; for example mistralai/Mistral-7B-v0.3",
    "qwen2": "Qwen2; for example Qwen/Qwen2.5-0.5B",
    "qwen3": "Qwen3; for example Qwen/Qwen3-0.6B",
    "gemma": "Gemma; for example google/gemma-2b",
    "gemma2": "Gemma 2; for example google/gemma-2-2b",
    "gemma3_text": "Gemma 3 and MedGemma's text part; for example google/gemma-3-1b-pt",
    "phi": "Phi-1.5 and Phi-2; for example microsoft/phi-2",
    "phi3": "Phi-3; for example microsoft/Phi-3-mini-4k-instruct",
    "gpt_neox": "GPT-NeoX and Pythia; for example EleutherAI/pythia-160m",
}
"""Families with a line each; the library's others are taken by their ``model_type``, too."""


class CausalLmSource(OptionsInName):
    """Entry point ``causal_lm``."""

    name = "causal_lm"
    Config = Storage

    @staticmethod
    def check(model: str, weights: str) -> None:
        """Raises for no family, hub id or folder, weights that are neither a keyword nor on this disk, and options."""
        model, texts = parse(model)
        _storage(texts, {})
        if "/" in model or "\\" in model:
            check_hub_id("causal_lm", model, prefixed=True)
        elif model != EMBEDDED:
            _model_type(model)
        check_weights(f"causal_lm:{model}", weights)

    @classmethod
    def models(cls) -> dict[str, str]:
        """Families; ``build`` also takes the library's others, hub ids and local folders."""
        return FAMILIES

    @classmethod
    def make(
        cls,
        model: str,
        weights: str,
        sha256: str | None,
        config: Mapping[str, Any] | None = None,
        tokenizer: str | None = None,
        **storage: Any,
    ) -> Encoder:
        """Builds a language model.

        Args:
            model: A family, a hub id (``owner/name``), or a local folder, options behind it: ``gpt2,bits=4``.
            weights: ``"default"`` for the hub's, ``"random"``, or a local folder.
            sha256: Of the file of weights that ``embedded`` is to load; weights of several files have no single digest.
            config: Options of the family's configuration class, for a bare family with fresh weights.
            tokenizer: Hub id or local folder of the tokenizer, where it is another's.
            **storage: Fields of :class:`Storage`, in place of those in the name.

        Raises:
            UnknownNameError: No such family.
            ConfigError: An option does not fit, or no installed library can do what it asks for.
            CheckpointError: The weights cannot be fetched, read or fitted.
        """
        name = f"causal_lm:{model}"
        model, texts = parse(model)
        stored = _storage(texts, storage)
        if stored.bits in (4, 8):
            library_for(name, stored.bits, stored.library)  # before anything large is read
        if model == EMBEDDED:
            return _embedded(name, weights, sha256, stored, of_its_own=not (config or tokenizer))
        source = origin(model if weights == "default" and Path(model).is_dir() else weights, sha256)
        if isinstance(source, Path) and not source.is_dir():
            raise CheckpointError(f"encoder {name}: {source} is a file; name the folder with its config.json")
        if config and source != "random":
            raise ConfigError(f"encoder {name}: config is for a bare family with fresh weights")
        if source == "default" and "/" not in model:
            raise CheckpointError(
                f"encoder {name}: a bare family has no weights; name a hub id, a folder (@/path) or @random"
            )
        if source == "random" and stored.device_map:
            raise ConfigError(f"encoder {name}: device_map is for weights in files, not for fresh ones")
        network = _fresh(model, name, config or {}) if source == "random" else _loaded(model, name, source)
        if stored.bits == 16:
            network = network.to(torch.bfloat16)
        folder = source if isinstance(source, Path) else model if "/" in model else None
        place = tokenizer or (None if folder is None else str(folder))
        spec = spec_of_text(name, source, network.config, "last")
        return finish(CausalLm(spec, network, place), source).stored_as(stored)


def _embedded(name: str, weights: str, sha256: str | None, stored: Storage, *, of_its_own: bool) -> Encoder:
    if not of_its_own:
        raise ConfigError(f"encoder {name} has a configuration and a tokenizer of its own")
    if stored.device_map:
        raise ConfigError(f"encoder {name}: device_map is for models larger than one device; leave it out")
    encoder = build_embedded(weights, sha256)
    if stored.bits == 16:
        encoder = encoder.to(torch.bfloat16)
    return encoder.stored_as(stored)


def _storage(texts: Mapping[str, str], options: Mapping[str, Any]) -> Storage:
    return values_of(Storage, texts, options, "options of causal_lm")


def _model_type(model: str) -> str:
    from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES as CAUSAL

    known = {name.replace("-", "_"): name for name in CAUSAL}
    if model.replace("-", "_") not in known:
        raise UnknownNameError("family of language models", model, known, "A hub id (owner/name) is accepted too.")
    return known[model.replace("-", "_")]


def _fresh(model: str, name: str, options: Mapping[str, Any]) -> Any:
    from transformers import AutoConfig, AutoModelForCausalLM

    with seeded(), quiet(), options_of(name):
        config = AutoConfig.for_model(_model_type(model), **options)
        return AutoModelForCausalLM.from_config(config)


def _loaded(model: str, name: str, source: str | Path) -> Any:
    from transformers import AutoModelForCausalLM

    place, loader = source if isinstance(source, Path) else model, cast(Any, AutoModelForCausalLM)
    if not isinstance(source, Path):
        demand(name, model)
    with fetching(name, local=isinstance(source, Path)), seeded():
        network, report = loader.from_pretrained(place, dtype="auto", output_loading_info=True)
    tied = set(getattr(network, "_tied_weights_keys", None) or ())
    fresh = sorted(
        {key for key in report["missing_keys"] if key not in tied} | {str(each) for each in report["mismatched_keys"]}
    )
    if fresh:
        raise CheckpointError(f"{place} does not fit {type(network).__name__}: it lacks {', '.join(fresh[:6])}")
    return network
