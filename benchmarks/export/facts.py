"""What stands beside an exported model: how inputs are prepared, what comes out, and how it was checked."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch

import medgraft
from medgraft.benchmarks.predict.predictor import Predictor
from medgraft.checkpoints.folder import read_config
from medgraft.encoder import Encoder
from medgraft.modality import find_modality

FORMAT = 1


def facts_of(predictor: Predictor, kind: str, outputs: tuple[str, ...]) -> dict[str, Any]:
    """The facts of an export, as JSON.

    Args:
        predictor: The graft.
        kind: ``onnx``, ``torchscript``, ``merged`` or ``hf``.
        outputs: Names of what the model gives.
    """
    facts, config = predictor.facts, read_config(predictor.folder)
    return {
        "format": FORMAT,
        "kind": kind,
        "medgraft": medgraft.__version__,
        "phantom": facts.phantom,
        "graft": config["weights_sha256"],
        "key": facts.key,
        "task": facts.task,
        "cohort": facts.cohort,
        "split_hash": facts.split_hash,
        "encoder": {"name": facts.encoder, "weights": config["base_digest"]},
        "adapters": {name: each["config"] for name, each in config["adapters"].items()},
        "trained_in": facts.precision,
        "computes_in": "float32",
        "inputs": {name: _input(name, predictor.towers[name], facts.encoder) for name in facts.inputs},
        "outputs": _outputs(predictor, outputs),
        "classes": list(facts.classes),
        "thresholds": None if facts.thresholds is None else list(facts.thresholds),
        "decision": _decision(predictor),
    }


def _input(name: str, tower: Encoder, encoder: str) -> dict[str, Any]:
    """Shape and preparation of one input, with a made-up sample by which another preparation can be compared."""
    modality, spec = find_modality(name), tower.spec
    raw = modality.example(np.random.default_rng(0))
    prepared = torch.as_tensor(tower.prepare(raw))
    flat = prepared.double().flatten()
    return {
        "shape": ["batch", *prepared.shape],
        "dtype": str(prepared.dtype).removeprefix("torch."),
        "raw": modality.raw,
        "read_by": _reading(name),
        "intensity": spec.intensity,
        "spacing_mm": spec.spacing,
        "library_preprocessing": library_preprocessing(tower),
        "prepare": f"medgraft.build_encoder({encoder!r}).towers()[{name!r}].prepare(raw)",
        "example": {
            "raw": f"medgraft.modality.find_modality({name!r}).example(numpy.random.default_rng(0))",
            "prepared_sha256": hashlib.sha256(prepared.contiguous().numpy().tobytes()).hexdigest(),
            "prepared_mean": float(flat.nanmean()),
            "prepared_first": [float(value) for value in flat[:4]],
        },
    }


def _reading(name: str) -> str:
    if name == "image":
        return "grey values 0..255; DICOM through its rescale, window and photometric interpretation"
    if name == "volume":
        return "float32 in the file's own units, axes turned to right, front and top (RAS)"
    return "as it is"


def library_preprocessing(tower: Encoder) -> Any:
    """What a library's own processor or transform is set to, as JSON or in its own words; ``None`` without one."""
    transform: Any = getattr(tower, "transform", None)
    processor = getattr(transform, "processor", None)
    if processor is not None and hasattr(processor, "to_dict"):
        return processor.to_dict()
    return None if transform is None else " ".join(str(transform).split())


def _outputs(predictor: Predictor, outputs: tuple[str, ...]) -> dict[str, Any]:
    activation = predictor.objective.activation
    words = {
        "logits": "what probabilities are made of",
        "probabilities": f"{activation} of the logits",
        "value": "the predicted number, in the unit of the training targets",
    }
    size = len(predictor.facts.classes) or 1
    return {name: {"shape": ["batch", size], "is": words[name]} for name in outputs}


def _decision(predictor: Predictor) -> str:
    if not predictor.facts.classes:
        return "the value itself"
    return "the likeliest class" if predictor.facts.thresholds is None else "labels at or above their thresholds"


def checked(facts: Mapping[str, Any], largest: float, batches: tuple[int, ...], against: str) -> dict[str, Any]:
    """The facts with what the check found.

    Args:
        facts: See :func:`facts_of`.
        largest: Largest difference of any output.
        batches: Sizes of the batches that were tried.
        against: What ran.
    """
    check = {
        "largest_difference": largest,
        "batches": list(batches),
        "ran_in": against,
        "torch": str(torch.__version__),
    }
    return {**facts, "check": check}
