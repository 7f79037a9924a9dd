"""The second step: adapters on the encoder, and the watch over what they must leave as it is."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from medgraft.benchmarks.cell.steps.loading import Loaded
from medgraft.benchmarks.results.intact import NotIntactError, Untouched
from medgraft.fast.float8 import hold_frozen
from medgraft.grafting import Grafted
from medgraft.registry import build_adapters


@dataclass(frozen=True)
class Attached:
    """A graft, and what it must leave as it is.

    Attributes:
        loaded: What it runs on.
        grafted: The graft.
        untouched: The encoder, the data and PyTorch's settings as they were before.
    """

    loaded: Loaded
    grafted: Grafted
    untouched: Untouched

    def check_untouched(self, seed: int) -> None:
        """Raises where an adapter changed what it must leave as it is.

        Args:
            seed: Of PyTorch's random numbers.

        Raises:
            NotIntactError: It did.
        """
        self._refuse(self.untouched.problem(seed))

    def check_modes(self) -> None:
        """The cheap part of the same, after each step: that nothing of the encoder trains.

        Raises:
            NotIntactError: Something does.
        """
        self._refuse(self.untouched.encoder.mode_problem())

    def _refuse(self, problem: str) -> None:
        adapter = self.loaded.spec.adapter
        if problem:
            raise NotIntactError(
                f"adapter {adapter!r} must leave the encoder, the data and PyTorch's settings as they are, "
                f"and did not: {problem}; `medgraft check {adapter}` tries it alone"
            )

    def give_back(self) -> None:
        """Takes the adapters off and checks that the encoder is what it was; nothing can be run after it.

        Raises:
            NotIntactError: It is not.
        """
        self.grafted.ungraft()
        adapter = self.loaded.spec.adapter
        if problem := self.untouched.encoder.restored_problem():
            raise NotIntactError(
                f"adapter {adapter!r} does not give the encoder back: it has {problem}; undo every change "
                f"with attachment.on_detach(), `medgraft check {adapter}` tries it alone"
            )


def attach(loaded: Loaded) -> Attached:
    """Attaches the adapters.

    Raises:
        MedgraftError: An adapter does not fit the encoder, or changes what it must leave as it is.
    """
    spec = loaded.spec
    untouched = Untouched(loaded.encoder, loaded.data)
    torch.manual_seed(spec.seed)
    grafted = Grafted(loaded.encoder, build_adapters(spec.adapter, spec.adapter_options))
    grafted.to(spec.device)
    attached = Attached(loaded, grafted, untouched)
    attached.check_untouched(spec.seed)
    if spec.precision in ("bf16_frozen", "fp8"):
        hold_frozen(grafted.encoder, spec.precision, spec.device)
        untouched.encoder.renew()
    return attached
