"""One row's search: proposed by optuna, judged on validation samples, kept as one small file per trial.

The study itself is nowhere on the disk. It is made again from the trials' files: the sampler is seeded, so that it asks
for the same values in the same order as long as it is told the same scores. A search that was killed goes on where it
was, and one of twenty trials begins with those of ten.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from medgraft.benchmarks.results.chosen import Dimension, Trial, Tuning
from medgraft.benchmarks.results.result_files import TRIAL_SUFFIX, UnreadableError, read_json
from medgraft.benchmarks.results.spec import CellSpec
from medgraft.benchmarks.results.store import ResultStore, StorageError
from medgraft.benchmarks.results.writing import write_atomically
from medgraft.benchmarks.tuning.space import applied, size_of
from medgraft.errors import ConfigError

TRIAL_SEED = 20_011
"""Seed that trials train with. It is none that rows report by default, so that values are not chosen for their luck."""

SAMPLER_SEED = 0
MOST_TRIES = 3
"""Times as many trials as were asked for, those included whose values do not fit."""
MOST_REPEATS = 200
"""Proposals of points that are known before a search is taken to have seen all that it will."""


def require_optuna() -> Any:
    """The library, imported.

    Raises:
        ConfigError: It is not installed.
    """
    try:
        import optuna
    except ImportError as error:
        raise ConfigError("--tune needs optuna, which is not installed; run: pip install 'medgraft[tune]'") from error
    return optuna


class RowStudy:
    """The search of one row.

    Args:
        base: The row's cell as it is untuned, of any seed.
        space: What is searched.
        asked: Trials that are asked for.
        metric: That scores are of.
        higher_is_better: Whether more of it is better.
        store: Where results go.
        fresh: Run trials again that have run.
    """

    def __init__(
        self,
        base: CellSpec,
        space: Sequence[Dimension],
        asked: int,
        metric: str,
        higher_is_better: bool,
        store: ResultStore,
        *,
        fresh: bool = False,
    ) -> None:
        self.optuna = require_optuna()
        self.base = base.model_copy(update={"seed": TRIAL_SEED, "tune": 0})
        self.space, self.asked, self.metric, self.higher_is_better = list(space), asked, metric, higher_is_better
        self.store, self.fresh = store, fresh
        self.folder = store.path(self.base).with_name(f"{self.base.row()}.trials")
        self.trials: list[Trial] = []
        self.resumed = 0
        self._waiting: Any = None
        sampler = self.optuna.samplers.TPESampler(seed=SAMPLER_SEED)
        self.optuna.logging.set_verbosity(self.optuna.logging.WARNING)
        direction = "maximize" if higher_is_better else "minimize"
        self._study = self.optuna.create_study(sampler=sampler, direction=direction)
        self._study.enqueue_trial({each.name: _as_asked(each, each.default) for each in self.space})

    def next_spec(self) -> CellSpec | None:
        """The cell of the next trial that has not run; ``None`` when the search is over.

        Trials whose files are there are taken from them.
        """
        while (values := self._proposed()) is not None:
            trial = self._stored(len(self.trials), values)
            if trial is None:
                return self.spec_of(values)
            self.resumed += trial.fits
            self._told(trial)
        return None

    def spec_of(self, values: dict[str, Any]) -> CellSpec:
        """The row's cell with values of the space."""
        options, train = applied(self.space, values, self.base.adapter_options, self.base.train)
        return self.base.model_copy(update={"adapter_options": options, "train": train})

    @property
    def counted(self) -> int:
        """Trials that count: values that an adapter cannot be built with cost no training, and others are tried."""
        return sum(trial.fits for trial in self.trials)

    @property
    def values(self) -> dict[str, Any]:
        """Of the trial that :meth:`next_spec` gave last."""
        return _values_of(self.space, self._waiting.params)

    def finish(self, trial: Trial, log: str | None = None) -> None:
        """Keeps a trial that has run.

        Args:
            trial: It.
            log: What it wrote to its terminal, kept where it failed.

        Raises:
            StorageError: It cannot be written.
        """
        path = self.path(trial.number)
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            if log is not None and trial.status != "success":
                write_atomically(path.with_suffix(".log"), lambda handle: handle.write(log.encode()))
            text = trial.model_dump_json(indent=1) + "\n"
            write_atomically(path, lambda handle: handle.write(text.encode()))
        except OSError as error:
            raise StorageError(self.store.root, error) from error
        self._told(trial)

    def path(self, number: int) -> Path:
        """File of a trial."""
        return self.folder / f"{number:04d}{TRIAL_SUFFIX}"

    def outcome(self) -> Tuning:
        """What the search came to; of equal scores the earliest counts, so that the untuned values win a tie."""
        scored = [trial for trial in self.trials if trial.score is not None]
        sign = 1 if self.higher_is_better else -1
        best = max(scored, key=lambda trial: (sign * (trial.score or 0.0), -trial.number), default=None)
        default = {each.name: each.default for each in self.space}
        return Tuning(
            asked=self.asked,
            trials=self.trials,
            space=self.space,
            metric=self.metric,
            higher_is_better=self.higher_is_better,
            chosen=default if best is None else best.values,
            default_score=self.trials[0].score if self.trials else None,
            best_score=None if best is None else best.score,
            seconds=round(sum(trial.seconds for trial in self.trials), 3),
            seed=TRIAL_SEED,
            sampler=f"optuna {self.optuna.__version__} TPESampler(seed={SAMPLER_SEED})",
            folder=self.folder.relative_to(self.store.root).as_posix(),
        )

    def _proposed(self) -> dict[str, Any] | None:
        """Values that were not tried, as the sampler proposes them; ``None`` where enough were, or all are known."""
        most = min(size_of(self.space), MOST_TRIES * self.asked)
        if len(self.trials) >= most or self.counted >= self.asked or not all(trial.fits for trial in self.trials[:1]):
            return None  # where not even the untuned values fit, others are hardly tried for nothing
        known = {repr(trial.values): trial for trial in self.trials}
        for _ in range(MOST_REPEATS):
            self._waiting = self._study.ask(_distributions(self.optuna, self.space))
            values = self.values
            if (before := known.get(repr(values))) is None:
                return values
            self._tell(before)
        return None

    def _stored(self, number: int, values: dict[str, Any]) -> Trial | None:
        """The trial of that number where its file is there and of these values; a failure from outside runs again."""
        path = self.path(number)
        if self.fresh or not path.is_file():
            return None
        try:
            trial = Trial.model_validate(read_json(path))
        except (UnreadableError, ValidationError):
            return None
        if trial.number != number or trial.values != values or trial.status == "killed":
            return None
        return trial

    def _told(self, trial: Trial) -> None:
        self.trials.append(trial)
        self._tell(trial)

    def _tell(self, trial: Trial) -> None:
        if trial.score is None:
            self._study.tell(self._waiting, state=self.optuna.trial.TrialState.FAIL)
        else:
            self._study.tell(self._waiting, trial.score)


def _is_ordered(dimension: Dimension) -> bool:
    return all(isinstance(value, int | float) and not isinstance(value, bool) for value in dimension.values)


def _distributions(optuna: Any, space: Sequence[Dimension]) -> dict[str, Any]:
    """Ordered values by their place, so that the sampler knows which are near each other; others as they are."""
    made: dict[str, Any] = {}
    for each in space:
        if _is_ordered(each):
            made[each.name] = optuna.distributions.IntDistribution(0, len(each.values) - 1)
        else:
            made[each.name] = optuna.distributions.CategoricalDistribution(each.values)
    return made


def _as_asked(dimension: Dimension, value: Any) -> Any:
    return dimension.values.index(value) if _is_ordered(dimension) else value


def _values_of(space: Sequence[Dimension], asked: dict[str, Any]) -> dict[str, Any]:
    return {each.name: each.values[asked[each.name]] if _is_ordered(each) else asked[each.name] for each in space}
