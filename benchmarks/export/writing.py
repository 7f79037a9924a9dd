"""Exports: written beside their place, checked against the graft, and put there whole or not at all."""

from __future__ import annotations

import itertools
import json
import os
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from medgraft.benchmarks.export.card import card_of
from medgraft.benchmarks.export.exchange import Run, write_onnx, write_torchscript
from medgraft.benchmarks.export.facts import checked, facts_of
from medgraft.benchmarks.export.hugging_face import write_hugging_face
from medgraft.benchmarks.export.merged import merge, usage, write_merged
from medgraft.benchmarks.export.served import (
    BATCHES,
    TOLERANCE,
    Served,
    apart,
    check_rows,
    examples,
    refuse_kept_samples,
)
from medgraft.benchmarks.predict.predictor import Predictor
from medgraft.checkpoints.model_card import CARD_NAME, MARK
from medgraft.errors import ConfigError, UnknownNameError

FILES = {"onnx": (".onnx", "ONNX Runtime"), "torchscript": (".pt", "TorchScript")}
"""Kinds that are one file -> its ending, and what runs it in the check."""

KINDS = (*FILES, "merged", "hf", "card")
FACTS = "medgraft.json"
"""Facts of an exported folder; beside a file they have its name and ``.json``."""


@dataclass(frozen=True)
class Exported:
    """What was written.

    Attributes:
        paths: The files, or the folder.
        difference: Largest difference from the graft's own outputs on made-up samples; ``None`` for a card.
        rounding: Largest difference of these from what ``predict`` gives in the precision that the graft was trained
            in; ``None`` where that is float32.
        note: How it is opened.
    """

    paths: tuple[Path, ...]
    difference: float | None = None
    rounding: float | None = None
    note: str = ""


def export(folder: str | Path, kind: str, out: str | Path) -> Exported:
    """Writes a kept graft in another form.

    Args:
        folder: The kept graft.
        kind: ``onnx`` or ``torchscript``: a file, with facts (``NAME.json``) and a model card (``NAME.md``) beside
            it. ``merged`` or ``hf``: a folder. ``card``: the model card alone.
        out: The file or the folder, which must not be there yet; a model card that medgraft wrote may.

    Raises:
        UnknownNameError: No such kind.
        CheckpointError: The folder is none of a kept graft.
        ConfigError: The graft cannot be written so (the sentence says why), its place is taken, or the check failed.
    """
    folder, out = Path(folder), Path(out)
    if kind not in KINDS:
        raise UnknownNameError("kind of export", kind, KINDS)
    if kind == "card":
        return _write_card(folder, out)
    places = _places(kind, out)
    if taken := [place for place in places if place.exists()]:
        raise ConfigError(f"{taken[0]} is there already; name another --out")
    predictor = Predictor(folder, precision="fp32")
    refuse_kept_samples(predictor)
    out.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=out.parent, prefix=f".{out.name}-") as temporary:
        made = Path(temporary) / "made"
        made.mkdir()
        write = _write_file if kind in FILES else _write_folder
        found, note = write(predictor, kind, made, places)
        rounding = _rounding(predictor)
        _put(made, places)
    return Exported(places, found, rounding, note)


def _places(kind: str, out: Path) -> tuple[Path, ...]:
    """What an export becomes; the model last, so that one that is seen is complete."""
    if kind not in FILES:
        return (out,)
    if out.suffix.lower() in (".json", ".md", ""):
        raise ConfigError(f"--out {out} is to be a file of {FILES[kind][1]}; name it {out.with_suffix(FILES[kind][0])}")
    return (out.with_name(f"{out.name}.json"), out.with_name(f"{out.name}.md"), out)


def _put(made: Path, places: tuple[Path, ...]) -> None:
    if len(places) == 1:
        os.replace(made, places[0])
        return
    for place in places:
        os.replace(made / place.name, place)


def _write_file(predictor: Predictor, kind: str, made: Path, places: tuple[Path, ...]) -> tuple[float, str]:
    served = Served(predictor).eval()
    facts = facts_of(predictor, kind, served.outputs)
    batches = [examples(predictor, size, seed) for seed, size in enumerate(BATCHES)]
    check_rows(served, batches[:1])
    write = write_onnx if kind == "onnx" else write_torchscript
    run: Run = write(served, batches[0], made / places[-1].name, facts)
    found = _compared(served, run, batches, FILES[kind][1])
    facts = checked(facts, found, BATCHES, FILES[kind][1])
    (made / places[0].name).write_text(json.dumps(facts, indent=1) + "\n", encoding="utf-8")
    (made / places[1].name).write_text(card_of(predictor.folder, _opening(kind, places[-1].name)), encoding="utf-8")
    return found, f"inputs: {', '.join(facts['inputs'])}; outputs: {', '.join(served.outputs)}"


def _opening(kind: str, name: str) -> str:
    if kind == "onnx":
        return f'import onnxruntime\n\nsession = onnxruntime.InferenceSession("{name}")'
    return f'import torch\n\nmodel = torch.jit.load("{name}")'


def _compared(served: Served, run: Run, batches: list[dict[str, Any]], where: str) -> float:
    """Largest difference of an exported model from the graft.

    Raises:
        ConfigError: It is more than rounding.
    """
    largest = 0.0
    for batch in batches:
        with torch.no_grad():
            expected = served(*batch.values())
        try:
            found = run(batch)
        except Exception as error:  # whatever the runtime raises
            size = len(next(iter(batch.values())))
            raise ConfigError(
                f"{where} does not run a batch of {size}: {' '.join(str(error).split())[:200]}; predict with medgraft"
            ) from error
        difference, relative = apart(found, expected)
        if not relative <= TOLERANCE:
            raise ConfigError(
                f"{where} gives results that differ from the graft's by {difference:.2g}, where {TOLERANCE:g} is "
                "allowed; nothing was written"
            )
        largest = max(largest, difference)
    return largest


def _write_folder(predictor: Predictor, kind: str, made: Path, places: tuple[Path, ...]) -> tuple[float, str]:
    batches = [examples(predictor, size, seed) for seed, size in enumerate(BATCHES)]
    before = Served(predictor)
    facts = facts_of(predictor, kind, before.outputs)
    with torch.no_grad():
        expected = [before(*batch.values()) for batch in batches]
    if kind == "merged":
        merge(predictor)
        written, note, more = [write_merged(predictor, made)], "see usage in medgraft.json", {"usage": usage(predictor)}
    else:
        written, note = write_hugging_face(predictor, batches[0], made)
        more = {"usage": note}
    found = 0.0
    for served, (batch, values) in itertools.product(written, zip(batches, expected, strict=True)):
        with torch.no_grad():
            difference, relative = apart(served(*batch.values()), values)
        if not relative <= TOLERANCE:
            raise ConfigError(f"the exported weights give results that differ by {difference:.2g}; nothing was written")
        found = max(found, difference)
    facts = checked(facts | more, found, BATCHES, "PyTorch, from the written files")
    (made / FACTS).write_text(json.dumps(facts, indent=1) + "\n", encoding="utf-8")
    opening = f'import medgraft\n\npredictor = medgraft.load("{places[0].name}")' if kind == "hf" else ""
    (made / CARD_NAME).write_text(card_of(predictor.folder, opening), encoding="utf-8")
    return found, note


def _rounding(predictor: Predictor) -> float | None:
    """Largest difference of probabilities (or numbers) in float32 from those in the precision of training."""
    if predictor.facts.precision == "fp32":
        return None
    as_trained, batch = Predictor(predictor.folder), examples(predictor, BATCHES[0])
    exact = Predictor(predictor.folder, precision="fp32")
    return apart([as_trained.scores_of(batch)], [torch.from_numpy(exact.scores_of(batch))])[0]


def _write_card(folder: Path, out: Path) -> Exported:
    if out.is_dir():
        out = out / CARD_NAME
    if out.exists() and MARK not in out.read_text(encoding="utf-8", errors="replace"):
        raise ConfigError(f"{out} is there and was not written by medgraft; name another --out")
    text = card_of(folder, "")
    out.parent.mkdir(parents=True, exist_ok=True)
    part = out.with_name(f".{out.name}-{os.getpid()}")
    try:
        part.write_text(text, encoding="utf-8")
        os.replace(part, out)
    finally:
        part.unlink(missing_ok=True)
    return Exported((out,))
