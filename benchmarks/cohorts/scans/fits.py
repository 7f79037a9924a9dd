"""Which maps of diffusion belong together: those of one fit of a tensor to one scan.

The archive keeps each map as an image of its own and says nowhere which were fitted together. What it does say is the
day, the description (one processing has one, but for the map's own words), the number of the series in the file's name
(``_S<number>_I<image id>``), and image ids, which rise with the day of upload.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from medgraft.benchmarks.cohorts.adni.series import words_beside_map

_SERIES = re.compile(r"_S(\d+)_I\d+\.nii(?:\.gz)?$", re.IGNORECASE)


def newest_fit(images: Mapping[str, Sequence[Mapping[str, Any]]]) -> tuple[dict[str, Any], ...] | None:
    """The complete fit of the latest upload, one image of each map; ``None`` where no fit has all maps.

    Args:
        images: Map (``FA``) -> its images of one scan, each with ``uid``, ``description`` and ``image`` (its file).

    Returns:
        Images in the order of ``images``.
    """
    processed: dict[str, dict[str, list[Any]]] = {}
    for name, each in images.items():
        for image in sorted(each, key=lambda row: row["uid"]):
            beside = words_beside_map(str(image["description"]))
            processed.setdefault(beside, {}).setdefault(name, []).append(image)
    names = list(images)
    of_a_series = [fit for each in processed.values() for part in _by_series(each) for fit in _fits(part, names)]
    # Maps that a console makes are series of their own, one behind the other: other numbers prove nothing there.
    fits = of_a_series or [
        fit for each in processed.values() for fit in _fits(each, names) if _one_behind_the_other(fit)
    ]
    return max(fits, key=lambda fit: min(image["uid"] for image in fit), default=None)


def _one_behind_the_other(fit: Sequence[Any]) -> bool:
    """Whether series of a fit, where all images tell theirs, follow each other without a gap."""
    found = [_series_of(image) for image in fit]
    numbers = sorted(number for number in found if number is not None)
    return len(numbers) < len(fit) or numbers[-1] - numbers[0] < len(fit)


def _series_of(image: Any) -> int | None:
    series = _SERIES.search(Path(str(image["image"])).name)
    return None if series is None else int(series[1])


def _by_series(images: Mapping[str, list[Any]]) -> list[dict[str, list[Any]]]:
    parts: dict[int, dict[str, list[Any]]] = {}
    for name, each in images.items():
        for image in each:
            if (series := _series_of(image)) is not None:
                parts.setdefault(series, {}).setdefault(name, []).append(image)
    return list(parts.values())


def _fits(images: Mapping[str, list[Any]], names: Sequence[str]) -> list[tuple[Any, ...]]:
    """Complete fits of one processing, none where a map is missing.

    Images next to each other by their numbers belong together, those of the smallest distance first, since the maps of
    a fit are uploaded together: a fit that has lost a map must not lend its others to the next one.
    """
    if any(name not in images for name in names):
        return []
    row = sorted(((image["uid"], name, image) for name in names for image in images[name]), key=lambda each: each[:2])
    count = len(names)
    windows = [row[i : i + count] for i in range(len(row) - count + 1)]
    whole = [each for each in windows if len({name for _, name, _ in each}) == count]
    taken, fits = set[int](), list[tuple[Any, ...]]()
    for window in sorted(whole, key=lambda each: (each[-1][0] - each[0][0], -each[0][0])):
        if taken.isdisjoint(uid for uid, _, _ in window):
            taken |= {uid for uid, _, _ in window}
            of = {name: image for _, name, image in window}
            fits.append(tuple(of[name] for name in names))
    return fits
