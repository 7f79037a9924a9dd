"""A folder of the Hugging Face kind: weights, configuration, preprocessing, card, and the graft itself inside."""

from __future__ import annotations

import json
import shutil
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from medgraft.benchmarks.cell.kept import FACTS, INSIDE
from medgraft.benchmarks.export.merged import WEIGHTS, merge, write_merged
from medgraft.benchmarks.export.served import TOLERANCE, Served, apart
from medgraft.benchmarks.predict.predictor import Predictor
from medgraft.checkpoints.folder import CONFIG_NAME, WEIGHTS_NAME
from medgraft.errors import ConfigError

GRAFT_FILES = (CONFIG_NAME, WEIGHTS_NAME, FACTS)


def write_hugging_face(predictor: Predictor, batch: Mapping[str, Tensor], folder: Path) -> tuple[list[Served], str]:
    """Writes all but the card and the facts.

    ``graft/`` is what was kept, which ``medgraft.load`` opens. Where the adapters can be folded into the weights,
    ``model.safetensors`` holds them: for a model of transformers as the library saves it, so that ``AutoModel`` opens
    the folder; else as ``export --to merged`` does.

    Args:
        predictor: In single precision; its graft is merged where that can be.
        batch: Prepared inputs ``[B, ...]``, to compare with.
        folder: A new one.

    Returns:
        What was written as functions, to be compared with the graft, and how it is opened, in words.
    """
    inside = folder / INSIDE
    inside.mkdir()
    for name in GRAFT_FILES:
        shutil.copyfile(predictor.folder / name, inside / name)
    served = Served(Predictor(inside, precision="fp32"))
    try:
        merge(predictor)
    except ConfigError as error:
        _write_config(predictor, folder, {})
        return [served], f"medgraft.load(folder) only: {error}"
    model = transformers_model(predictor)
    if model is None:
        merged = write_merged(predictor, folder)
        _write_config(predictor, folder, {"weights": WEIGHTS})
        return [served, merged], "medgraft.load(folder); model.safetensors as export --to merged writes it"
    model.save_pretrained(folder)
    transform: Any = getattr(next(iter(predictor.towers.values())), "transform", None)
    if hasattr(getattr(transform, "processor", None), "save_pretrained"):
        transform.processor.save_pretrained(folder)
    _compare(model, next(iter(batch.values())), folder)
    head = predictor.grafted.head
    if head is not None:
        from safetensors.torch import save_file  # pyright: ignore[reportUnknownVariableType]

        save_file(
            {k: v.detach().clone().contiguous() for k, v in head.state_dict().items()}, folder / "head.safetensors"
        )
    return [
        served
    ], "medgraft.load(folder); transformers.AutoModel.from_pretrained(folder), the head in head.safetensors"


def transformers_model(predictor: Predictor) -> Any:
    """The model of transformers that a graft of a single tower is built on; ``None`` for others."""
    from transformers import PreTrainedModel

    if len(predictor.towers) != 1:
        return None
    model = getattr(next(iter(predictor.towers.values())), "model", None)
    return model if isinstance(model, PreTrainedModel) else None


def _write_config(predictor: Predictor, folder: Path, more: Mapping[str, str]) -> None:
    facts = predictor.facts
    config = {
        "model_type": "medgraft",
        "base_model": facts.encoder,
        "adapters": list(predictor.grafted.adapters),
        "task": facts.task,
        "objective": facts.objective,
        "id2label": {str(k): name for k, name in enumerate(facts.classes)},
        "label2id": {name: k for k, name in enumerate(facts.classes)},
        **more,
    }
    (folder / "config.json").write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")


@torch.no_grad()
def _compare(model: Any, x: Tensor, folder: Path) -> None:
    """Opens the saved model as a user would, and compares its hidden states with the merged encoder's.

    Raises:
        ConfigError: ``AutoModel`` gives something else.
    """
    from transformers import AutoModel
    from transformers.utils import logging

    level = logging.get_verbosity()
    logging.set_verbosity_error()
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            opened = AutoModel.from_pretrained(folder, local_files_only=True).eval()
        arguments = {model.main_input_name: x}
        expected, found = model(**arguments).last_hidden_state, opened(**arguments).last_hidden_state
    finally:
        logging.set_verbosity(level)
    if (gap := apart([found], [expected])[1]) > TOLERANCE:
        raise ConfigError(
            f"AutoModel opens the folder as a model whose hidden states differ by {gap:.2g}; use --to merged"
        )
