"""Maps for the samples of a prediction: a folder of pictures with a table of what they show."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from medgraft.benchmarks.cohorts.volumes.load import load_volume
from medgraft.benchmarks.explain.maps import check, spatial_modality
from medgraft.benchmarks.predict.output import PredictionTable
from medgraft.benchmarks.predict.predictor import Predictor
from medgraft.benchmarks.predict.samples import Item
from medgraft.errors import DataError

TABLE = "maps.csv"
COLUMNS = ("input", "status", "method", "class", "score", "picture", "nifti")


class MapFolder:
    """A folder of pictures with ``maps.csv``, which says what each shows; gone on with after an interruption.

    Args:
        folder: Where they lie.
        predictor: The graft.
        method: ``rollout``, ``gradcam`` or ``occlusion``.
        target: The class to explain; of each sample the one with the highest score by default.

    Raises:
        MedgraftError: The method or the class does not exist, the graft reads nothing with places, or the folder holds
            maps of another graft.
    """

    def __init__(self, folder: Path, predictor: Predictor, method: str, target: str | None = None) -> None:
        check(method, predictor.facts.classes, target)
        spatial_modality(predictor.facts.inputs)
        self.folder, self.predictor, self.method, self.target = Path(folder), predictor, method, target
        self.folder.mkdir(parents=True, exist_ok=True)
        asked = f"{predictor.digest}-{method}{f'-{target}' if target else ''}"
        self.table = PredictionTable(self.folder / TABLE, COLUMNS, asked)

    def draw(self, items: Iterable[Item]) -> Iterator[str]:
        """Draws what is not drawn yet, and gives the status of each: ``ok``, or why there is no map.

        Raises:
            ConfigError: The method does not apply to the graft.
        """
        done, seen = Counter(self.table.done), Counter[str]()
        number = done.total()  # of the row, so that no picture takes the place of an earlier one
        for item in items:
            seen[item.name] += 1
            if seen[item.name] <= done[item.name]:
                continue
            number += 1
            row: dict[str, Any] = {"input": item.name, "status": item.problem or "ok", "method": self.method}
            if not item.problem:
                try:
                    sample = self.predictor.sample_of({name: read() for name, read in item.read.items()})
                except DataError as error:
                    row["status"] = error.reason or "cannot be read"
                else:
                    row |= self._drawn(sample, item, number)
            self.table.add([row])
            yield row["status"]

    def _drawn(self, sample: Mapping[str, Any], item: Item, number: int) -> dict[str, Any]:
        """Files of one map, and what it shows."""
        map_of = self.predictor.explain(sample, self.method, self.target)
        stem = f"{number:04d}_{_stem(item.path or item.name)}"
        picture = map_of.save(self.folder / f"{stem}.png")
        row = {"class": map_of.target, "score": map_of.score, "picture": picture.name, "nifti": ""}
        if map_of.modality == "volume" and map_of.whole and item.path:
            affine = load_volume(item.path, analyze=True)[1]
            row["nifti"] = map_of.save_nifti(self.folder / f"{stem}.nii.gz", affine).name
        return row


def _stem(name: str) -> str:
    """A file's name without its ending, as part of another's."""
    return re.sub(r"[^\w.-]", "_", re.sub(r"(\.nii|\.img|\.hdr)?\.\w{2,5}$", "", Path(name).name))[:80]
