"""Images of the fMRI phantom: a made-up brain whose blocks follow the signals of their networks."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from medgraft.benchmarks.phantoms.fmri.people import NETWORKS, Person, network_signals

Array = NDArray[Any]

BLOCKS = 4
"""Blocks along each axis, which is what a reader without an atlas cuts, too."""

BRAIN, BOLD = 600.0, 18.0
"""Mean brightness, and deviation of a network's signal in it."""

LOCAL, NOISE = 0.7, 1.0
"""Deviations of a block's own signal and of a voxel's noise, in those of a network's signal."""

FIELD = 0.25
"""Share of the brightness by which a site's field rises and falls over the brain."""

JUMP_MM, JUMP = 1.0, 3.0
"""Displacement of a volume in which the head jumps, and what the jump adds to the brightness, in network signals."""

JUMPS = 0.08


@dataclass(frozen=True)
class Made:
    """One run.

    Attributes:
        values: ``int16 [x, y, z, T]``.
        motion: Three shifts in mm and three turns in radians of each volume, ``[T, 6]``.
        displacement: Framewise displacement, ``[T]``, ``nan`` in the first.
        regions: Mean of each block of the brain, ``[T, R]``.
    """

    values: Array
    motion: Array
    displacement: Array
    regions: Array


def brain_mask(size: int) -> Array:
    """An ellipsoid, ``bool [size, size, size]``."""
    axis = (np.arange(size) + 0.5) / size * 2 - 1
    x, y, z = axis[:, None, None], axis[None, :, None], axis[None, None, :]
    return (x / 0.85) ** 2 + (y / 0.95) ** 2 + (z / 0.85) ** 2 <= 1


def blocks_of(size: int) -> Array:
    """Block of each voxel from 0, ``int64 [size, size, size]``."""
    k = np.arange(size) * BLOCKS // size
    return (k[:, None, None] * BLOCKS + k[None, :, None]) * BLOCKS + k[None, None, :]


def networks_of(seed: int) -> Array:
    """Network of each block, ``int64 [64]``: as many of each as can be, at random."""
    return np.random.default_rng([seed, 13]).permutation(np.arange(BLOCKS**3) % NETWORKS)


def make_run(person: Person, size: int, volumes: int, seed: int, run: int = 0) -> Made:
    """The run of a person.

    Args:
        person: Whose.
        size: Voxels along each axis.
        volumes: Its length.
        seed: Of the cohort.
        run: Its number.
    """
    rng = np.random.default_rng([seed, 14, person.number, run])
    mask, blocks = brain_mask(size), blocks_of(size)
    inside = blocks[mask]
    signals = network_signals(person, volumes, seed, run)[:, networks_of(seed)]
    signals = signals + LOCAL * rng.standard_normal(signals.shape)
    motion, displacement = _motion(rng, volumes)
    jumped = np.nan_to_num(displacement) > 0.5
    values = signals[:, inside] + JUMP * jumped[:, None] * rng.standard_normal(volumes)[:, None]
    site = np.random.default_rng([seed, 15, person.site])
    noise = NOISE * site.uniform(0.7, 1.6)
    values += noise * rng.standard_normal(values.shape)
    brightness = BRAIN * _field(site, mask)
    bold = np.rint(np.clip(brightness + BOLD * values, 1, 32_000))
    whole = np.zeros((*mask.shape, volumes), np.int16)
    whole[mask] = bold.T
    sizes = np.bincount(inside, minlength=BLOCKS**3)
    sums = np.stack([np.bincount(inside, row, minlength=BLOCKS**3) for row in bold])
    return Made(whole, motion, displacement, sums[:, sizes > 0] / sizes[sizes > 0])


def _field(site: np.random.Generator, mask: Array) -> Array:
    """Brightness of each voxel of the brain beside its mean: tissue alike everywhere, and a slope of the site's own."""
    axis = np.linspace(-1, 1, mask.shape[0])
    grid = np.stack(np.meshgrid(axis, axis, axis, indexing="ij"), axis=-1)[mask]
    way = site.standard_normal(3)
    tissue = 1 + 0.2 * np.cos(3 * np.linalg.norm(grid, axis=1))
    return tissue * (1 + FIELD * (grid @ (way / np.linalg.norm(way))))


def _motion(rng: np.random.Generator, volumes: int) -> tuple[Array, Array]:
    """Parameters that drift and, in some volumes, jump; and Power's framewise displacement of them."""
    steps = rng.normal(0, 0.02, (volumes, 6))
    steps[:, 3:] /= 50.0
    jumps = rng.random(volumes) < JUMPS
    steps[jumps, 0] += JUMP_MM
    steps[0] = 0
    displacement = np.abs(steps[:, :3]).sum(axis=1) + 50.0 * np.abs(steps[:, 3:]).sum(axis=1)
    displacement[0] = np.nan
    return np.cumsum(steps, axis=0), displacement
