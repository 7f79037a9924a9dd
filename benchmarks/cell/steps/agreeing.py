"""Behind the first step, of a cell on several devices: whether all ranks have read the same."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np

from medgraft.benchmarks.cell.steps.loading import Loaded
from medgraft.benchmarks.measure.environment import versions
from medgraft.benchmarks.prefix_cache.inputs import PreparedInputs
from medgraft.task import SPLITS
from medgraft.world import World

REMEDY = (
    "see to it that all ranks read one folder that nothing writes to, in one environment, and give the same command "
    "again, or --devices 1"
)


def require_agreement(loaded: Loaded, world: World) -> None:
    """Refuses ranks of which one has read other samples, targets or splits than the first, or runs other versions.

    Raises:
        DataError: One does, and all ranks say so.
    """
    if world.size > 1:
        world.require_agreement(facts_of(loaded), REMEDY)


def facts_of(loaded: Loaded) -> Mapping[str, Any]:
    """What must be the same on all ranks, the telling facts first; no identifiers."""
    data, task = loaded.data, loaded.spec.task
    counts = {f"number of {name} samples of {task}": len(loaded.splits.get(name, ())) for name in SPLITS}
    digest = samples_digest((*loaded.splits.values(), data.targets, *data.columns.values()), loaded.prepared)
    return {
        f"number of samples of {task}": len(data.targets),
        **counts,
        f"digest of the split of {task}": data.split_hash()[:12],
        f"digest of the samples of {task}": digest,
        **{f"version of {name}": version for name, version in versions().items()},
    }


def samples_digest(arrays: Iterable[np.ndarray], prepared: Mapping[str, PreparedInputs]) -> str:
    """A digest of what samples are and how they are read.

    Args:
        arrays: Facts of the samples, ``[n, ...]`` each.
        prepared: By modality.
    """
    used = hashlib.sha256()
    for values in arrays:
        used.update(_bytes(values) + b"|")
    for name, part in prepared.items():
        used.update(f"{name}: {part.facts}|".encode() + part.usable.tobytes())
    return used.hexdigest()[:12]


def _bytes(values: np.ndarray) -> bytes:
    return repr(values.tolist()).encode() if values.dtype == object else np.ascontiguousarray(values).tobytes()
