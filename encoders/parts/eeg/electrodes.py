"""The linear map from the channels of a recording to those that a network takes."""

from __future__ import annotations

import functools
import warnings
from collections.abc import Sequence
from typing import Any, Literal

import numpy as np

from medgraft.errors import DataError
from medgraft.modalities.eeg import AUXILIARY, FEWEST, electrode, pair, positions

Missing = Literal["interpolate", "drop", "refuse"]


@functools.cache
def head_centre() -> Any:
    """Centre ``(x, y, z)`` in metres of the sphere through all electrodes of the template, whichever are recorded."""
    import mne

    montage = mne.channels.make_dig_montage(positions(), coord_frame="head")
    info: Any = mne.create_info(list(positions()), 1.0, "eeg")
    info.set_montage(montage)
    kinds: Any = ("eeg",)  # MNE's stubs say a word
    centre = mne.bem.fit_sphere_to_headshape(info, dig_kinds=kinds, units="m", verbose="ERROR")[1]
    return float(centre[0]), float(centre[1]), float(centre[2])


@functools.lru_cache(maxsize=256)
def spline(sources: tuple[str, ...], targets: tuple[str, ...]) -> np.ndarray:
    """Weights by which spherical splines give electrodes from others (Perrin et al., 1989; MNE's implementation).

    Args:
        sources: Electrodes that were recorded, in the spelling of :func:`electrode`.
        targets: Electrodes to be estimated.

    Returns:
        ``float64 [len(targets), len(sources)]``.
    """
    import mne

    names = [*sources, *targets]
    info: Any = mne.create_info(names, 1.0, "eeg")
    info.set_montage(mne.channels.make_dig_montage({n: positions()[n] for n in names}, coord_frame="head"))
    info["bads"] = list(targets)
    values = np.zeros((len(names), len(sources)))
    values[: len(sources)] = np.eye(len(sources))
    evoked = mne.EvokedArray(values, info, verbose="ERROR")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        evoked.interpolate_bads(reset_bads=False, origin=head_centre(), method={"eeg": "spline"}, verbose="ERROR")
    return np.asarray(evoked.data[len(sources) :], np.float64)


def check_names(names: Sequence[str], what: str) -> None:
    """Refuses names that are no electrode of the 10-05 system and no difference of two.

    Raises:
        DataError: With those names.
    """
    unknown = [name for name in names if not set(pair(electrode(name)) or (electrode(name),)) <= positions().keys()]
    if unknown:
        raise DataError(
            f"{what} electrodes that the 10-05 system does not know: {', '.join(unknown)}; rename them, or leave them "
            "out of the recording"
        )


@functools.lru_cache(maxsize=1024)
def channel_map(recorded: tuple[str, ...], wanted: tuple[str, ...], missing: Missing) -> np.ndarray:
    """The matrix that takes the channels of a recording to those of a network.

    A channel that is there is taken as it is, a difference such as ``FP1-F7`` from a channel of that name or from its
    two electrodes.

    Args:
        recorded: Names of the usable channels of a recording.
        wanted: Names of the channels that a network takes.
        missing: What becomes of electrodes that are not among them: ``interpolate`` them from the others by
            :func:`spline`, ``drop`` (rows of ``nan``), or ``refuse``.

    Returns:
        ``float64 [len(wanted), len(recorded)]``.

    Raises:
        DataError: A name is unknown or stands twice, or an electrode is missing and may not or cannot be estimated.
    """
    spelled = [electrode(name) for name in recorded]
    used = [name for name in spelled if not AUXILIARY.match(name)]
    check_names(used, "the recording has")
    if twice := sorted({name for name in used if used.count(name) > 1}):
        raise DataError(f"the recording has two channels for {', '.join(twice)}; leave one of them out")
    single = tuple(name for name in used if not pair(name))
    goal = [electrode(name) for name in wanted]
    needed = dict.fromkeys(
        part for name in goal if not _direct(name, used) for part in (pair(name) or (name,)) if part not in single
    )
    estimated = _estimate(single, used, tuple(needed), missing)
    rows = {name: np.eye(len(spelled))[spelled.index(name)] for name in used}
    columns = [spelled.index(name) for name in single]
    for name, weights in zip(needed, estimated, strict=True):
        rows[name] = np.zeros(len(spelled))
        rows[name][columns] = weights
    return np.stack([_row(name, rows) for name in goal])


def _direct(name: str, used: Sequence[str]) -> bool:
    ends = pair(name)
    return name in used or (ends is not None and f"{ends[1]}-{ends[0]}" in used)


def _row(name: str, rows: dict[str, np.ndarray]) -> np.ndarray:
    ends = pair(name)
    if name in rows or ends is None:
        return rows[name]
    turned = f"{ends[1]}-{ends[0]}"
    return -rows[turned] if turned in rows else rows[ends[0]] - rows[ends[1]]


def _estimate(single: tuple[str, ...], used: Sequence[str], needed: tuple[str, ...], missing: Missing) -> np.ndarray:
    """Weights of the single electrodes for those that are needed, ``float64 [needed, single]``."""
    if not needed:
        return np.zeros((0, len(single)))
    if not single and used:
        raise DataError(
            f"the recording is bipolar ({', '.join(used[:3])}, ...), and single electrodes ({', '.join(needed[:3])}, "
            "...) cannot be told from differences; give the referential recording"
        )
    if missing == "refuse":
        raise DataError(
            f"the recording lacks {', '.join(needed)}, or they are flat or saturated; missing='interpolate' estimates "
            "them from the others"
        )
    if missing == "drop":
        return np.full((len(needed), len(single)), np.nan)
    if len(single) < FEWEST:
        raise DataError(
            f"{', '.join(needed[:5])} cannot be interpolated from {len(single)} usable electrodes; {FEWEST} are needed"
        )
    return spline(single, needed)
