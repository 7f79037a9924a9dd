"""Prepared inputs, and the part of a frozen encoder before the first trained site, computed once and memory-mapped.

An entry is a folder of ``.npy`` files under a name that hashes everything that defines them. It is written under a
temporary name and renamed when it is whole, with a file lock beside it: one process builds, the others wait, and a
killed builder leaves nothing that anyone reads.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import logging
import os
import shutil
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from medgraft.encoder import Encoder
from medgraft.errors import DataError
from medgraft.features import Features
from medgraft.task import RawInputs

logger = logging.getLogger(__name__)

CACHE_VERSION = 1
BATCH = 32
PROBES = 64
FEATURE_ARRAYS = ("tokens", "pooled", "cls_scores", "cls_probs", "mask")


def cache_root() -> Path:
    """``$MEDGRAFT_CACHE``, else ``medgraft`` under the user's cache folder."""
    if own := os.environ.get("MEDGRAFT_CACHE"):
        return Path(own)
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "medgraft"


def digest(facts: Mapping[str, Any]) -> str:
    """SHA-256 of a JSON-able mapping, independent of the order of its keys."""
    return hashlib.sha256(json.dumps(facts, sort_keys=True, default=str).encode()).hexdigest()


@contextmanager
def locked(path: Path) -> Iterator[None]:
    """Holds an exclusive lock on a file; a killed holder releases it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w") as handle:
        fcntl.flock(handle, fcntl.LOCK_EX)
        yield


def entry(facts: Mapping[str, Any], build: Callable[[Path], None], root: Path | None = None) -> Path:
    """The folder of an entry, built first where it is missing.

    Args:
        facts: Everything that defines the content.
        build: Fills the folder that it is given.
        root: Cache folder; :func:`cache_root` by default.
    """
    key = digest({**facts, "cache_version": CACHE_VERSION})
    folder = (root or cache_root()) / "prefix" / key[:2] / key
    if (folder / "facts.json").is_file():
        return folder
    with locked(folder.with_suffix(".lock")):
        if (folder / "facts.json").is_file():
            return folder
        unfinished = folder.with_suffix(".building")
        shutil.rmtree(unfinished, ignore_errors=True)
        shutil.rmtree(folder, ignore_errors=True)
        unfinished.mkdir(parents=True)
        build(unfinished)
        (unfinished / "facts.json").write_text(json.dumps(dict(facts), indent=1, default=str))
        unfinished.rename(folder)
    return folder


class _Column:
    """An array of ``count`` rows that is created when its first row is known."""

    def __init__(self, path: Path, count: int) -> None:
        self.path, self.count = path, count
        self.array: np.memmap | None = None

    def write(self, start: int, rows: np.ndarray) -> None:
        if self.array is None:
            shape = (self.count, *rows.shape[1:])
            self.array = np.lib.format.open_memmap(self.path, "w+", rows.dtype, shape)
        self.array[start : start + len(rows)] = rows

    def close(self) -> None:
        if self.array is not None:
            self.array.flush()


def _stored(values: Tensor) -> np.ndarray:
    """The type an array is kept in: half precision for real numbers, 32 bit for token ids."""
    if values.dtype == torch.bool:
        return values.numpy()
    if values.is_floating_point():
        # A masked score of -inf survives half precision; finite values beyond its range would not.
        return values.to(torch.float16).numpy()
    return values.to(torch.int32).numpy()


@dataclass(frozen=True)
class PreparedInputs:
    """Prepared inputs of one modality.

    Attributes:
        array: ``[n, ...]``, memory-mapped.
        usable: ``[n]``, false where the raw sample could not be read.
        facts: What defines them.
    """

    array: np.ndarray
    usable: np.ndarray
    facts: dict[str, Any]

    def batch(self, index: np.ndarray) -> Tensor:
        """Rows as ``float32`` (or ``int64`` token ids)."""
        rows = torch.from_numpy(np.asarray(self.array[index]))
        return rows.float() if rows.is_floating_point() else rows.long()


def preprocessing_digest(raw: RawInputs, tower: Encoder) -> str:
    """What ``tower`` makes of a few probes: tells apart tokenizers and image settings that go by one name.

    Images and volumes are probed with fixed noise, texts with some of the cohort's own, which hold its vocabulary.
    """
    if tower.spec.modality == "text":
        samples = [raw.read(int(i)) for i in np.unique(np.linspace(0, raw.count - 1, PROBES).astype(int))]
    elif tower.spec.modality == "volume":
        samples = [np.random.default_rng(0).random((24, 28, 20), np.float32)]
    else:
        samples = [np.random.default_rng(0).integers(0, 256, (97, 131), np.uint8)]
    whole = hashlib.sha256()
    for sample in samples:
        try:
            whole.update(_stored(tower.prepare(sample)[None]).tobytes())
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

    def build(folder: Path) -> None:
        column, usable = _Column(folder / "x.npy", raw.count), np.zeros(raw.count, bool)
        for i in range(raw.count):
            try:
                sample = tower.prepare(raw.read(i))
            except DataError:
                continue
            column.write(i, _stored(sample[None]))
            usable[i] = True
        if not usable.any():
            _name_unreadable(raw, tower, usable)
            raise DataError(f"none of the {raw.count} {modality} samples could be read; see the log with --verbose")
        column.close()
        np.save(folder / "usable.npy", usable)

    folder = entry(facts, build)
    usable = np.load(folder / "usable.npy")
    if logger.isEnabledFor(logging.INFO):
        _name_unreadable(raw, tower, usable)
    return PreparedInputs(np.load(folder / "x.npy", mmap_mode="r"), usable, facts)


def _name_unreadable(raw: RawInputs, tower: Encoder, usable: np.ndarray) -> None:
    """Logs why samples were skipped, also where the cache was built by an earlier run that did not log it."""
    for i in np.flatnonzero(~usable):
        try:
            tower.prepare(raw.read(int(i)))
        except DataError as error:
            logger.info("skipped: %s", error)


@dataclass(frozen=True)
class TowerInputs:
    """What a tower is fed during training: its inputs, a hidden state, or its features.

    Attributes:
        stage: Stage of the rows, as :meth:`medgraft.encoder.Encoder.forward` takes it.
        arrays: ``{"x": ...}``, or the arrays of :class:`~medgraft.features.Features`.
        n_prefix: Of the features.
        grid: Of the features.
    """

    stage: int
    arrays: dict[str, np.ndarray]
    n_prefix: int = 0
    grid: tuple[int, ...] = ()

    def batch(self, index: np.ndarray) -> Tensor | Features:
        """Rows ``index``, in full precision."""
        rows = {name: torch.from_numpy(np.asarray(array[index])) for name, array in self.arrays.items()}
        rows = {
            k: v.float() if v.is_floating_point() else v if v.dtype == torch.bool else v.long() for k, v in rows.items()
        }
        if "x" in rows:
            return rows["x"]
        optional = {name: rows.get(name) for name in FEATURE_ARRAYS[2:]}
        return Features(rows["tokens"], rows["pooled"], self.n_prefix, self.grid, **optional)  # pyright: ignore


@torch.no_grad()
def tower_inputs(prepared: PreparedInputs, tower: Encoder, stage: int, weights: str) -> TowerInputs:
    """Runs the frozen stages before ``stage`` on all samples, or finds them in the cache.

    Args:
        prepared: Prepared inputs.
        tower: A frozen tower; adapters on later stages do not matter.
        stage: First stage that is trained; ``tower.n_stages`` means that only the features are read.
        weights: Digest of the encoder's weights.
    """
    if stage == 0:
        return TowerInputs(0, {"x": prepared.array})
    facts = {**prepared.facts, "kind": "prefix", "weights": weights, "stage": stage, "stages": tower.n_stages}
    facts["threads"] = torch.get_num_threads()  # sums depend on their order, and numbers must not depend on the cache
    facts["torch"] = torch.__version__
    whole = stage >= tower.n_stages

    def build(folder: Path) -> None:
        columns: dict[str, _Column] = {}
        meta: dict[str, Any] = {}
        for start in range(0, len(prepared.array), BATCH):
            x = prepared.batch(np.arange(start, min(start + BATCH, len(prepared.array))))
            if whole:
                # forward() and not a call, so that an adapter's hooks on the features stay out of the cache.
                features = tower.forward(x, scores=bool(tower.attention) and tower.has_cls)
                found = {name: getattr(features, name) for name in FEATURE_ARRAYS}
                meta = {"n_prefix": features.n_prefix, "grid": list(features.grid)}
            else:
                found = {"x": tower.prefix(x, stage)}
            for name, value in found.items():
                if value is not None:
                    column = columns.setdefault(name, _Column(folder / f"{name}.npy", len(prepared.array)))
                    column.write(start, _stored(value))
        for column in columns.values():
            column.close()
        (folder / "meta.json").write_text(json.dumps(meta))

    folder = entry(facts, build)
    arrays = {path.stem: np.load(path, mmap_mode="r") for path in sorted(folder.glob("*.npy"))}
    meta = json.loads((folder / "meta.json").read_text())
    return TowerInputs(stage, arrays, meta.get("n_prefix", 0), tuple(meta.get("grid", ())))
