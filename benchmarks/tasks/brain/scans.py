"""Alzheimer's disease from one kind of scan: T1, PET relative to a reference region, or maps of diffusion.

The tasks read a BIDS tree with derivatives, or ADNI as its archive hands it out; a person may have any of these scans.
``brain_space`` reads the same folder and brings them into one space: :mod:`medgraft.benchmarks.tasks.brain.space`.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Annotated, Any, ClassVar, Literal

import numpy as np
from pydantic import Field, model_validator

from medgraft.benchmarks.cohorts.fmri.runs import RUNS_VERSION, Cleaning, RunFiles, read_run
from medgraft.benchmarks.cohorts.scans.dmri import load_maps
from medgraft.benchmarks.cohorts.scans.pet import load_uptake, sidecar
from medgraft.benchmarks.cohorts.scans.reader import read_scans
from medgraft.benchmarks.cohorts.scans.table import Scans
from medgraft.benchmarks.cohorts.scans.tracers import Tracer
from medgraft.benchmarks.cohorts.tables.reading import is_phantom
from medgraft.benchmarks.cohorts.tables.tabular import table_baselines
from medgraft.benchmarks.cohorts.tables.visit_table import marker_of
from medgraft.benchmarks.cohorts.volumes.load import VOLUMES_VERSION, load_spaced
from medgraft.benchmarks.tasks.brain.visits import Contrast
from medgraft.benchmarks.tasks.splits import SplitConfig
from medgraft.errors import DataError
from medgraft.files.content import file_facts
from medgraft.files.one_file import reading_facts
from medgraft.task import RawInputs, Task, TaskConfig, TaskData, Variant, subject_split

PREDICTORS = {"age, sex": ("age", "female")}


class ScanConfig(SplitConfig):
    """Options of tasks on scans of several kinds.

    Attributes:
        contrast: The diagnoses to be told apart; people with another one are left out and counted.
        maps: Maps of diffusion, the channels in their order.
        reference: Label of the mask of PET's reference region (``label-cerebellum_mask``); ``global`` for the mean of
            the head, ``none`` for uptake as it is.
        reference_labels: Numbers of the region in an atlas (``*_dseg``), in place of a mask.
        tracer: Whose PET images are read; ``one`` for the only one that there is, ``any`` to mix them.
        frames: What a dynamic PET image counts as: the ``mean`` of its frames, or one that cannot be read.
    """

    later: ClassVar[Mapping[str, Any]] = MappingProxyType({"tracer": "any", "frames": "refuse"})

    contrast: Contrast = "CN-AD"
    maps: tuple[Literal["FA", "MD", "AD", "RD"], ...] = ("FA", "MD")
    reference: str = "cerebellum"
    reference_labels: tuple[Annotated[int, Field(ge=1)], ...] = ()
    tracer: Tracer | Literal["one", "any"] = "one"
    frames: Literal["mean", "refuse"] = "mean"

    @model_validator(mode="after")
    def _some_maps(self) -> ScanConfig:
        if not self.maps or len(set(self.maps)) != len(self.maps):
            raise ValueError(f"maps names one map or more, each once, not {', '.join(self.maps) or 'none'}")
        return self


class ScanTask(Task):
    """Base of tasks on scans; a sample is a session."""

    cohort = "brain_scans"
    Config: ClassVar[type[TaskConfig]] = ScanConfig
    config: ScanConfig

    def read(self, root: Path) -> tuple[Scans, np.ndarray, dict[str, int]]:
        """The scans, which sessions are of the contrast ``bool [n]``, and the reasons of the others.

        Raises:
            DataError: The folder is no such tree, or nobody has a diagnosis of the contrast.
        """
        config = self.config
        facts = {"reference": config.reference, "by_atlas": bool(config.reference_labels), "tracer": config.tracer}
        if "pet" not in self.inputs:  # flaws of scans that are not asked for are no errors
            facts = {"reference": "none", "by_atlas": False, "tracer": "any"}
        scans = read_scans(root, maps=config.maps, **facts)
        used = scans.frame["dx"].isin(config.contrast.split("-")).to_numpy(bool)
        left_out = {"no diagnosis of the contrast": int((~used).sum())} if not used.all() else {}
        if not used.any():
            raise DataError(f"no session is of somebody with a diagnosis of {config.contrast}")
        return scans, used, left_out

    def raw(self, name: str, scans: Scans, rows: np.ndarray, root: Path) -> RawInputs:
        """Samples of a modality.

        Args:
            name: ``volume``, ``pet``, ``dmri`` or ``volume_sequence``.
            scans: All scans.
            rows: Which are samples, ``int64 [n]``.
            root: Folder of the cohort.
        """
        labels, frames = self.config.reference_labels, self.config.frames
        whole = self.config.reference.lower() == "global"
        readers: dict[str, tuple[list[Any], Callable[[Any], Any]]] = {
            "volume": ([None if path is None else (path,) for path in scans.t1], lambda files: load_spaced(files[0])),
            "pet": (list(scans.pet), lambda files: load_uptake(files[0], files[1], labels, frames=frames, whole=whole)),
            "dmri": (list(scans.dmri), load_maps),
            "volume_sequence": (
                list(scans.fmri),
                lambda files: read_run(RunFiles(str(files[0]), str(files[1] or "")), Cleaning()).values,
            ),
        }
        every, read = readers[name]
        files = [every[row] for row in rows]
        present = np.array([each is not None for each in files])
        paths = [str(path) for each in files if each is not None for path in each if path is not None]
        if name == "pet":  # whose frames are weighed by what stands there
            paths += [str(place) for each in files if each is not None and (place := sidecar(each[0])).is_file()]
        version = f"{SCANS_VERSION}|{RUNS_VERSION}" if name == "volume_sequence" else f"{SCANS_VERSION}"
        facts = f"{file_facts(paths, root)}|{reading_facts(VOLUMES_VERSION)}|{version}|{labels}|{frames}|{whole}"

        def sample(i: int) -> Any:
            if files[i] is None:
                raise DataError(f"session {i} has no {name} scan", f"no {name} scan")
            return read(files[i])

        return RawInputs(sample, len(files), facts, present=None if present.all() else present)

    def splits(self, scans: Scans, rows: np.ndarray, targets: np.ndarray, kinds: np.ndarray) -> dict[str, np.ndarray]:
        """Splits by subject; validation and test hold of each the session with most kinds of scan, the first of equals.

        Args:
            scans: All scans.
            rows: Which are samples, ``int64 [n]``.
            targets: Their classes, ``int64 [n]``.
            kinds: How many kinds of scan each has, ``int64 [n]``.
        """
        subjects = scans.frame["subject"].to_numpy(str)[rows]
        splits = subject_split(subjects, targets, self.config.fractions, self.config.split_seed)
        best: dict[str, int] = {}
        for i, subject in enumerate(subjects):
            if subject not in best or kinds[i] > kinds[best[subject]]:
                best[subject] = i
        chosen = np.zeros(len(rows), bool)
        chosen[list(best.values())] = True
        return {name: index if name == "train" else index[chosen[index]] for name, index in splits.items()}

    def assemble(
        self, root: Path, scans: Scans, rows: np.ndarray, inputs: Mapping[str, RawInputs], left_out: Mapping[str, int]
    ) -> TaskData:
        """The task's data of the samples ``rows``, ``int64 [n]``."""
        classes = tuple(self.config.contrast.split("-"))
        frame = scans.frame.iloc[rows].reset_index(drop=True)
        targets = np.array([classes.index(str(dx)) for dx in frame["dx"]], np.int64)
        there = [np.ones(len(rows), bool) if raw.present is None else raw.present for raw in inputs.values()]
        splits = self.splits(scans, rows, targets, np.sum(there, axis=0))
        report = scans.report
        return TaskData(
            inputs=inputs,
            targets=targets,
            subjects=frame["subject"].to_numpy(str),
            splits=splits,
            classes=classes,
            attributes={name: frame[name].to_numpy(object) for name in ("sex", "age", "site")},
            phantom=is_phantom(root),
            provenance={
                "generator": marker_of(root).get("generator"),
                "reader": {
                    "used": report.used,
                    "skipped": dict(report.skipped),
                    "notes": dict(report.notes),
                },
                "left_out": dict(left_out),
                "split_by": "subject",
                "scans": {name: int(each.sum()) for name, each in zip(inputs, there, strict=True)},
                "table_baselines": table_baselines(frame, targets, splits, classes, PREDICTORS),
            },
        )


SCANS_VERSION = 2
"""Raised whenever the same files would be read differently; part of what the caches know."""


class BrainScans(ScanTask):
    """Diagnosis from one kind of scan; sessions without it are left out and counted."""

    inputs = ("volume",)
    objective = "multiclass"
    primary = "auc_macro"
    variants: ClassVar[Mapping[str, Variant]] = {
        "pet": Variant(inputs=("pet",)),
        "dmri": Variant(inputs=("dmri",)),
        "fmri": Variant(inputs=("volume_sequence",)),
    }

    def load(self, root: Path) -> TaskData:
        """Reads the tree.

        Raises:
            DataError: It is none, or nobody of the contrast has such a scan.
        """
        scans, used, left_out = self.read(root)
        kinds = {"volume": scans.t1, "pet": scans.pet, "dmri": scans.dmri, "volume_sequence": scans.fmri}
        every = kinds[self.inputs[0]]
        there = np.array([each is not None for each in every])
        rows = np.flatnonzero(used & there)
        counts = Counter(left_out) + Counter({f"no {self.inputs[0]}": int((used & ~there).sum())})
        if not len(rows):
            raise DataError(f"nobody with a diagnosis of {self.config.contrast} has a {self.inputs[0]} scan")
        data = self.assemble(root, scans, rows, {self.inputs[0]: self.raw(self.inputs[0], scans, rows, root)}, counts)
        if (best := marker_of(root).get("bayes")) and self.config.contrast == "CN-AD":
            data.provenance["bayes"] = {"auc": best["auc_1_kinds"]}
        return data
