"""An adapter as the checks see it: how to make one, and the encoders that it can be grafted on."""

from __future__ import annotations

import functools
import importlib.util
from collections.abc import Callable, Generator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from medgraft.adapter import Adapter, Support
from medgraft.commands.settings import Settings
from medgraft.encoder import Encoder
from medgraft.errors import ConfigError, UnreachedError
from medgraft.grafting import Grafted
from medgraft.options import checked
from medgraft.registry import adapter_class, build_adapter, resolve_adapter
from medgraft.testing.tiny import ENCODERS, example_inputs
from medgraft.testing.tiny_language import LANGUAGE_ENCODERS, PACKED_ENCODERS
from medgraft.testing.tiny_signal import SIGNAL_ENCODERS
from medgraft.testing.training import CLASSES
from medgraft.typed.pytorch import fork_random, seed_random


@dataclass(frozen=True)
class Part:
    """One adapter of a graft.

    Attributes:
        name: Its name in the graft.
        cls: Its class.
        options: Options that the author chose.
        registered: Built through the registry, with the catalogue's defaults and ``:variant``.
    """

    name: str
    cls: type[Adapter]
    options: Mapping[str, Any]
    registered: bool

    def make(self, **changes: Any) -> Adapter:
        """A fresh adapter.

        Raises:
            ConfigError: An option does not exist or has a value out of range.
        """
        values = {**self.options, **changes}
        if self.registered:
            return build_adapter(self.name, values)
        return self.cls(checked(self.cls.Config, values, f"options of adapter {self.name!r}"))


@dataclass
class Trial:
    """How an encoder and the adapter went together.

    Attributes:
        support: The adapter's answer; ``None`` if it raised.
        width: Width of what a head reads, the pooled features of all towers side by side; 0 if the graft did not run.
        error: What grafting, or the first run, raised.
    """

    support: Support | None = None
    width: int = 0
    error: Exception | None = None


@contextmanager
def restored_settings(before: Settings) -> Generator[None]:
    """Undoes what an adapter under test does to those that most harm the checks that follow."""
    try:
        yield
    finally:
        facts = before.facts
        torch.set_default_dtype(facts["torch.get_default_dtype()"])
        torch.set_num_threads(facts["torch.get_num_threads()"])
        torch.set_grad_enabled(facts["torch.is_grad_enabled()"])
        torch.use_deterministic_algorithms(facts["torch.are_deterministic_algorithms_enabled()"])
        torch.set_float32_matmul_precision(facts["torch.get_float32_matmul_precision()"])


class AdapterSubject:
    """One adapter, or several joined with ``+``, and where they fit.

    Args:
        adapter: An adapter class, or a registered name.
        encoders: Name -> builder of the encoders to try.
        options: Options of the adapter; for several, one mapping per name.
    """

    def __init__(
        self,
        adapter: type[Adapter] | str,
        encoders: Mapping[str, Callable[[], Encoder]] | None,
        options: Mapping[str, Any],
    ) -> None:
        self._chosen = encoders
        self.parts = _parts(adapter, options)
        self.label = "+".join(part.name for part in self.parts)

    @functools.cached_property
    def encoders(self) -> Mapping[str, Callable[[], Encoder]]:
        """Name -> builder of the encoders to try: the caller's, or the kit's.

        Encoders of signals are among the latter for an adapter that fits none of images, volumes and texts, a language
        model for one that fits no other encoder, and one in four bits for an adapter that asks for that, where torchao
        is installed.
        """
        if self._chosen is not None:
            return dict(self._chosen)
        sets = [ENCODERS, SIGNAL_ENCODERS, LANGUAGE_ENCODERS]
        if importlib.util.find_spec("torchao") is not None:
            sets.append(PACKED_ENCODERS)
        try:
            fitting = (each for each in sets if self._fits(each))
            return dict(next(fitting, LANGUAGE_ENCODERS))
        except Exception:  # an author's code; the checks of the declaration and of supports() report it
            return dict(ENCODERS)

    def _fits(self, encoders: Mapping[str, Callable[[], Encoder]]) -> bool:
        return any(all(part.make().supports(build()) for part in self.parts) for build in encoders.values())

    def encoder(self, name: str) -> Encoder:
        """A new frozen encoder."""
        with fork_random([]):
            seed_random(0)
            return self.encoders[name]().freeze()

    def names(self) -> list[str]:
        """Names of the adapters in a graft, which writes a distribution's dots as slashes."""
        return [part.name.replace(".", "/") for part in self.parts]

    def adapters(self) -> dict[str, Adapter]:
        """Fresh adapters by name."""
        return {part.name: part.make() for part in self.parts}

    def graft(self, encoder: Encoder, case: str, seed: int = 0) -> Grafted:
        """A graft with a head on the pooled features of every tower."""
        seed_random(seed)
        kind = next((p.dtype for p in encoder.parameters() if p.is_floating_point()), torch.float32)
        head = nn.Linear(self.trials[case].width, CLASSES).to(kind)
        return Grafted(encoder, self.adapters(), head)

    def inputs(self, encoder: Encoder, size: int = 3, seed: int = 1) -> dict[str, Tensor]:
        """A prepared batch ``[B, ...]`` for each tower."""
        return example_inputs(encoder, size, seed)

    @functools.cached_property
    def trials(self) -> dict[str, Trial]:
        """What happened with each encoder, tried once."""
        with fork_random([]), restored_settings(Settings.now()):
            seed_random(0)
            return {name: self._try(name) for name in self.encoders}

    def _try(self, name: str) -> Trial:
        trial, encoder = Trial(), self.encoder(name)
        try:
            for part in self.parts:
                answer = part.make().supports(encoder)
                if trial.support is None or trial.support:
                    trial.support = answer
        except Exception as error:  # an author's code; the check of supports() reports it
            return Trial(error=error)
        if not trial.support:
            return trial
        try:
            grafted = Grafted(encoder, self.adapters()).eval()
            with torch.no_grad():
                outputs = grafted.encode(self.inputs(encoder))
            trial.width = sum(each.pooled.shape[-1] for each in outputs.values())
        except UnreachedError as error:  # graft() asks the encoder what supports() cannot know
            trial.support = Support(False, str(error))
        except Exception as error:  # an author's code; the check of attach() reports it
            trial.error = error
        return trial

    def cases(self) -> Sequence[str]:
        """Encoders on which a graft attaches and runs."""
        return [name for name, trial in self.trials.items() if trial.width]

    def without_cases(self) -> str:
        """Why there are none."""
        return "it runs on none of the encoders; see supports_something and attaches_where_it_fits"


def _parts(adapter: object, options: Mapping[str, Any]) -> list[Part]:
    if not isinstance(adapter, str):
        if not (isinstance(adapter, type) and issubclass(adapter, Adapter)):
            raise ConfigError(f"{adapter!r} is no adapter; pass a subclass of medgraft.Adapter or a registered name")
        return [Part(adapter.__name__.lower(), adapter, options, registered=False)]
    names = [name.strip() for name in adapter.split("+")]
    options_of: Callable[[str], Mapping[str, Any]] = (
        (lambda name: options) if len(names) == 1 else lambda n: options.get(n, {})
    )
    if len(names) > 1 and (unknown := sorted(set(options) - set(names))):
        raise ConfigError(f"options of {adapter!r} go by its parts ({', '.join(names)}), and {unknown[0]!r} is none")
    return [Part(name, adapter_class(resolve_adapter(name)), options_of(name), registered=True) for name in names]
