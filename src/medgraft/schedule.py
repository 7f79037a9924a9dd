"""Stages of training: which of an adapter's parameters train when."""

from __future__ import annotations

import fnmatch
from collections.abc import Iterable, Sequence
from typing import NamedTuple

from medgraft.errors import ConfigError


class Stage(NamedTuple):
    """One stage of an adapter's training.

    Attributes:
        name: What the result calls it.
        trainable: Shell-style globs over the names of the adapter's parameters; the others stand still.
        share: Share of the training steps, above 0; the shares of a schedule sum to 1.
    """

    name: str
    trainable: tuple[str, ...] = ("*",)
    share: float = 1.0


ONE_STAGE = (Stage("all"),)
"""Everything trains all the time."""


def stage_parameters(schedule: Sequence[Stage], parameters: Iterable[str], who: str) -> dict[str, tuple[str, ...]]:
    """The parameters that each stage trains.

    Args:
        schedule: Stages in order.
        parameters: Names of all of the adapter's trainable parameters.
        who: Whose they are, for errors.

    Returns:
        Stage -> names, in the order of ``parameters``.

    Raises:
        ConfigError: A pattern hits nothing, a parameter trains in no stage, two stages have one name, or the shares
            are not positive or do not sum to 1.

    Example:
        >>> stages = (Stage("shared", ("router", "expert.*"), 0.5), Stage("head", ("head",), 0.5))
        >>> stage_parameters(stages, ["router", "expert.0", "head"], "moe")
        {'shared': ('router', 'expert.0'), 'head': ('head',)}
    """
    names = list(parameters)
    shares = [stage.share for stage in schedule]
    if not schedule or min(shares) <= 0 or abs(sum(shares) - 1) > 1e-6:
        raise ConfigError(f"the schedule of {who} has shares {shares}; each must be above 0, and they must sum to 1")
    if len({stage.name for stage in schedule}) != len(schedule):
        raise ConfigError(f"the schedule of {who} names a stage twice: {', '.join(stage.name for stage in schedule)}")
    found: dict[str, tuple[str, ...]] = {}
    for stage in schedule:
        for pattern in stage.trainable:
            if names and not fnmatch.filter(names, pattern):
                raise ConfigError(f"stage {stage.name!r} of {who} trains {pattern!r}, and no parameter has such a name")
        found[stage.name] = tuple(
            name for name in names if any(fnmatch.fnmatchcase(name, pattern) for pattern in stage.trainable)
        )
    trained = {name for each in found.values() for name in each}
    if idle := [name for name in names if name not in trained]:
        raise ConfigError(f"no stage of {who} trains {', '.join(idle[:4])}; add it to one")
    return found


def stage_starts(schedule: Sequence[Stage], steps: int, who: str) -> list[int]:
    """First step of each stage among ``steps``; every stage gets at least one.

    Raises:
        ConfigError: There are fewer steps than stages.

    Example:
        >>> stage_starts((Stage("a", share=0.25), Stage("b", share=0.75)), 10, "moe")
        [0, 2]
    """
    if steps < len(schedule):
        raise ConfigError(f"{who} trains in {len(schedule)} stages, and there are only {steps} steps; train longer")
    starts, reached = [0], 0.0
    for position, stage in enumerate(schedule[:-1], 1):
        reached += stage.share
        latest = steps - (len(schedule) - position)
        starts.append(min(max(round(reached * steps), starts[-1] + 1), latest))
    return starts
