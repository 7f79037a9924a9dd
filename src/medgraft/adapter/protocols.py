"""What an adapter may do beside attaching: one small protocol per concern, which the harness asks for by name.

An adapter offers one by having its method; nothing needs to be inherited. ``isinstance(adapter, HasDiagnostics)``
is the question, and the functions below give what holds for the adapters that do not answer it.
"""

from __future__ import annotations

from collections.abc import Generator, Mapping
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol, runtime_checkable

from torch import Tensor

from medgraft.encoder import Encoder
from medgraft.features import Condenser, Features
from medgraft.schedule import ONE_PHASE, Phase

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from medgraft.adapter.support_set import SupportSet

EARLIER_NAMES: Mapping[str, str] = {
    "condenser": "precompute",
    "enter_stage": "enter_phase",
    "evidence": "extra_logits",
    "joining_prompts": "prompt_ensemble",
    "make_room": "resize_for_load",
    "meet_classes": "fit_classes",
    "own_prompts": "class_prompts",
    "report": "diagnostics",
    "reset_report": "reset_diagnostics",
    "row_wise": "token_wise",
    "schedule": "phases",
    "tell_tasks": "set_task_ids",
}
"""Name in earlier versions -> name of today. Either works, on adapters and of adapters; see :class:`EarlierNames`."""


@runtime_checkable
class TrainsInPhases(Protocol):
    """Trains different parameters one after another."""

    def phases(self) -> tuple[Phase, ...]:
        """The phases in order; asked for after ``attach``, so that parameters can be named.

        Heads train in every phase. A method with several phases may be trained jointly all the same: nothing but a
        harness that runs the phases ever calls ``enter_phase``.
        """
        ...


@runtime_checkable
class EntersPhases(Protocol):
    """Switches parts of itself on or off from phase to phase."""

    def enter_phase(self, phase: str | None) -> None:
        """Called where a phase begins, by its name, and with ``None`` when training is over.

        Whoever runs the phases sets ``requires_grad``.
        """
        ...


@runtime_checkable
class TakesTaskIds(Protocol):
    """Learns which task each sample belongs to, for training and for diagnostics; no prediction may depend on it."""

    def set_task_ids(self, tasks: Tensor | None) -> None:
        """Task of each sample of the next batch, ``int64 [B]``; ``None`` where samples have none."""
        ...


@runtime_checkable
class GivesSoftTokens(Protocol):
    """Makes vectors that take the place of words in front of a language model's prompt."""

    def soft_tokens(self, outputs: Mapping[str, Features]) -> tuple[Tensor, Tensor | None]:
        """Of what the graft's ``encode`` gave: soft tokens ``[B, S, C]``, and which are real ``[B, S]``."""
        ...


@runtime_checkable
class LooksAtMedia(Protocol):
    """Hangs between the blocks of a language model, which look at an image or a volume there."""

    def looking_at(self, outputs: Mapping[str, Features]) -> AbstractContextManager[None]:
        """Inside it, the language model's blocks see what the graft's ``encode`` gave, whoever calls it."""
        ...


class Asked(NamedTuple):
    """What a sample's text answers.

    Attributes:
        question: The prompt's words.
        kind: Kind of the question, such as ``closed:side``; empty where a task has none.
    """

    question: str
    kind: str = ""


@runtime_checkable
class CopiesReports(Protocol):
    """Answers with the text of a training sample, in the place of a language model."""

    def fit_reports(self, features: Tensor, reports: Sequence[str], asked: Sequence[Asked] = ()) -> None:
        """Called once before training.

        Args:
            features: Frozen ones of the training samples, ``[n, D]``.
            reports: Text of each.
            asked: What each answers; none where all answer the same.
        """
        ...

    def reports_for(self, features: Tensor, asked: Sequence[Asked] = ()) -> list[str]:
        """A text for each row of features ``[B, D]``, to what is asked of it."""
        ...

    def copied_from(self, asked: Sequence[Asked]) -> list[str]:
        """Among which training samples the text for each of these is chosen, in words."""
        ...


@runtime_checkable
class HasDiagnostics(Protocol):
    """Has numbers for the result, such as the load of experts."""

    def diagnostics(self) -> dict[str, Any]:
        """As JSON, of the samples that ran in evaluation mode since ``reset_diagnostics``."""
        ...


@runtime_checkable
class ResetsDiagnostics(Protocol):
    """Gathers its diagnostics over batches."""

    def reset_diagnostics(self) -> None:
        """Forgets what it has gathered."""
        ...


@runtime_checkable
class EnsemblesPrompts(Protocol):
    """Makes one embedding of a class's prompts itself."""

    def prompt_ensemble(self, count: int) -> AbstractContextManager[None] | None:
        """Inside it, the text tower makes ``[K, E]`` of ``K * count`` texts, ``count`` consecutive ones per class.

        ``None`` leaves the averaging of prompts to the caller.
        """
        ...


@runtime_checkable
class Precomputes(Protocol):
    """Makes something of frozen features before its first parameter, so that it is computed once and kept."""

    def precompute(self, tower: Encoder) -> Condenser | None:
        """What can be computed once of a frozen tower's features, which this adapter alone reads.

        Args:
            tower: One of the encoder's, the adapter attached.

        Returns:
            ``None`` where the first thing that touches the features is trained.
        """
        ...


@runtime_checkable
class LearnsClasses(Protocol):
    """Takes part in comparing images with class prompts; see :class:`medgraft.adapter.class_prompts.ClassAdapter`."""

    per_image: bool

    def class_prompts(self, names: Sequence[str]) -> tuple[tuple[str, ...], ...] | None:
        """Prompts of each class in the form of the method; ``None`` leaves them to the task."""
        ...

    def fit_classes(self, images: Tensor, targets: Tensor, count: int) -> None:
        """Called once before training, with unit embeddings ``[n, E]`` and classes ``int64 [n]`` of ``count``."""
        ...

    def prompting(self, classes: Tensor, images: Tensor | None) -> AbstractContextManager[None]:
        """Inside it, text ``r`` is a prompt of ``classes[r]``, ``[R]``, for image ``images[r]``, ``[R, E]``."""
        ...

    def extra_logits(self, images: Tensor) -> Tensor | None:
        """What is added to the logits ``[B, K]`` of unit embeddings ``[B, E]``; ``None`` for nothing."""
        ...

    def resize_for_load(self, shapes: Mapping[str, tuple[int, ...]]) -> None:
        """Called before a checkpoint is loaded: name in ``state_dict()`` -> shape in the file."""
        ...


@runtime_checkable
class KeepsTrainingState(Protocol):
    """Changes more in training than its parameters and buffers, and gives it, so that a killed training can go on."""

    def training_state(self) -> dict[str, Any]:
        """What it is now: texts, numbers, tensors ``[...]``, and lists and dictionaries of them by text."""
        ...

    def restore_training_state(self, state: Mapping[str, Any]) -> None:
        """Takes back what :meth:`training_state` gave in another process; parameters and buffers are back already."""
        ...


@runtime_checkable
class ClassifiesBySupport(Protocol):
    """Classifies by labelled training features itself; see :class:`medgraft.adapter.support_adapter.SupportAdapter`."""

    reads_prompts: bool

    def fit_support(self, support: SupportSet) -> None:
        """Called once before training, with the frozen features ``[n, D]`` of the training samples."""
        ...

    def support_logits(self, features: Tensor) -> Tensor:
        """Logits ``[B, K]`` of features ``[B, D]``, in the place of a linear head or of class prompts."""
        ...


@runtime_checkable
class HeldToPrompts(Protocol):
    """Learns prompts of classes and is held to written ones by a term of the loss."""

    def fit_prompts(
        self,
        embed: Callable[[Sequence[str]], Tensor],
        names: Sequence[str],
        prompts: Sequence[Sequence[str]],
    ) -> None:
        """Called once before training.

        Args:
            embed: Texts -> unit embeddings ``[R, E]``, by the text tower with what hangs in it now.
            names: Of the classes.
            prompts: The task's prompts of each.
        """
        ...

    def prompt_loss(self, classes: Tensor, images: Tensor, logits: Tensor) -> Tensor | None:
        """What is added to the cross-entropy, a scalar.

        Args:
            classes: Unit embeddings of the learnt prompts ``[K, E]``.
            images: Unit embeddings of the batch ``[B, E]``.
            logits: ``[B, K]``.
        """
        ...


@runtime_checkable
class ResizesForLoad(Protocol):
    """Has tensors whose size only the training samples told."""

    def resize_for_load(self, shapes: Mapping[str, tuple[int, ...]]) -> None:
        """Called before a checkpoint is loaded: name in ``state_dict()`` -> shape in the file."""
        ...


class EarlierNames:
    """Adapters and callers of earlier versions: what they define or call under an earlier name goes on to work.

    A class that defines either name of a pair has both. What earlier versions let one call on any adapter, by
    ``super()`` too, does nothing here, as it did there.
    """

    row_wise: bool = False

    def __init_subclass__(cls, **arguments: Any) -> None:
        super().__init_subclass__(**arguments)
        for earlier, name in EARLIER_NAMES.items():
            for owner in (vars(each) for each in cls.__mro__ if each is not EarlierNames):
                if earlier in owner or name in owner:
                    if not (earlier in owner and name in owner):
                        setattr(cls, *((earlier, owner[name]) if name in owner else (name, owner[earlier])))
                    break

    def schedule(self) -> tuple[Phase, ...]:
        """Earlier name of :meth:`TrainsInPhases.phases`."""
        return ONE_PHASE

    def enter_stage(self, stage: str | None) -> None:
        """Earlier name of :meth:`EntersPhases.enter_phase`."""

    def tell_tasks(self, tasks: Tensor | None) -> None:
        """Earlier name of :meth:`TakesTaskIds.set_task_ids`, which takes ``int64 [B]``."""

    def reset_report(self) -> None:
        """Earlier name of :meth:`ResetsDiagnostics.reset_diagnostics`."""

    def report(self) -> dict[str, Any]:
        """Earlier name of :meth:`HasDiagnostics.diagnostics`."""
        return {}

    def condenser(self, tower: Encoder) -> Condenser | None:
        """Earlier name of :meth:`Precomputes.precompute`."""
        return None

    def joining_prompts(self, count: int) -> AbstractContextManager[None] | None:
        """Earlier name of :meth:`EnsemblesPrompts.prompt_ensemble`."""
        return None


def phases_of(adapter: object) -> tuple[Phase, ...]:
    """Phases in which an adapter trains; one that trains everything, for most."""
    return adapter.phases() if isinstance(adapter, TrainsInPhases) else ONE_PHASE


def enter_phase(adapter: object, phase: str | None) -> None:
    """Tells an adapter that a phase begins, or with ``None`` that training is over; most need not know."""
    if isinstance(adapter, EntersPhases):
        adapter.enter_phase(phase)


def set_task_ids(adapter: object, tasks: Tensor | None) -> None:
    """Tells an adapter the task of each sample of the next batch, ``int64 [B]``; most need not know."""
    if isinstance(adapter, TakesTaskIds):
        adapter.set_task_ids(tasks)


def diagnostics_of(adapter: object) -> dict[str, Any]:
    """An adapter's diagnostics as JSON; empty for most."""
    return adapter.diagnostics() if isinstance(adapter, HasDiagnostics) else {}


def reset_diagnostics(adapter: object) -> None:
    """Has an adapter gather its diagnostics anew."""
    if isinstance(adapter, ResetsDiagnostics):
        adapter.reset_diagnostics()


def prompt_ensemble(adapters: Sequence[object], count: int) -> AbstractContextManager[None]:
    """The context in which the first adapter that does so makes one embedding of a class's ``count`` prompts."""
    contexts = (adapter.prompt_ensemble(count) for adapter in adapters if isinstance(adapter, EnsemblesPrompts))
    return next((context for context in contexts if context is not None), nullcontext())


def soft_tokens(adapters: Sequence[object], outputs: Mapping[str, Features]) -> tuple[Tensor | None, Tensor | None]:
    """Soft tokens ``[B, S, C]`` of the first adapter that makes some, and which are real ``[B, S]``; else ``None``."""
    return next((each.soft_tokens(outputs) for each in adapters if isinstance(each, GivesSoftTokens)), (None, None))


@contextmanager
def looking_at(adapters: Sequence[object], outputs: Mapping[str, Features]) -> Generator[None]:
    """The context in which a language model's blocks look at media, by all adapters that have them do so."""
    with ExitStack() as stack:
        for each in adapters:
            if isinstance(each, LooksAtMedia):
                stack.enter_context(each.looking_at(outputs))
        yield


def precomputation_of(adapter: object, tower: Encoder) -> Condenser | None:
    """What can be computed once of a frozen tower's features that this adapter alone reads; ``None`` for most."""
    return adapter.precompute(tower) if isinstance(adapter, Precomputes) else None
