"""Phases of training: which of an adapter's parameters train when."""

from __future__ import annotations

import fnmatch
from collections.abc import Iterable, Sequence
from typing import NamedTuple

from medgraft.errors import ConfigError


class Phase(NamedTuple):
    """One phase of an adapter's training.

    Attributes:
        name: What the result calls it.
        trainable: Shell-style globs over the names of the adapter's parameters; the others stand still.
        share: Share of the training steps, above 0; the shares of a schedule sum to 1.
        joined: Adapters of the same graft that have one phase only train in it, too; false has them wait.
    """

    name: str
    trainable: tuple[str, ...] = ("*",)
    share: float = 1.0
    joined: bool = True


ONE_PHASE = (Phase("all"),)
"""Everything trains all the time."""


def first_alone(share: float) -> tuple[Phase, ...]:
    """Two phases in which everything of an adapter trains, and what it is joined with trains in the second one only.

    Liu et al., "Visual Instruction Tuning" (LLaVA), NeurIPS 2023, section 4.2: first the projector, then the language
    model as well.

    Args:
        share: Of the training steps in the first phase, below 1; 0 leaves a single phase.

    Example:
        >>> [phase.name for phase in first_alone(0.25)]
        ['alone', 'together']
    """
    if share == 0:
        return ONE_PHASE
    return Phase("alone", share=share, joined=False), Phase("together", share=1 - share)


Stage = Phase
"""Earlier name of :class:`Phase`."""
ONE_STAGE = ONE_PHASE
"""Earlier name of :data:`ONE_PHASE`."""


def phase_parameters(schedule: Sequence[Phase], parameters: Iterable[str], who: str) -> dict[str, tuple[str, ...]]:
    """The parameters that each phase trains.

    Args:
        schedule: Phases in order.
        parameters: Names of all of the adapter's trainable parameters.
        who: Whose they are, for errors.

    Returns:
        Phase -> names, in the order of ``parameters``.

    Raises:
        ConfigError: A pattern hits nothing, a parameter trains in no phase, two phases have one name, or the shares
            are not positive or do not sum to 1.

    Example:
        >>> phases = (Phase("shared", ("router", "expert.*"), 0.5), Phase("head", ("head",), 0.5))
        >>> phase_parameters(phases, ["router", "expert.0", "head"], "moe")
        {'shared': ('router', 'expert.0'), 'head': ('head',)}
    """
    names = list(parameters)
    shares = [phase.share for phase in schedule]
    if not schedule or min(shares) <= 0 or abs(sum(shares) - 1) > 1e-6:
        raise ConfigError(f"the schedule of {who} has shares {shares}; each must be above 0, and they must sum to 1")
    if len({phase.name for phase in schedule}) != len(schedule):
        raise ConfigError(f"the schedule of {who} names a phase twice: {', '.join(phase.name for phase in schedule)}")
    names_of: dict[str, tuple[str, ...]] = {}
    for phase in schedule:
        for pattern in phase.trainable:
            if names and not fnmatch.filter(names, pattern):
                raise ConfigError(f"phase {phase.name!r} of {who} trains {pattern!r}, and no parameter has such a name")
        names_of[phase.name] = tuple(
            name for name in names if any(fnmatch.fnmatchcase(name, pattern) for pattern in phase.trainable)
        )
    trained = {name for each in names_of.values() for name in each}
    if idle := [name for name in names if name not in trained]:
        raise ConfigError(f"no phase of {who} trains {', '.join(idle[:4])}; add it to one")
    return names_of


def phase_starts(schedule: Sequence[Phase], steps: int, who: str) -> list[int]:
    """First step of each phase among ``steps``; every phase gets at least one.

    Raises:
        ConfigError: There are fewer steps than phases.

    Example:
        >>> phase_starts((Phase("a", share=0.25), Phase("b", share=0.75)), 10, "moe")
        [0, 2]
    """
    if steps < len(schedule):
        raise ConfigError(f"{who} trains in {len(schedule)} phases, and there are only {steps} steps; train longer")
    starts, reached = [0], 0.0
    for position, phase in enumerate(schedule[:-1], 1):
        reached += phase.share
        latest = steps - (len(schedule) - position)
        starts.append(min(max(round(reached * steps), starts[-1] + 1), latest))
    return starts


stage_parameters = phase_parameters
"""Earlier name of :func:`phase_parameters`."""
stage_starts = phase_starts
"""Earlier name of :func:`phase_starts`."""
