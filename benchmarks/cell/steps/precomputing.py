"""The third step: what stays frozen is computed once, and the head is added."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial

from medgraft.benchmarks.cell.steps.attaching import Attached, attach
from medgraft.benchmarks.cell.steps.loading import Loaded
from medgraft.benchmarks.prefix_cache.inputs import PreparedInputs, tower_inputs
from medgraft.benchmarks.prefix_cache.rows import TowerInputs
from medgraft.benchmarks.results.spec import CellSpec
from medgraft.benchmarks.training.trainer import Runner
from medgraft.fast.compiling import CompiledEncode
from medgraft.fast.short_texts import padding_needed
from medgraft.grafting import Grafted
from medgraft.objective import Objective, make_objective, pair_of


@dataclass(frozen=True)
class Ready:
    """A graft that can be trained and run.

    Attributes:
        attached: The graft and the watch over it.
        first: Modality -> first stage that is not computed before.
        inputs: Modality -> rows of that stage.
        views: Modality -> the same of each augmented view.
        runner: Feeds the graft.
    """

    attached: Attached
    first: Mapping[str, int]
    inputs: Mapping[str, TowerInputs]
    views: Mapping[str, list[TowerInputs]]
    runner: Runner

    @property
    def loaded(self) -> Loaded:
        """What it runs on."""
        return self.attached.loaded

    @property
    def spec(self) -> CellSpec:
        """What to run."""
        return self.loaded.spec

    @property
    def grafted(self) -> Grafted:
        """The graft."""
        return self.attached.grafted


def precompute(attached: Attached) -> Ready:
    """Computes what stays frozen, and adds the head.

    Raises:
        MedgraftError: The data do not fit the objective, or the cache cannot be read or written.
    """
    loaded, grafted = attached.loaded, attached.grafted
    spec, task = loaded.spec, loaded.task
    first = grafted.first_stage()
    objective = make_objective(task.objective, loaded.data, task.inputs, pair_of(task))
    rows = frozen_rows(attached, objective, loaded.prepared)
    inputs = {name: of_modality() for name, of_modality in rows.items()}
    views: dict[str, list[TowerInputs]] = {}
    wanted = max(spec.augment_views, objective.views)
    if wanted and spec.train.epochs > 0:  # else nothing reads them
        views = {name: [each(view=view) for view in range(wanted)] for name, each in rows.items()}
    encode = CompiledEncode(grafted.encode, spec.device) if spec.backend == "compile" else grafted.encode
    bf16 = spec.precision != "fp32"
    augmented = spec.augment_views > 0
    runner = Runner(grafted, objective, loaded.data, inputs, encode, bf16, views, augmented, device=spec.device)
    runner.add_head(loaded.splits["train"])
    objective.prepare_adapters(grafted, runner.outputs, loaded.splits["train"])
    return Ready(attached, first, inputs, views, runner)


def frozen_rows(
    attached: Attached, objective: Objective, prepared: Mapping[str, PreparedInputs]
) -> dict[str, Callable[..., TowerInputs]]:
    """What computes the rows of the frozen part, by modality; called with ``view=`` it does so for an augmented view.

    Args:
        attached: The graft.
        objective: Whether it reads tokens.
        prepared: Samples of each modality.
    """
    grafted, first = attached.grafted, attached.grafted.first_stage()
    condensers = {} if "tokens" in objective.needs else grafted.condensers()
    padding = padding_needed(grafted, frozen=True)
    return {
        name: partial(
            tower_inputs,
            prepared[name],
            tower,
            first[name],
            f"{grafted.base_digest}|{name}",
            condenser=condensers.get(name),
            padding=padding,
        )
        for name, tower in attached.loaded.towers().items()
    }


def build(loaded: Loaded) -> Ready:
    """The two steps from data to a graft that can be trained: it attaches the adapters, and precomputes."""
    return precompute(attach(loaded))
