"""All that training changes, taken between two epochs, so that another process goes on with the same numbers.

A state is a tree of dictionaries, lists, numbers, texts and tensors. Random numbers belong to it: those of PyTorch (on
every device in use), NumPy and Python, and the generators that draw the order of samples and their views.
"""

from __future__ import annotations

import dataclasses
import random
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from medgraft.adapter import Adapter
from medgraft.adapter.protocols import KeepsTrainingState
from medgraft.benchmarks.training.best_weights import BestWeights
from medgraft.benchmarks.training.phases import Phases
from medgraft.grafting import Grafted

Tree = Any
"""What :mod:`medgraft.benchmarks.training.checkpoint_file` can store."""


@dataclass
class TrainingLog:
    """What training reports.

    Attributes:
        epoch_loss: Mean loss of each epoch.
        steps: Optimisation steps.
        samples: Samples seen.
        seconds: Time inside steps, data loading excluded.
        stages: What trained when, for adapters that declare more than one phase.
        head: How the head's strength of L2 was chosen, where it was: :mod:`medgraft.benchmarks.training.head_choice`.
        resumed: Epochs behind which another process went on, since the one before it was ended.
    """

    epoch_loss: list[float] = field(default_factory=list)
    steps: int = 0
    samples: int = 0
    seconds: float = 0.0
    stages: list[dict[str, Any]] = field(default_factory=list)
    head: dict[str, Any] = field(default_factory=dict)
    resumed: list[int] = field(default_factory=list)


@dataclass
class TrainingState:
    """What one training changes.

    Attributes:
        grafted: Its adapters and head.
        optimizer: Of them.
        phases: What trains when.
        best: The best epoch so far, where it is to be kept.
        log: What training reports.
        draws: Name -> generator of the order of samples, and of their views.
    """

    grafted: Grafted
    optimizer: torch.optim.Optimizer
    phases: Phases
    best: BestWeights | None
    log: TrainingLog
    draws: Mapping[str, np.random.Generator]

    def resumable(self) -> bool:
        """Whether all of it is known here.

        It is not where an adapter changes something by hand after each step and does not give it away, and not once the
        objective's own last phase has begun, before which the objective notes what it compares with.
        """
        adapters = [adapter for _, adapter in self.grafted.named_adapters()]
        return not self.phases.in_last(self.log.steps) and all(map(gives_its_state, adapters))

    def taken(self) -> Tree:
        """What it is now; its tensors are those in use, and not copies."""
        return {
            "log": dataclasses.asdict(self.log),
            "phases": self.phases.log,
            "modules": {name: dict(_values(module)) for name, module in self._modules().items()},
            "trained": {name: _trained(module) for name, module in self._modules().items()},
            "adapters": {name: adapter.training_state() for name, adapter in self._keeping().items()},
            "optimizer": {str(number): dict(values) for number, values in self.optimizer.state_dict()["state"].items()},
            "best": None if self.best is None else self.best.state(),
            "draws": {name: draw.bit_generator.state for name, draw in self.draws.items()},
            "random": random_state(),
        }

    def misfit(self, tree: Tree) -> str:
        """Why the state of another process is of another training; empty where it is of this one."""
        for name, module in self._modules().items():
            here, there = dict(_values(module)), tree["modules"].get(name, {})
            if odd := sorted(here.keys() ^ there.keys()):
                return f"{name} has other parameters: {', '.join(odd[:3])}"
            for key, value in here.items():
                if value.shape != there[key].shape or value.dtype != there[key].dtype:
                    return f"{name}.{key} has another shape or type"
        return ""

    def put_back(self, tree: Tree) -> None:
        """Takes a state of another process that is no :meth:`misfit`; nothing may have been trained in this one."""
        for name, value in tree["log"].items():
            setattr(self.log, name, value)
        self.phases.resume(self.log.steps, tree["phases"])
        for name, module in self._modules().items():
            with torch.no_grad():
                for key, value in _values(module):
                    value.copy_(tree["modules"][name][key])
            trained = set(tree["trained"][name])
            for key, parameter in module.named_parameters():
                parameter.requires_grad_(key in trained)  # an adapter may have stopped some by itself
        for name, adapter in self._keeping().items():
            adapter.restore_training_state(tree["adapters"][name])
        groups = self.optimizer.state_dict()["param_groups"]
        moments = {int(number): values for number, values in tree["optimizer"].items()}
        self.optimizer.load_state_dict({"state": moments, "param_groups": groups})
        if self.best is not None:
            self.best.resume(tree["best"])
        for name, draw in self.draws.items():
            draw.bit_generator.state = tree["draws"][name]
        set_random_state(tree["random"])

    def _modules(self) -> dict[str, nn.Module]:
        """The adapters by ``adapters.NAME``, and the ``head``."""
        named: dict[str, nn.Module] = {f"adapters.{name}": each for name, each in self.grafted.named_adapters()}
        return named if self.grafted.head is None else named | {"head": self.grafted.head}

    def _keeping(self) -> dict[str, KeepsTrainingState]:
        return {name: each for name, each in self.grafted.named_adapters() if isinstance(each, KeepsTrainingState)}


def gives_its_state(adapter: Adapter) -> bool:
    """Whether nothing but parameters and buffers of it changes in training, or it gives the rest."""
    return isinstance(adapter, KeepsTrainingState) or type(adapter).after_step is Adapter.after_step


def random_state() -> Tree:
    """State of the random numbers of this process."""
    version, numbers, gauss = random.getstate()
    numpy = np.random.get_state(legacy=False)
    numpy["state"]["key"] = numpy["state"]["key"].tolist()
    device = torch.cuda.get_rng_state() if torch.cuda.is_initialized() else None  # of the one that trains
    return {"torch": torch.get_rng_state(), "cuda": device, "numpy": numpy, "python": [version, list(numbers), gauss]}


def set_random_state(tree: Tree) -> None:
    """Goes on with the random numbers of another process."""
    version, numbers, gauss = tree["python"]
    random.setstate((version, tuple(numbers), gauss))
    numpy = tree["numpy"]
    key = np.array(numpy["state"]["key"], np.uint32)
    np.random.set_state({**numpy, "state": {**numpy["state"], "key": key}})
    torch.set_rng_state(tree["torch"])
    if tree["cuda"] is not None:
        torch.cuda.set_rng_state(tree["cuda"])


def _values(module: nn.Module) -> Iterator[tuple[str, Tensor]]:
    """Parameters and all buffers by name, also those that a saved graft leaves out."""
    yield from module.named_parameters()
    yield from module.named_buffers()


def _trained(module: nn.Module) -> list[str]:
    return [name for name, parameter in module.named_parameters() if parameter.requires_grad]
