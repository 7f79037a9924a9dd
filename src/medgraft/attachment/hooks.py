"""What an attachment hangs on an encoder's modules: hooks and shadowed attributes that are copied with their graft.

Each hook is an object that knows its attachment, so that a copy or a pickle of a graft has hooks of its own, which
reach the copy's adapter. An adapter computes in the type of its own parameters: where it is trained in float32 on an
encoder in bfloat16, tensors are widened on their way in and narrowed on their way out. Autocast chooses types itself.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from medgraft.attachment.portable import Portable, portable
from medgraft.encoder.attention import mha_forward
from medgraft.errors import ConfigError
from medgraft.features import Features
from medgraft.typed.pytorch import own_parameters

if TYPE_CHECKING:
    from medgraft.attachment.attachment import Attachment


HALVES = (torch.bfloat16, torch.float16)


def add_rows(output: Tensor, delta: Tensor, rows: slice | None) -> Tensor:
    """``output + delta``, where ``delta`` may belong to some rows of a packed weight only.

    Out of place, because the library may have saved ``output`` for its own backward pass.

    Args:
        output: ``[..., out]``; of any shape where ``rows`` is ``None``.
        delta: Of the same shape, or ``[..., rows.stop - rows.start]``.
        rows: Where ``delta`` belongs in the last axis of ``output``; ``None`` for all of it.

    Raises:
        ConfigError: The sum has another shape than ``output``, by broadcasting.
    """
    if rows is not None:
        delta = nn.functional.pad(delta, (rows.start, output.shape[-1] - rows.stop))
    changed = output + delta
    if changed.shape != output.shape:
        raise ConfigError(f"an adapter adds {list(delta.shape)} to a layer's output of {list(output.shape)}")
    return changed


def in_type(value: Any, kind: torch.dtype) -> Any:
    """A floating-point tensor, or features, in another type; anything else as it is."""
    if isinstance(value, Tensor):
        return value.to(kind) if value.is_floating_point() else value
    if isinstance(value, Features):
        parts = {field.name: in_type(getattr(value, field.name), kind) for field in dataclasses.fields(value)}
        return Features(**parts)
    return value


def do_nothing(module: nn.Module, args: tuple[Any, ...]) -> None:
    """A hook whose being there is what counts."""


class Hook(Portable):
    """Base of the hooks.

    Attributes:
        owner: The attachment that it belongs to.
        function: What the adapter gave.
    """

    def __init__(self, owner: Attachment, function: Callable[..., Any]) -> None:
        self.owner, self.function = owner, function

    def run(self, *inputs: Any) -> Any:
        """The adapter's function, computed in the adapter's type, its result in that of the first input."""
        first = inputs[0].tokens if isinstance(inputs[0], Features) else inputs[0]
        if first.dtype not in HALVES or torch.is_autocast_enabled(first.device.type):
            return self.function(*inputs)
        kind = self.owner.kind or first.dtype
        return in_type(self.function(*(in_type(each, kind) for each in inputs)), first.dtype)


class AddToOutput(Hook):
    """``module(x) + function(x)``, on some rows."""

    def __init__(self, owner: Attachment, function: Callable[..., Any], rows: slice | None) -> None:
        super().__init__(owner, function)
        self.rows = rows

    def __call__(self, module: nn.Module, args: tuple[Any, ...], output: Tensor) -> Tensor:
        """Adds to what the module returned, ``[..., out]`` or a feature map ``[B, C, *size]``."""
        change = self.run(args[0])
        return output if change is None else add_rows(output, change, self.rows)


class MapOutput(Hook):
    """``function(module(x))``; of a tuple, its first element."""

    def __call__(self, module: nn.Module, args: tuple[Any, ...], output: Any) -> Any:
        """Maps what the module returned."""
        return (self.run(output[0]), *output[1:]) if isinstance(output, tuple) else self.run(output)


class MapBlockInput(Hook):
    """``block(function(x))``."""

    def __call__(self, module: nn.Module, args: tuple[Any, ...]) -> tuple[Any, ...]:
        """Maps what the block reads."""
        return self.run(args[0]), *args[1:]


class EnterBranch(Hook):
    """Keeps what a branch reads until :class:`LeaveBranch` takes it."""

    def __init__(self, owner: Attachment, function: Callable[..., Any]) -> None:
        super().__init__(owner, function)
        self.waiting: list[Tensor] = []

    def __call__(self, module: nn.Module, args: tuple[Any, ...]) -> None:
        """Notes what the branch reads."""
        self.waiting[:] = [args[0]]

    def __getstate__(self) -> dict[str, Any]:
        return {**super().__getstate__(), "waiting": []}


class LeaveBranch(Hook):
    """``branch(x) + function(x)`` at a branch's last part."""

    def __init__(self, owner: Attachment, function: Callable[..., Any], entry: EnterBranch) -> None:
        super().__init__(owner, function)
        self.entry = entry

    def __call__(self, module: nn.Module, args: tuple[Any, ...], output: Any) -> Any:
        """Adds to what the branch returned."""
        change = self.run(self.entry.waiting.pop())
        return (output[0] + change, *output[1:]) if isinstance(output, tuple) else output + change


class MapInput(Hook):
    """A tower of ``function(x)``, run from its first stage."""

    def __call__(self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[Any, Any]:
        """Maps what the tower reads."""
        if kwargs.get("start", 0) != 0 or isinstance(args[0], Features):
            raise ConfigError("an adapter changes the encoder's input, so no later stage can be computed before it")
        return (self.run(args[0]), *args[1:]), kwargs


class AskScores(Portable):
    """Asks a tower for its CLS scores."""

    def __call__(self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[Any, Any]:
        """Adds the wish to the call."""
        return args, {**kwargs, "scores": True}


class MapFeatures(Hook):
    """``function(tower(x))``."""

    def __call__(self, module: nn.Module, args: tuple[Any, ...], output: Features) -> Features:
        """Maps what the tower returned."""
        return self.run(output)


class Project(Hook):
    """``[q | k | v]`` of an ``nn.MultiheadAttention`` as ``function(x, [q | k | v])``."""

    def __init__(self, owner: Attachment, function: Callable[..., Any], module: nn.MultiheadAttention) -> None:
        super().__init__(owner, function)
        self.module = module

    def __call__(self, x: Tensor) -> Tensor:
        """Packed projections ``[..., 3C]`` of ``x``."""
        packed = nn.functional.linear(x, self.module.in_proj_weight, self.module.in_proj_bias)
        return self.run(x, packed)


class MhaForward(Portable):
    """Forward of an ``nn.MultiheadAttention`` that multiplies by no packed weight itself."""

    def __init__(self, module: nn.MultiheadAttention, path: str, project: Project) -> None:
        self.module, self.path, self.project = module, path, project

    def __call__(
        self,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        key_padding_mask: Tensor | None = None,
        need_weights: bool = True,
        attn_mask: Tensor | None = None,
        average_attn_weights: bool = True,
        is_causal: bool = False,
    ) -> tuple[Tensor, Tensor | None]:
        """As the module's own forward, for self-attention.

        ``query`` is ``[B, N, C]`` (``[N, B, C]`` unless the module has the batch first), and so is the first result.
        The second is ``None``, or the probabilities: ``[B, N, N]``, ``[B, heads, N, N]`` where they are not averaged.
        """
        if key is not query or value is not query or key_padding_mask is not None:
            raise ConfigError(f"adapters on {self.path} cover self-attention without key_padding_mask only")
        x = query if self.module.batch_first else query.transpose(0, 1)
        return mha_forward(self.module, self.project(x), attn_mask, need_weights, average_attn_weights)


# -- changes, and how to undo them ------------------------------------------------------------------------------------


class Change(Portable):
    """One thing done to an encoder; made again and undone any number of times."""

    def make(self, encoder: nn.Module) -> None:
        """Does it."""
        raise TypeError(f"{type(self).__name__} must implement make()")

    def undo(self) -> None:
        """Undoes it."""
        raise TypeError(f"{type(self).__name__} must implement undo()")

    def belong_to(self, owner: Attachment) -> None:
        """Another attachment takes it over."""
        return


class Hang(Change):
    """Registers a hook on a module.

    Args:
        place: Path of the module, found anew each time since another adapter may replace it, or the module.
        hook: The hook.
        before: In front of the module's forward.
        keywords: It takes keyword arguments.
    """

    def __init__(self, place: str | nn.Module, hook: Any, *, before: bool = False, keywords: bool = False) -> None:
        self.place, self.hook, self.before, self.keywords = place, hook, before, keywords
        self.handle: Any = None

    def belong_to(self, owner: Attachment) -> None:
        """The hook computes in the type of another attachment's adapter."""
        if isinstance(self.hook, Hook | FitSubstitutes):
            self.hook.owner = owner

    def make(self, encoder: nn.Module) -> None:
        """Registers it behind those that are there."""
        module = encoder.get_submodule(self.place) if isinstance(self.place, str) else self.place
        if self.before:
            self.handle = module.register_forward_pre_hook(self.hook, with_kwargs=self.keywords)
        else:
            self.handle = module.register_forward_hook(self.hook, with_kwargs=self.keywords)

    def undo(self) -> None:
        """Removes it."""
        self.handle.remove()


class Shadow(Change):
    """Shadows an attribute of one module instance."""

    def __init__(self, module: nn.Module, name: str, value: Any) -> None:
        self.module, self.name, self.value = module, name, portable(value)

    def belong_to(self, owner: Attachment) -> None:
        """A projection computes in the type of another attachment's adapter."""
        if isinstance(self.value, Hook):
            self.value.owner = owner

    def make(self, encoder: nn.Module) -> None:
        """Sets it.

        Raises:
            ConfigError: Something shadows it already.
        """
        if self.name in self.module.__dict__:
            raise ConfigError(
                f"{type(self.module).__name__}.{self.name} is already changed by another adapter; ungraft it first"
            )
        object.__setattr__(self.module, self.name, self.value)

    def undo(self) -> None:
        """Removes it."""
        object.__delattr__(self.module, self.name)


class Substitute(Shadow):
    """A trained parameter in the place of an encoder's own, in the type of the one that it stands for."""

    def fit(self) -> None:
        """Brings what stands there up to date: the parameter, or its value in the narrower type of the encoder.

        Autocast brings both to one type itself.
        """
        parameter, stands = own_parameters(self.module)[self.name], self.value
        if (
            parameter is not None
            and parameter.dtype != stands.dtype
            and not torch.is_autocast_enabled(parameter.device.type)
        ):
            stands = stands.to(parameter.dtype)
        if self.module.__dict__[self.name] is not stands:
            object.__setattr__(self.module, self.name, stands)

    def settle(self) -> None:
        """Puts the parameter itself there, which a copy can have."""
        if self.name in self.module.__dict__:
            object.__setattr__(self.module, self.name, self.value)


class FitSubstitutes(Portable):
    """Before a tower runs, what stands for its parameters is brought to their type."""

    def __init__(self, owner: Attachment) -> None:
        self.owner = owner

    def __call__(self, module: nn.Module, args: tuple[Any, ...]) -> None:
        """Fits all of the attachment's."""
        for substitute in self.owner.substitutes():
            substitute.fit()


class Callback(Change):
    """What an adapter undoes, and brings back, itself."""

    def __init__(self, undo: Callable[[], None], redo: Callable[[], None] | None) -> None:
        self.undoing, self.redoing, self.done = undo, redo, False

    def make(self, encoder: nn.Module) -> None:
        """Brings the change back, but not the first time, when the adapter has made it or is about to."""
        if self.done and self.redoing is not None:
            self.redoing()
        self.done = True

    def undo(self) -> None:
        """Restores the encoder."""
        self.undoing()
