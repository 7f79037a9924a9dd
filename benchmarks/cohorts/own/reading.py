"""Rows of a table, or files of a folder, as samples: each step leaves rows out by name and count."""

from __future__ import annotations

import itertools
import os
import re
from collections import Counter
from typing import Any

import numpy as np
import pandas as pd

from medgraft.benchmarks.cohorts.own.columns import AUTO, Columns
from medgraft.benchmarks.cohorts.own.data import OWN_SUBJECT, OwnData
from medgraft.benchmarks.cohorts.own.files import Finder, modality_of, one_modality, parts_of
from medgraft.benchmarks.cohorts.own.labels import kind_of, read_targets, without_rare
from medgraft.benchmarks.cohorts.own.options import OwnConfig
from medgraft.benchmarks.cohorts.own.readers import READERS
from medgraft.benchmarks.cohorts.own.splits import joined_subjects, kept_apart, named_splits, split_indices
from medgraft.benchmarks.cohorts.volumes.load import is_analyze
from medgraft.errors import DataError
from medgraft.files.content import MISSING, UNREADABLE, content_of
from medgraft.modality import TEXT


class Reading:
    """The rows of a table on their way to samples.

    Args:
        table: Of ``n`` rows.
        columns: Which column is what.
        options: Of the task.
        finder: Finds the files.
        name: Name of the table, for errors.
        task: Name of the task, for remedies.

    Attributes:
        used: ``bool [n]``, rows that are left.
        left_out: Reason -> rows that are not.
    """

    def __init__(
        self, table: pd.DataFrame, columns: Columns, options: OwnConfig, finder: Finder, name: str, task: str
    ) -> None:
        if not len(table):
            raise DataError(f"{name} has a header and no row")
        self.table, self.columns, self.options = table, columns, options
        self.finder, self.name, self.task = finder, name, task
        self.left_out: Counter[str] = Counter()
        self.notes: list[str] = []
        self.files: list[str] = []
        self.texts: list[str] = []
        self.digests = [""] * len(table)
        kind = options.objective
        if kind == AUTO:
            kind = kind_of(table, columns.label, columns.time, columns.event, task)
        self.targets = read_targets(table, columns.label, kind, columns.time, columns.event, task)
        self.used = self.targets.used.copy()
        self.left_out += self.targets.left_out

    def samples(self) -> OwnData:
        """The samples that are left in the end.

        Raises:
            DataError: None is, or the table's own splits leak.
        """
        inputs = self._inputs()
        if self.files:
            self._keep_files(next(each for each in inputs if each != TEXT))
        if TEXT in inputs:
            self._keep(np.array([bool(text.strip()) for text in self.texts]), "no text")
        patients = self._patients()
        if self.files:
            self._keep_readable()
        subjects = self._joined(patients)
        self.targets.used, self.targets.left_out = self.used.copy(), Counter()
        self.targets = without_rare(self.targets, subjects)
        self.used, self.left_out = self.targets.used.copy(), self.left_out + self.targets.left_out
        own = self._own_splits(subjects)
        rows = np.flatnonzero(self.used)
        if not len(rows):
            reasons = ", ".join(f"{count} have {why}" for why, count in self.left_out.items())
            raise DataError(f"no row of {self.name} can be used: {reasons}")
        return OwnData(
            files=[self.files[row] for row in rows] if self.files else [],
            texts=[self.texts[row] for row in rows] if self.texts else [],
            inputs=inputs,
            targets=self.targets.at(rows),
            subjects=subjects[rows],
            splits=self._splits(own, subjects, rows),
            digests=[self.digests[row] for row in rows] if self.files else [],
            attributes=pd.DataFrame(self.table.iloc[rows][list(self.columns.attributes)]).reset_index(drop=True),
            left_out=+self.left_out,
            notes=self.notes,
            own_split=own is not None,
            patients=None if patients is None else patients[rows],
        )

    def _keep(self, good: np.ndarray, reason: str) -> None:
        """Leaves out the rows that are not good, ``bool [n]``."""
        self.left_out[reason] += int((self.used & ~good).sum())
        self.used &= good

    def _inputs(self) -> tuple[str, ...]:
        """Modalities of a sample; files and texts of the rows."""
        columns, asked = self.columns, self.options.inputs
        chosen = asked != (AUTO,)
        inputs: list[str] = []
        if columns.image and (not chosen or set(asked) - {TEXT}):
            self.files = self._find_files()
            there = [path for path in self.files if path]
            named = next((each for each in asked if each != TEXT), "") if chosen else ""
            inputs.append(named or one_modality(there, self.name, self.task))
        if columns.text and (not chosen or TEXT in asked):
            inputs.append(TEXT)
            cells = self.table[list(columns.text)].to_numpy(object)
            self.texts = ["\n".join(str(value).strip() for value in row if not pd.isna(value)) for row in cells]
        if not inputs or (chosen and set(asked) != set(inputs)):
            what = " and ".join(asked) if chosen else "files or texts"
            header = ", ".join(map(str, self.table.columns[:30]))
            raise DataError(
                f"{self.name} has no column of {what} that is known by its name; say which: --set "
                f"{self.task}.image=COLUMN or --set {self.task}.text=COLUMN; it has: {header}"
            )
        return tuple(inputs)

    def _find_files(self) -> list[str]:
        column = self.table[self.columns.image]
        files = ["" if pd.isna(value) else self.finder.find(str(value)) for value in column]
        if not any(files):
            example = next((str(value) for value in column.dropna()), "")
            raise DataError(
                f"none of the {len(files):,} files that {self.name} names in column {self.columns.image!r} is there, "
                f"such as {example!r}; looked for in {' and '.join(map(str, self.finder.folders))}; put the table "
                "beside its files"
            )
        for how, count in self.finder.elsewhere.items():
            self.notes.append(f"files that are not where the table says, found {how}: {count}")
        return files

    def _keep_files(self, modality: str) -> None:
        """Keeps rows with a file of the kind, and counts the others by what they have in its place."""
        kinds = np.array([modality_of(path) if path else MISSING for path in self.files], str)
        self._keep(self.table[self.columns.image].notna().to_numpy(bool), "no file named")
        self._keep(kinds != MISSING, "no such file")
        for other in (each for each in READERS if each != modality):
            self._keep(kinds != other, f"{'an' if other == 'image' else 'a'} {other} among {modality}s")
        self._keep(kinds == modality, f"a file that is no {modality}")
        if modality == "volume" and (count := sum(map(is_analyze, itertools.compress(self.files, self.used)))):
            self.notes.append(f"files of Analyze format, which do not say left from right; taken as SPM does: {count}")

    def _patients(self) -> np.ndarray | None:
        """Patients ``[n]`` as the table names them; ``None`` where it has no column of them."""
        if not self.columns.subject and self.options.subject_pattern and self.files:
            return self._patients_in_names()
        if not self.columns.subject:
            self.notes.append(OWN_SUBJECT)
            return None
        column: Any = self.table[self.columns.subject]
        self._keep(column.notna().to_numpy(bool), "no patient")
        known = column.dropna()
        if pd.api.types.is_float_dtype(column) and bool((known == known.round()).all()):
            column = column.astype("Int64")  # whole numbers beside blanks
        return np.array([str(value).strip() for value in column], str)

    def _patients_in_names(self) -> np.ndarray:
        """Patients ``[n]`` as the names of the files have them."""
        pattern = re.compile(self.options.subject_pattern)
        hits = [pattern.search(os.path.basename(path)) for path in self.files]
        self._keep(np.array([hit is not None for hit in hits], bool), "no patient in the name of the file")
        if not any(hits):
            raise DataError(f"subject_pattern {self.options.subject_pattern!r} is in no name of a file of {self.name}")
        return np.array([(hit[1] if hit.re.groups else hit[0]) if hit else "" for hit in hits], str)

    def _keep_readable(self) -> None:
        wanted = [path if use else "" for path, use in zip(self.files, self.used, strict=True)]
        content = content_of(dict.fromkeys(part for path in wanted if path for part in parts_of(path)))
        good = [all(content[part] not in (MISSING, UNREADABLE) for part in parts_of(path) if path) for path in wanted]
        self.digests = ["|".join(content[part] for part in parts_of(path)) if path else "" for path in wanted]
        self._keep(np.array(good), "a file that cannot be read")

    def _joined(self, patients: np.ndarray | None) -> np.ndarray:
        """Subjects ``[n]``; those that share a file are one."""
        keys = [str(row) for row in range(len(self.table))] if patients is None else patients.tolist()
        digests = [digest if use else "" for digest, use in zip(self.digests, self.used, strict=True)]
        subjects, joined = joined_subjects(keys, digests)
        if joined:
            what = "samples" if patients is None else "patients"
            self.notes.append(f"{what} with a file that another has too, kept in one split with it: {joined}")
        return subjects

    def _own_splits(self, subjects: np.ndarray) -> np.ndarray | None:
        """The table's own splits ``[n]``, checked; ``None`` where it has none."""
        if not self.columns.split:
            return None
        own = np.where(self.used, named_splits(self.table[self.columns.split], self.task), "")
        self._keep(own != "", "no split named")
        own, dropped = kept_apart(own, subjects, drop=self.options.shared == "drop", task=self.task)
        self.left_out += dropped
        self.used &= own != ""
        return own

    def _splits(self, own: np.ndarray | None, subjects: np.ndarray, rows: np.ndarray) -> dict[str, np.ndarray]:
        options = self.options
        fractions = {
            "train": 1 - options.test_fraction - options.val_fraction,
            "val": options.val_fraction,
            "test": options.test_fraction,
        }
        strata = self.targets.strata()[rows]
        return split_indices(None if own is None else own[rows], subjects[rows], strata, fractions, options.split_seed)
