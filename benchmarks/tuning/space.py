"""What ``--tune`` searches: for every adapter that trains, four options of five values each.

Equal budgets need equal spaces: twenty trials find more in 25 points than in 10,000. An adapter puts at most two
options of its own into its space (:attr:`medgraft.Adapter.search`); training fills it up, in the order of
:data:`COMMON`. Methods that train nothing by steps have only their own options, and their space is smaller: the result
says how large it is.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping, Sequence
from typing import Any

from medgraft.adapter import Adapter
from medgraft.adapter.knobs import SEARCH_VALUES
from medgraft.benchmarks.results.chosen import Dimension
from medgraft.errors import PluginError
from medgraft.objective import Objective
from medgraft.registry import TrainDefaults

DIMENSIONS = 4
"""Options that are searched of each adapter that trains."""

OWN = 2
"""Those that the adapter itself may name."""

COMMON = ("lr", "epochs", "weight_decay", "warmup", "batch_size")
"""Training options that fill the space up, most important first; the last stands in for one that the user has set."""

ABSOLUTE: Mapping[str, Sequence[float]] = {
    "weight_decay": (0.0, 0.001, 0.01, 0.05, 0.1),
    "warmup": (0.0, 0.05, 0.1, 0.2, 0.3),
    "batch_size": (8, 16, 32, 64, 128),
}
LR_FACTORS = (0.1, 0.3, 1.0, 3.0, 10.0)
EPOCH_FACTORS = (0.5, 0.75, 1.0, 1.5, 2.0)


def size_of(space: Sequence[Dimension]) -> int:
    """Number of points."""
    return math.prod(len(each.values) for each in space)


def space_of(
    adapters: Mapping[str, Adapter], objective: type[Objective], train: TrainDefaults, fixed: Collection[str] = ()
) -> list[Dimension]:
    """The space of a row.

    Args:
        adapters: The row's, by part of its name, with the options that it has untuned.
        objective: What it optimises.
        train: How it is trained untuned.
        fixed: Dimensions that must stay as they are: what the user has set, and a size knob under a budget.

    Returns:
        The dimensions; none for a row that has nothing to tune.

    Raises:
        PluginError: An adapter names an option that it does not have.
    """
    own = _own(adapters, set(fixed))
    if not _is_trained(adapters, objective, train):
        return own[:DIMENSIONS]
    own = [each for each in own if len(each.values) == SEARCH_VALUES][:OWN]  # or spaces would not be of one size
    common = [_of_training(name, train) for name in COMMON if f"train.{name}" not in fixed]
    return [*own, *common[: DIMENSIONS - len(own)]]


def _is_trained(adapters: Mapping[str, Adapter], objective: type[Objective], train: TrainDefaults) -> bool:
    """Whether learning rate and epochs matter: nothing is trained by steps in 0 epochs, or where a head is solved."""
    solves = objective.linear_problems is not Objective.linear_problems
    return train.epochs > 0 and (not solves or any(each.trained_by_steps for each in adapters.values()))


def _own(adapters: Mapping[str, Adapter], fixed: set[str]) -> list[Dimension]:
    """Dimensions that adapters name, the first of each part before the second of any."""
    by_part: list[list[Dimension]] = []
    for part, adapter in adapters.items():
        values = adapter.config.model_dump()
        mine = []
        for option, candidates in adapter.search.items():
            if option not in values:
                raise PluginError(f"adapter {part!r} names {option!r} in `search`, and has no such option")
            name = f"{part}.{option}"
            if name not in fixed and len({*map(repr, candidates)}) > 1:
                mine.append(
                    Dimension(name=name, values=with_default(candidates, values[option]), default=values[option])
                )
        by_part.append(mine)
    rounds = range(max((len(each) for each in by_part), default=0))
    return [mine[i] for i in rounds for mine in by_part if i < len(mine)]


def _of_training(name: str, train: TrainDefaults) -> Dimension:
    default = getattr(train, name)
    if name == "lr":
        values = [default if factor == 1 else float(f"{default * factor:.6g}") for factor in LR_FACTORS]
    elif name == "epochs":
        values = epochs_around(default)
    else:
        values = with_default(ABSOLUTE[name], default)
    return Dimension(name=f"train.{name}", values=values, default=default)


def epochs_around(epochs: int) -> list[int]:
    """Five different numbers of epochs: half to twice as many; the smallest there are where that gives fewer.

    Example:
        >>> epochs_around(20), epochs_around(6), epochs_around(1)
        ([10, 15, 20, 30, 40], [3, 4, 6, 9, 12], [1, 2, 3, 4, 5])
    """
    values = {max(1, round(epochs * factor)) for factor in EPOCH_FACTORS}
    free = (number for number in range(1, 2 * SEARCH_VALUES + 1) if number not in values)
    values |= {next(free) for _ in range(SEARCH_VALUES - len(values))}
    return sorted(values)


def with_default(candidates: Sequence[Any], default: Any) -> list[Any]:
    """The candidates with the default among them, in the place of the nearest number where it is none of them.

    Example:
        >>> with_default((2, 4, 8, 16, 32), 8), with_default((2, 4, 8, 16, 32), 12)
        ([2, 4, 8, 16, 32], [2, 4, 12, 16, 32])
    """
    values = list(candidates)
    if default in values:
        return values
    if not isinstance(default, int | float) or isinstance(default, bool):
        return [default, *values[1:]]
    nearest = min(range(len(values)), key=lambda i: abs(values[i] - default))
    values[nearest] = default
    return sorted(values)


def applied(
    space: Sequence[Dimension], chosen: Mapping[str, Any], options: Mapping[str, Any], train: TrainDefaults
) -> tuple[dict[str, Any], TrainDefaults]:
    """Options and training of a row with chosen values.

    Args:
        space: Whose dimensions were chosen of.
        chosen: Dimension -> value.
        options: Of the adapter; of a composed one, by part.
        train: How the row is trained untuned.
    """
    options = dict(options)
    values: dict[str, Any] = {}
    for dimension in space:
        value, (part, _, option) = chosen[dimension.name], dimension.name.rpartition(".")
        if part == "train":
            values[option] = value
        elif part in options and isinstance(options[part], Mapping):
            options[part] = {**options[part], option: value}
        else:
            options[option] = value
    return options, train.model_copy(update=values)
