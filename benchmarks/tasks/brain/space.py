"""One space of T1, PET and diffusion, in which PET and diffusion were each paired with T1 alone."""

from __future__ import annotations

from collections.abc import Mapping
from itertools import combinations
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

from medgraft.benchmarks.cohorts.scans.table import confounds
from medgraft.benchmarks.cohorts.tables.visit_table import marker_of
from medgraft.benchmarks.tasks.brain.scans import ScanConfig, ScanTask
from medgraft.errors import DataError
from medgraft.task import RawInputs, TaskData, Variant
from medgraft.task.alignment_options import Alignment

LEAST = 2


class BrainSpace(ScanTask):
    """Retrieval between kinds of scan, and probes of the diagnosis on common and specific parts.

    Two baselines are variants: plain InfoNCE without a specific part, and all pairs trained. A third has a run of fMRI
    beside the others, paired with T1 alone as they are.
    """

    inputs = ("volume", "pet", "dmri")
    objective = "anchored"
    primary = "r1_emergent"
    variants: ClassVar[Mapping[str, Variant]] = {
        "plain": Variant(defaults={"common_share": 1.0}),
        "all_pairs": Variant(defaults={"pairs": "all"}),
        "fmri": Variant(inputs=("volume", "volume_sequence", "pet", "dmri")),
    }

    class Config(ScanConfig, Alignment):
        """Options."""

    config: Config

    def load(self, root: Path) -> TaskData:
        """Reads the tree.

        Raises:
            DataError: It is none, or fewer than two people have both the anchor and another kind of scan.
        """
        scans, used, left_out = self.read(root)
        rows = np.flatnonzero(used)
        inputs = {name: self.raw(name, scans, rows, root) for name in self.inputs}
        self._check_pairs(scans.frame["subject"].to_numpy(str)[rows], inputs)
        data = self.assemble(root, scans, rows, inputs, left_out)
        facts, names = confounds(scans.frame.iloc[rows].reset_index(drop=True))
        data.columns = {"confounds": facts}
        data.alignment = self.config.alignment()
        data.provenance["confounds"] = list(names)
        if marker_of(root).get("bayes") and self.config.contrast == "CN-AD":
            data.provenance["bayes"] = self._best(data)
        return data

    def _check_pairs(self, subjects: np.ndarray, inputs: Mapping[str, RawInputs]) -> None:
        there = {n: np.ones(raw.count, bool) if raw.present is None else raw.present for n, raw in inputs.items()}
        for other in self.inputs[1:]:
            if (people := len(np.unique(subjects[there[self.inputs[0]] & there[other]]))) < LEAST:
                scans = ", ".join(f"{name}: {int(each.sum())}" for name, each in there.items())
                raise DataError(
                    f"{people} people have both {self.inputs[0]} and {other} scans in one session ({scans}); one space "
                    f"needs {LEAST} at least, of whom each is told from the other"
                )

    def _best(self, data: TaskData) -> dict[str, Any]:
        """What a phantom's best reader reaches on the test split, by its common numbers alone."""
        from medgraft.benchmarks.phantoms.brain.scans import best_auc, best_retrieval

        test = data.splits["test"]
        every = np.ones(len(data.targets), bool)
        there = {n: (every if raw.present is None else raw.present)[test] for n, raw in data.inputs.items()}
        best: dict[str, float] = {
            f"auc_{kinds}_kinds": round(best_auc(kinds), 4) for kinds in range(1, len(self.inputs) + 1)
        }
        for a, b in combinations(self.inputs, 2):
            hits = best_retrieval(int((there[a] & there[b]).sum()), draws=100)
            best |= {f"r{k}_{a}_{b}": round(value, 4) for k, value in hits.items()}
        return best
