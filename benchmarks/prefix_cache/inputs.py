"""Prepared inputs, and the part of a frozen encoder before the first trained site, computed once and memory-mapped.

The store is :mod:`medgraft.benchmarks.prefix_cache.store`; an entry here is a folder of the ``.npy`` files that
:mod:`medgraft.benchmarks.prefix_cache.arrays` writes.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import logging
from collections import Counter
from collections.abc import Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from medgraft.benchmarks.prefix_cache.arrays import META, RowWriter, stored
from medgraft.benchmarks.prefix_cache.rows import CacheUse, TowerInputs
from medgraft.benchmarks.prefix_cache.store import entry
from medgraft.benchmarks.prefix_cache.text_rows import text_rows
from medgraft.encoder import Encoder, TextEncoder
from medgraft.errors import DataError
from medgraft.fast.float8 import Float8Linear
from medgraft.fast.forms import fast_forms
from medgraft.fast.linear import fp32_choice
from medgraft.fast.short_texts import can_cut
from medgraft.fast.switch import is_plain
from medgraft.features import Condenser, Features
from medgraft.files.one_file import one_file
from medgraft.modality import find_modality, prepared
from medgraft.task import RawInputs

logger = logging.getLogger(__name__)

LARGEST_BATCH = 32
CPU_NUMBERS = 640_000
"""Numbers of prepared input that a CPU takes at once through the frozen part: four images of 224 x 224. Larger batches
are not faster there, and the pass would need more memory than a training step."""

PROBES = 64
REASONS = "unreadable.json"


def frozen_batch(prepared: np.ndarray, device: torch.device) -> int:
    """Samples of ``prepared``, ``[n, ...]``, that go through the frozen part at once.

    Example:
        >>> frozen_batch(np.empty((9, 3, 224, 224), np.float16), torch.device("cpu"))
        4
    """
    fitting = LARGEST_BATCH if device.type != "cpu" else CPU_NUMBERS // max(1, int(np.prod(prepared.shape[1:])))
    return min(LARGEST_BATCH, max(1, fitting))


def consecutive(count: int, size: int) -> Iterator[np.ndarray]:
    """Samples ``[B]`` of each batch, in their order."""
    for start in range(0, count, size):
        yield np.arange(start, min(start + size, count))


@dataclass(frozen=True)
class PreparedInputs:
    """Prepared inputs of one modality.

    Attributes:
        array: ``[n, ...]``, memory-mapped.
        usable: ``[n]``, false where the raw sample could not be read, or there is none.
        facts: What defines them.
        use: What the cache did.
        reasons: Why samples are not usable -> how many of them.
    """

    array: np.ndarray
    usable: np.ndarray
    facts: dict[str, Any]
    use: CacheUse
    reasons: dict[str, int] = field(default_factory=dict)

    def batch(self, index: np.ndarray) -> Tensor:
        """Rows ``index`` as ``float32 [B, ...]`` (or ``int64 [B, L]`` token ids)."""
        rows = torch.from_numpy(np.asarray(self.array[index]))
        return rows.float() if rows.is_floating_point() else rows.long()


def preprocessing_digest(raw: RawInputs, tower: Encoder) -> str:
    """What ``tower`` makes of a few probes: tells apart tokenizers and image settings that go by one name.

    Most modalities have fixed probes; texts are probed with some of the cohort's own, which hold its vocabulary.
    """
    modality = find_modality(tower.spec.modality)
    samples = modality.probes() or _readable(raw, np.unique(np.linspace(0, raw.count - 1, PROBES).astype(int)).tolist())
    if raw.colour:
        samples = [*samples, *modality.colour_probes()]
    whole = hashlib.sha256()
    for sample in samples:
        try:
            whole.update(stored(prepared(tower, sample)[None]).tobytes())
        except DataError as error:
            whole.update(str(error).encode())
    return whole.hexdigest()


def prepare(raw: RawInputs, tower: Encoder, identity: str) -> PreparedInputs:
    """Reads and prepares every raw sample for ``tower``; unreadable ones are zero, marked, and named in the log.

    Args:
        raw: The samples.
        tower: Whose ``prepare`` is applied.
        identity: Name of the encoder, which defines its preprocessing together with what it makes of some probes.
    """
    modality = tower.spec.modality
    facts = {"kind": "prepared", "data": raw.fingerprint, "modality": modality, "encoder": identity}
    facts["preprocessing"] = preprocessing_digest(raw, tower)
    if raw.present is not None:
        facts["present"] = hashlib.sha256(np.packbits(raw.present).tobytes()).hexdigest()
    if is_plain():
        facts["wide"] = "all"  # entries of their own, and so what is made of them

    def build(folder: Path) -> None:
        writer, usable = RowWriter(folder, raw.count, wide=is_plain()), np.zeros(raw.count, bool)
        reasons: Counter[str] = Counter()
        for i in range(raw.count) if raw.present is None else np.flatnonzero(raw.present).tolist():
            try:
                sample = prepared(tower, _read(raw, i))
            except DataError as error:
                reasons[error.reason or "not readable"] += 1
                continue
            writer.write(np.array([i]), sample[None])
            usable[i] = True
        if not usable.any():
            _name_unreadable(raw, tower, usable)
            summary = "; ".join(f"{reason}: {count}" for reason, count in reasons.most_common(3))
            raise DataError(
                f"none of the {_there(raw)} {modality} samples could be read ({summary}); see the log with --verbose"
            )
        writer.close()
        np.save(folder / "usable.npy", usable)
        (folder / REASONS).write_text(json.dumps(reasons))

    cache_entry = entry(facts, build, needs=("x.npy", "usable.npy", META, REASONS))
    usable = np.load(cache_entry.folder / "usable.npy")
    if logger.isEnabledFor(logging.INFO):
        _name_unreadable(raw, tower, usable)
    use = CacheUse("prepared", modality, 0, None, raw.count, cache_entry.size, cache_entry.hit, entry=cache_entry)
    use.float32 = tuple(json.loads((cache_entry.folder / META).read_text())["float32"])
    reasons = json.loads((cache_entry.folder / REASONS).read_text())
    return PreparedInputs(np.load(cache_entry.folder / "x.npy", mmap_mode="r"), usable, facts, use, reasons)


def _read(raw: RawInputs, index: int) -> Any:
    """One raw sample; whatever its reader raises is that sample's fault."""
    with one_file(f"sample {index}", "an input of the task"):
        return raw.read(index)


def _readable(raw: RawInputs, indices: Iterable[int]) -> list[Any]:
    """Those of the samples that can be read."""
    samples = []
    for index in indices:
        with suppress(DataError):  # counted where the samples are prepared
            samples.append(_read(raw, index))
    return samples


def _there(raw: RawInputs) -> int:
    return raw.count if raw.present is None else int(raw.present.sum())


def _name_unreadable(raw: RawInputs, tower: Encoder, usable: np.ndarray) -> None:
    """Logs why samples were skipped, also where the cache was built by an earlier run that did not log it."""
    for i in np.flatnonzero(~usable if raw.present is None else ~usable & raw.present):
        try:
            prepared(tower, _read(raw, int(i)))
        except DataError as error:
            logger.info("skipped: %s", error)


def tower_inputs(
    prepared: PreparedInputs,
    tower: Encoder,
    stage: int,
    weights: str,
    view: int | None = None,
    condenser: Condenser | None = None,
    padding: int | None = None,
) -> TowerInputs:
    """Runs the frozen stages before ``stage`` on all samples, or finds them in the cache.

    Args:
        prepared: Prepared inputs.
        tower: A frozen tower; adapters on later stages do not matter.
        stage: First stage that is trained; ``tower.n_stages`` means that only the features are read.
        weights: Digest of the encoder's weights.
        view: An augmented view in place of the samples as they are.
        condenser: Keep what it makes of the features in their place.
        padding: Columns of padding that readers of a text's features need behind the longest text, see
            :func:`medgraft.fast.short_texts.padding_needed`; ``None`` for the whole context.
    """
    modality = tower.spec.modality
    if view is not None and find_modality(modality).augmentation() is None:
        view = None
    if stage == 0 and view is None:
        return TowerInputs(0, {"x": prepared.array}, use=prepared.use)
    facts: dict[str, Any] = {**prepared.facts, "kind": "prefix" if stage else "view"}
    if view is not None:
        facts |= {"view": view, "augmentation": find_modality(modality).augmentation()}
    # Sums depend on their order, and numbers must not depend on the cache.
    facts |= {"threads": torch.get_num_threads(), "torch": torch.__version__, "fp32_product": fp32_choice().product}
    facts |= {"batch": frozen_batch(prepared.array, tower.device), "device": tower.device.type}
    whole = stage >= tower.n_stages
    needs = (META, "tokens.npy", "pooled.npy") if whole else (META, "x.npy")
    if tower.dtype != torch.float32:
        facts |= {"dtype": str(tower.dtype)}
    if any(isinstance(module, Float8Linear) for module in tower.modules()):
        facts |= {"linear": "float8"}
    if stage:
        facts |= {"weights": weights, "stage": stage, "stages": tower.n_stages}
    if whole and padding is not None and can_cut(tower):
        facts |= {"text_padding": padding}
    else:
        padding = None
    sources: list[TowerInputs] = []

    def build(folder: Path) -> None:
        if condenser is None:
            _run(prepared, tower, stage, view, folder, padding)
            return
        if not sources:  # a second try, on a full disk, goes on with the first one's
            sources.append(tower_inputs(prepared, tower, stage, weights, view, padding=padding))
        _condense(sources[0], condenser, tower.device, len(prepared.array), folder)

    if condenser is not None:
        facts |= {"kind": "condensed", "condensed": condenser.key}
    cache_entry = entry(facts, build, needs=needs)
    arrays = {path.stem: np.load(path, mmap_mode="r") for path in sorted(cache_entry.folder.glob("*.npy"))}
    meta = json.loads((cache_entry.folder / META).read_text())
    use = CacheUse(
        facts["kind"], modality, stage, view, len(prepared.array), cache_entry.size, cache_entry.hit, entry=cache_entry
    )
    use.float32 = tuple(meta["float32"])
    if sources and sources[0].use is not None:
        use.source = dataclasses.replace(sources[0].use, entry=None)  # nobody reads it any more, so it may go
    return TowerInputs(
        stage, arrays, meta.get("n_prefix", 0), tuple(meta.get("grid", ())), meta.get("condensed", ""), use
    )


@torch.no_grad()
def _run(
    prepared: PreparedInputs, tower: Encoder, stage: int, view: int | None, folder: Path, padding: int | None
) -> None:
    """Fills an entry with the hidden states before ``stage``, or with the features."""
    count, size = len(prepared.array), frozen_batch(prepared.array, tower.device)
    writer = RowWriter(folder, count, wide=is_plain())
    texts = None
    if padding is not None and isinstance(tower, TextEncoder):
        texts = text_rows(prepared.array, prepared.usable, tower, padding)
    for index in consecutive(count, size) if texts is None else texts.batches(size):
        x = prepared.batch(index)
        if view is not None:
            x = find_modality(tower.spec.modality).view(x, index, view)
        x = (x if texts is None else texts.cut(x, index)).to(tower.device)
        half = tower.dtype == torch.bfloat16
        with torch.autocast(tower.device.type, torch.bfloat16, enabled=half), fast_forms(tower.device.type, half):
            if stage >= tower.n_stages:
                # forward() and not a call, so that an adapter's hooks on the features stay out of the cache.
                outputs = tower.forward(x, scores=tower.has_scores)
            else:
                outputs = tower.prefix(x, stage)
        if texts is not None and isinstance(outputs, Features):
            outputs = texts.widened(outputs, x.shape[1])
        writer.write(index, outputs)
    writer.close()


@torch.no_grad()
def _condense(rows: TowerInputs, condenser: Condenser, device: torch.device, count: int, folder: Path) -> None:
    """Fills an entry with what a condenser makes of cached features."""
    writer = RowWriter(folder, count)
    for index in consecutive(count, LARGEST_BATCH):
        features = rows.batch(index)
        assert isinstance(features, Features)
        writer.write(index, condenser.apply(features.to(device)))
    writer.close()
