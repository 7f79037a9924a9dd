"""Runs the trials of many rows by the launcher that runs their cells: isolated, with the same limits."""

from __future__ import annotations

from collections.abc import Sequence

from medgraft.benchmarks.cell.job import Job
from medgraft.benchmarks.launch.cells import Events, Running, Runs
from medgraft.benchmarks.launch.collect import Outcome
from medgraft.benchmarks.results.result import CellResult
from medgraft.benchmarks.results.spec import CellSpec
from medgraft.benchmarks.tuning.study import RowStudy
from medgraft.benchmarks.tuning.trial import trial_of


class TrialRuns(Runs):
    """Trials in the place of cells: one at a time of each row, since each is proposed by those before it.

    Rows are searched side by side. See :class:`medgraft.benchmarks.launch.cells.Runs` for the arguments.
    """

    def search(self, studies: Sequence[RowStudy], events: Events) -> None:
        """Runs every search to its end.

        Args:
            studies: One per row.
            events: Called as for cells.

        Raises:
            StorageError: A trial cannot be stored.
            MedgraftError: The launcher cannot start or watch a worker.
        """
        self.studies: dict[str, RowStudy] = {}
        self.behind: dict[str, list[RowStudy]] = {}
        first = [spec for study in studies for spec in self._next_of(study)]
        if first:
            self.run(first, events)

    def _next_of(self, study: RowStudy) -> list[CellSpec]:
        spec = study.next_spec()
        if spec is None:
            return []
        if spec.key() in self.studies:  # two rows that differ in what is searched may come to the same choice
            self.behind.setdefault(spec.key(), []).append(study)
            return []
        self.studies[spec.key()] = study
        return [spec]

    def job_of(self, spec: CellSpec) -> Job:
        """A trial."""
        return super().job_of(spec).model_copy(update={"trial": True, "keep": False, "external": []})

    def settle(self, worker: Running, outcome: Outcome, seconds: float) -> CellResult:
        """Keeps the trial's score; nothing else is stored."""
        study = self.studies[outcome.result.key]
        trial = trial_of(outcome.result, len(study.trials), study.values, seconds)
        study.finish(trial, outcome.log)
        return outcome.result

    def follow(self, result: CellResult) -> Sequence[CellSpec]:
        """The row's next trial, and one of another row that waited for this one to end."""
        cells = self._next_of(self.studies.pop(result.key))
        if behind := self.behind.get(result.key):
            self.studies[result.key] = behind.pop(0)
            cells.append(result.spec)
        return cells
