"""Runs the schedules of a graft's adapters: what trains in which step."""

from __future__ import annotations

import bisect
import logging
import math
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np

from medgraft.adapter import Adapter
from medgraft.adapter.protocols import enter_phase, phases_of
from medgraft.errors import ConfigError
from medgraft.grafting import Grafted
from medgraft.schedule import Phase, followed_by, phase_parameters, phase_starts

logger = logging.getLogger(__name__)


def learning_rate(step: int, steps: int, warmup: float) -> float:
    """Factor on the peak rate: linear warm-up from 0 over a share of the steps, then a half cosine to 0.

    Example:
        >>> [round(learning_rate(s, 10, 0.2), 3) for s in (0, 1, 2, 6, 9)]
        [0.5, 1.0, 0.962, 0.309, 0.0]
    """
    ramp = max(1, round(warmup * steps))
    if step < ramp:
        return (step + 1) / ramp
    return 0.5 * (1 + math.cos(math.pi * (step + 1 - ramp) / max(1, steps - ramp)))


class Phases:
    """The phases of one training; of one phase, and without a trace, where no adapter declares more.

    Heads and adapters of one phase train all the time.

    Args:
        grafted: Whose adapters.
        steps: Optimisation steps in all.
        last: A phase of the objective behind those of the adapters, in which everything trains.

    Raises:
        ConfigError: A schedule does not fit the adapter's parameters, two adapters declare different ones, or there
            are fewer steps than phases.
    """

    def __init__(self, grafted: Grafted, steps: int, last: Phase | None = None) -> None:
        self.adapters: dict[str, Adapter] = {}
        self.names: dict[str, dict[str, tuple[str, ...]]] = {}
        self.last = last
        plans = {}
        every = {name: (adapter, phases_of(adapter)) for name, adapter in grafted.named_adapters()}
        several = {name for name, (_, schedule) in every.items() if len(schedule) > 1} or set(every)
        for name, (adapter, schedule) in every.items():
            if last is not None and name in several:
                schedule = followed_by(schedule, last)
            trained = [key for key, p in adapter.named_parameters() if p.requires_grad]
            names = phase_parameters(schedule, trained, f"adapter {name!r}")
            if len(schedule) > 1:
                self.adapters[name], self.names[name], plans[name] = adapter, names, schedule
        if len({tuple(phase.share for phase in schedule) for schedule in plans.values()}) > 1:
            raise ConfigError(f"{' and '.join(plans)} train in phases of different length; give them the same shares")
        schedule = next(iter(plans.values()), ())
        who = f"adapter {next(iter(plans), '')!r}"
        alone = {place for plan in plans.values() for place, phase in enumerate(plan) if not phase.joined}
        if len(alone) == len(schedule) > 0:
            raise ConfigError(f"{who} trains alone in all of its phases; what it is joined with never would")
        for name, adapter in grafted.named_adapters() if alone else ():
            if name not in plans:  # it waits while another trains alone
                mine = tuple(key for key, p in adapter.named_parameters() if p.requires_grad)
                self.adapters[name], plans[name] = adapter, schedule
                self.names[name] = {phase.name: () if place in alone else mine for place, phase in enumerate(schedule)}
        self.phases = {name: [phase.name for phase in plan] for name, plan in plans.items()}
        self.starts = phase_starts(schedule, steps, who) if schedule else [0]
        self.steps, self.position = steps, -1
        self.log: list[dict[str, Any]] = []

    def enter(self, step: int) -> tuple[int, int]:
        """Begins the phase that a step lies in, if it has not begun; its first step and its number of steps."""
        position = bisect.bisect_right(self.starts, step) - 1
        start, stop = self.starts[position], [*self.starts, self.steps][position + 1]
        if position == self.position:
            return step - start, stop - start
        self.position = position
        for name, adapter in self.adapters.items():
            phase = self.phases[name][position]
            trained = set(self.names[name][phase])
            names = set().union(*self.names[name].values())
            for key, parameter in adapter.named_parameters():
                if key in names:
                    parameter.requires_grad_(key in trained)
            # Of the objective's phase adapters know nothing: they act whole, as after training.
            enter_phase(adapter, None if self.last is not None and phase == self.last.name else phase)
            count = sum(p.numel() for p in adapter.parameters() if p.requires_grad)
            logger.info(
                "phase %s of %s: %d steps, %d parameters: %s", phase, name, stop - start, count, sorted(trained)
            )
            entry = {"adapter": name, "stage": phase, "steps": stop - start, "trainable": count}
            self.log.append({**entry, "parameters": sorted(trained), "position": position, "losses": []})
        return step - start, stop - start

    def begins_last(self, step: int) -> bool:
        """Whether the objective's own phase begins with a step."""
        return self.last is not None and step == self.starts[-1]

    def in_last(self, steps: int) -> bool:
        """Whether steps of the objective's own phase are among the first ``steps``."""
        return self.last is not None and steps > self.starts[-1]

    def resume(self, steps: int, log: list[dict[str, Any]]) -> None:
        """Goes on where another process was.

        Args:
            steps: That it has taken, at least one.
            log: That it wrote.
        """
        self.enter(steps - 1)
        self.log = log

    @property
    def name(self) -> str:
        """The phase that trains now; empty before the first and where there is only one."""
        names = next(iter(self.phases.values()), [])
        return names[self.position] if names and self.position >= 0 else ""

    def record(self, loss: float) -> None:
        """Notes the loss of a step."""
        for entry in self.log:
            if entry["position"] == self.position:
                entry["losses"].append(loss)

    def summary(self) -> list[dict[str, Any]]:
        """Phases as the result keeps them: adapter, name, steps, parameters and the mean loss."""
        kept = ("adapter", "stage", "steps", "trainable", "parameters")
        return [
            {
                **{key: entry[key] for key in kept},
                "mean_loss": float(np.mean(entry["losses"])) if entry["losses"] else None,
            }
            for entry in self.log
        ]

    @contextmanager
    def running(self) -> Iterator[Phases]:
        """Leaves every parameter trainable that was, and every adapter whole, however training ends."""
        before = [p for adapter in self.adapters.values() for p in adapter.parameters() if p.requires_grad]
        try:
            yield self
        finally:
            for parameter in before:
                parameter.requires_grad_(True)
            for adapter in self.adapters.values():
                enter_phase(adapter, None)
