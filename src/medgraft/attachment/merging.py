"""Merging adapters into an encoder's weights, where a numerical check agrees.

Folding a change of a layer's output into its weight presumes that the layer multiplies by its weight as stored.
Weight-standardised convolutions (BiT, NF-Net), spectral norm, weight norm and other parametrisations do not, and a
weight that two modules share changes both. So each layer is run on a generated input before and after, and the whole
graft too; where they differ by more than rounding, everything is put back.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Generator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from medgraft.adapter import Adapter
from medgraft.attachment.blank_run import blank_batch
from medgraft.encoder import Encoder
from medgraft.encoder.sites import LINEAR, Site
from medgraft.encoder.stored import is_packed, weight_bits, weight_of
from medgraft.errors import ConfigError, MergeError
from medgraft.features import Features
from medgraft.typed.pytorch import fork_random, named_modules, own_parameters, seed_random
from medgraft.typed.values import is_a

logger = logging.getLogger(__name__)

Run = Callable[[Mapping[str, Tensor]], Mapping[str, Features]]
LAYERS = ("projection", "layer", "norm", "branch")
ROUNDINGS = 128
"""Roundings of the type that sums are made in; 1.5e-5 in float32, for sums of some thousand products."""
ROUNDINGS_OF_HALVES = 4
"""Roundings of half-precision weights and results, whose sums are made in float32; 3% in bfloat16, 0.4% in float16."""
DEPTH = {True: 4, False: 64}
"""How much rounding may grow on the way to the features: by what is stored in half precision, or not."""


class _Untrained(torch.autograd.Function):
    """The identity, whose backward pass says that nothing is trained behind it."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, token: Tensor, training: bool) -> Tensor:
        ctx.training = training
        return x.view_as(x)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Any:  # pyright: ignore[reportIncompatibleMethodOverride]
        if ctx.training or not ctx.needs_input_grad[0]:
            raise ConfigError(
                "this graft is merged, so its adapters get no gradient; unmerge() before training, or run it under "
                "torch.no_grad() to train only what reads its features"
            )
        return gradients[0], None, None


def untrained(features: Features, training: bool) -> Features:
    """Features of a merged graft, whose backward pass ends in an error.

    Gradients of the input pass in evaluation mode (saliency maps).

    Args:
        features: As the merged encoder returns them.
        training: Whether the graft is in training mode.
    """
    if not torch.is_grad_enabled() or torch.compiler.is_compiling():
        return features
    token = torch.zeros((), requires_grad=True)
    parts = ("tokens", "pooled", "embedding", "cls_scores", "cls_probs")
    tensors = {part: value for part in parts if (value := getattr(features, part)) is not None}
    return features.replace(**{part: _Untrained.apply(value, token, training) for part, value in tensors.items()})


class LayerCheck:
    """Results of single layers on generated inputs: what came in when the encoder ran, and noise of the same size.

    Args:
        encoder: Adapters attached.
        sites: The layers; others that share a parameter with one of them are checked too.
    """

    def __init__(self, encoder: Encoder, sites: Mapping[str, Site]) -> None:
        self.modules: dict[nn.Module, str] = {}
        for site in sites.values():
            if site.path:
                self.modules.setdefault(encoder.get_submodule(site.path), site.name)
        self.named = list(self.modules)
        inside = {part for module in self.modules for part in module.modules()}
        shared = {id(p): name for module, name in self.modules.items() for p in module.parameters()}
        for path, module in named_modules(encoder):
            mine = [shared[id(p)] for p in own_parameters(module).values() if p is not None and id(p) in shared]
            if mine and module not in inside:
                self.modules.setdefault(module, f"{mine[0]} (its weight is that of {path} too)")
        self.calls: dict[nn.Module, tuple[tuple[Any, ...], dict[str, Any]]] = {}

    @contextmanager
    def recording(self) -> Generator[None]:
        """Notes the first call of each layer."""
        with ExitStack() as stack:
            for module in self.modules:
                stack.callback(module.register_forward_pre_hook(self._record, with_kwargs=True).remove)
            yield

    def _record(self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        if module not in self.calls:
            self.calls[module] = _noisy(args, kwargs)

    def fill_in(self) -> None:
        """Makes inputs for linear maps and convolutions at sites that did not run, by their shapes."""
        for module in self.named:
            if module in self.calls or not isinstance(module, LINEAR):
                continue
            weight = module.weight
            if isinstance(module, nn.Linear):
                shape = (2, module.in_features)
            else:
                reach = [
                    2 * (taps - 1) * gap + 1 for taps, gap in zip(module.kernel_size, module.dilation, strict=True)
                ]
                shape = (2, module.in_channels, *reach)
            # A quantised layer may hold something else there.
            if isinstance(weight, Tensor) and weight.is_floating_point():  # pyright: ignore[reportUnnecessaryIsInstance]
                self.calls[module] = ((torch.randn(shape, dtype=weight.dtype, device=weight.device),), {})

    def results(self) -> dict[str, tuple[Tensor, float]]:
        """Layer -> its result, which has any shape, and the relative size of rounding there."""
        results: dict[str, tuple[Tensor, float]] = {}
        for module, (args, kwargs) in self.calls.items():
            output = module(*args, **kwargs)
            value = output[0] if is_a(output, tuple | list) else output
            if isinstance(value, Tensor) and value.is_floating_point():
                stored = [p.dtype for p in module.parameters() if p.is_floating_point()]
                results[self.modules[module]] = (value.clone(), tolerance(value.dtype, *stored))
        return results


def tolerance(*types: torch.dtype) -> float:
    """Relative size of what rounding may do to the result of one layer; that of the coarsest of its types.

    Example:
        >>> tolerance(torch.float32), tolerance(torch.float32, torch.bfloat16)
        (1.52587890625e-05, 0.03125)
    """
    return max(torch.finfo(t).eps * (ROUNDINGS_OF_HALVES if _half(t) else ROUNDINGS) for t in types)


def _half(dtype: torch.dtype) -> bool:
    return torch.finfo(dtype).bits < 32


def _noisy(args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """The same arguments, with noise on the first tensor wherever it occurs (a query that is key and value too)."""
    tensors = [v for v in (*args, *kwargs.values()) if isinstance(v, Tensor) and v.is_floating_point()]
    if not tensors:
        return args, kwargs
    first = tensors[0]
    size = first.float().std(correction=0).nan_to_num(0.0).clamp_min(1e-3) if first.numel() else 1.0
    noisy = (first + torch.randn_like(first) * size).to(first.dtype)

    def kept(value: Any) -> Any:
        return noisy if value is first else value.clone() if isinstance(value, Tensor) else value

    seen: dict[int, Any] = {}
    swap = [seen.setdefault(id(value), kept(value)) for value in (*args, *kwargs.values())]
    return tuple(swap[: len(args)]), dict(zip(kwargs, swap[len(args) :], strict=True))


def gap(before: Tensor, after: Tensor) -> tuple[float, float]:
    """Largest difference of two results of any shape, and the size of the first.

    The difference is infinite where one of them alone is not finite, or their shapes differ.
    """
    if before.shape != after.shape:
        return float("inf"), 0.0
    if before.numel() == 0:
        return 0.0, 0.0
    a, b = before.double(), after.double()
    same = (a == b) | (a.isnan() & b.isnan())
    apart = torch.where(same, 0.0, a - b).abs().nan_to_num(torch.inf, torch.inf)
    finite = a[a.isfinite()]
    return float(apart.max()), float(finite.abs().max()) if finite.numel() else 0.0


@contextmanager
def exact(device: torch.device) -> Generator[None]:
    """No autocast, no TF32, no graph, and the caller's random state untouched."""
    matmul, cudnn = torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32
    cuda = device.type == "cuda"
    with fork_random([device] if cuda else []), torch.no_grad():
        seed_random(0)
        if cuda:
            torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = False
        try:
            with torch.autocast(device.type, enabled=False):
                yield
        finally:
            if cuda:
                torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32 = matmul, cudnn


def merge_checked(
    encoder: Encoder,
    adapters: Mapping[str, Adapter],
    hits: Mapping[str, list[str]],
    sites: Mapping[str, Site],
    run: Run,
) -> None:
    """Merges adapters one after another, in the order in which they act, and compares before with after.

    Args:
        encoder: Adapters attached, in evaluation mode.
        adapters: By name; each says that it can be merged.
        hits: Adapter -> names of its sites.
        sites: ``encoder.sites()`` from before the adapters.
        run: Modality -> batch, to modality -> features; the graft's own.

    Raises:
        MergeError: The merged encoder is not the unmerged graft to within rounding, or an adapter fails to merge;
            every weight is what it was then.
        ConfigError: A weight is quantised, or lies elsewhere until its layer runs.
    """
    names = {hit for matches in hits.values() for hit in matches if hit in sites}
    _refuse_unwritable(encoder, [sites[name] for name in sorted(names)])
    towers = {sites[hit].tower for hit in names}
    inputs: dict[str, Tensor] = {}
    with exact(encoder.device):
        for i, (name, tower) in enumerate(encoder.towers().items()):
            if name in towers or (i == 0 and "" in towers):
                blank = blank_batch(tower)
                inputs[name] = blank + torch.randn_like(blank) if blank.is_floating_point() else blank
        check = LayerCheck(encoder, {hit: sites[hit] for hit in sorted(names) if sites[hit].kind in LAYERS})
        with check.recording():
            whole = _try(run, inputs)
            _project(encoder, whole)  # calls the layers that only a shared space reads
        if not whole:
            check.calls.clear()
        check.fill_in()
        layers, trained = check.results(), _prints(adapters)
        stored = {name: _print(p) for name, p in _values(encoder).items()}
        merged: list[Adapter] = []
        try:
            for name, adapter in adapters.items():
                merged.append(adapter)
                _merge_one(name, adapter)
            if changed := [name for name, value in _prints(adapters).items() if value != trained[name]]:
                raise MergeError(f"merging writes into {changed[0]!r}, which an adapter of the graft trains itself")
            _compare_layers(encoder, layers, check.results())
            _compare_features(encoder, whole, run(inputs) if whole else {})
        except BaseException:
            for adapter in reversed(merged):
                adapter.unmerge()
            left = [name for name, value in _values(encoder).items() if _print(value) != stored.get(name)]
            if left:
                raise MergeError(
                    f"merging failed, and unmerge() left {left[0]} of the encoder changed; build the encoder again"
                ) from None
            raise


def _refuse_unwritable(encoder: Encoder, sites: Sequence[Site]) -> None:
    for site in sites:
        module = encoder.get_submodule(site.path)
        if site.kind not in ("projection", "layer") or not isinstance(getattr(module, "weight", None), Tensor):
            continue
        if is_packed(weight_of(module)) or weight_of(module).is_meta:
            stored = f"stored in {weight_bits(module)} bits" if is_packed(weight_of(module)) else "loaded for each call"
            raise ConfigError(
                f"cannot merge at {site.name} of encoder {encoder.spec.name!r}: its weight is {stored}, so no update "
                "can be added to it; use the graft unmerged, or load the adapter on the base in full "
                "precision and merge there"
            )


def _merge_one(name: str, adapter: Adapter) -> None:
    try:
        adapter.merge()
    except ConfigError:
        raise
    except Exception as error:  # quantised and subclassed weights refuse arithmetic in their own ways
        raise MergeError(
            f"cannot merge {name}: {type(error).__name__}: {' '.join(str(error).split())[:240]}"
        ) from error


def _compare_layers(
    encoder: Encoder, before: Mapping[str, tuple[Tensor, float]], after: Mapping[str, tuple[Tensor, float]]
) -> None:
    for name, (value, allowed) in before.items():
        apart, size = gap(value, after[name][0])
        if not apart <= allowed * size:
            raise MergeError(
                f"cannot merge at {name} of encoder {encoder.spec.name!r}: its result would change by {apart:.3g} "
                f"where {allowed * size:.3g} is rounding: the layer does not multiply by its weight as stored (weight "
                "standardisation, spectral norm), shares it, or its adapters do not fold together; use the graft "
                "unmerged, or leave the site out"
            )


def _compare_features(encoder: Encoder, before: Mapping[str, Features], after: Mapping[str, Features]) -> None:
    half = any(_half(p.dtype) for p in encoder.parameters() if p.is_floating_point())
    for name, features in before.items():
        for part in ("tokens", "pooled"):
            value = getattr(features, part)
            allowed = tolerance(value.dtype, encoder.dtype) * DEPTH[half]
            apart, size = gap(value, getattr(after[name], part))
            if not apart <= allowed * size:
                raise MergeError(
                    f"cannot merge into encoder {encoder.spec.name!r}: no single layer changes, but the {name} tower's "
                    f"{part} would by {apart:.3g} where {allowed * size:.3g} is rounding; use the graft unmerged"
                )


def _try(run: Run, inputs: Mapping[str, Tensor]) -> Mapping[str, Features]:
    """What the graft gives; nothing where the encoder's facts do not describe what it takes."""
    try:
        return run(inputs)
    except (MemoryError, torch.OutOfMemoryError):
        raise
    except Exception as error:  # an encoder of any library
        logger.warning("the graft does not run on a generated sample (%s); its layers alone are compared", error)
        return {}


def _project(encoder: Encoder, outputs: Mapping[str, Features]) -> None:
    for name, features in outputs.items():
        try:
            encoder.towers()[name].project(features.pooled)
        except Exception as error:  # an adapter may give the pooled features another width
            logger.debug("%s: its pooled features cannot be projected (%s)", name, error)


def _values(encoder: nn.Module) -> dict[str, Tensor]:
    return dict([*encoder.named_parameters(), *encoder.named_buffers()])


def _prints(adapters: Mapping[str, Adapter]) -> dict[str, Any]:
    return {f"{name}.{key}": _print(p) for name, adapter in adapters.items() for key, p in adapter.named_parameters()}


def _print(value: Tensor) -> int:
    """A number that changes with any bit, short of contrived exchanges; no copy of the tensor is made."""
    kind = {1: torch.int8, 2: torch.int16, 4: torch.int32, 8: torch.int64}.get(value.element_size())
    if kind is None or type(value.data) is not Tensor or value.is_complex():
        return 0
    flat = value.detach().contiguous().view(-1).view(kind)
    return hash((int(flat.sum(dtype=torch.int64)), int(flat[::3].sum(dtype=torch.int64)), tuple(value.shape)))
