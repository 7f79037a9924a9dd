"""Rules about numbers: the same whatever way they are computed."""

from __future__ import annotations

import math
import unittest
import warnings
from collections.abc import Callable, Mapping

import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint  # pyright: ignore[reportUnknownVariableType]

from medgraft.fast.compiling import compiled
from medgraft.features import Features
from medgraft.grafting import Grafted
from medgraft.testing.adapter_rules.subject import AdapterSubject
from medgraft.testing.check import Rule, require, rule
from medgraft.testing.snapshots import difference, outputs_of, tensors_of
from medgraft.testing.training import loss, steps
from medgraft.typed.pytorch import back_propagate, norm_along, seed_random
from medgraft.typed.values import is_a

Run = Callable[[dict[str, Tensor]], Mapping[str, Features]]
SEED_REMEDY = "Draw every random number from torch's global generator, and none in evaluation mode."


@rule("Return features.replace(...) with tokens [B, N, C], pooled [B, C] and a grid that fits the tokens.", each=True)
def features_are_well_formed(subject: AdapterSubject, case: str) -> None:
    """The graft's features are finite, one row per sample, and their grid fits the tokens."""
    encoder = subject.encoder(case)
    grafted = subject.graft(encoder, case).eval()
    with torch.no_grad():
        outputs = grafted.encode(subject.inputs(encoder))
    for tower, features in outputs.items():
        require(is_a(features, Features), f"the {tower} tower returns a {type(features).__name__}")
        B, N = features.tokens.shape[:2]
        require(features.tokens.ndim == 3 and B == 3, f"{tower} tokens have shape {list(features.tokens.shape)}")
        require(features.pooled.shape[:-1] == (3,), f"{tower} pooled has shape {list(features.pooled.shape)}")
        places = math.prod(features.grid) + features.n_prefix
        require(places == N, f"{tower} has {N} tokens, and grid {features.grid} with {features.n_prefix} before it")
        for name, value in tensors_of({tower: features}).items():
            require(value.isfinite().all(), f"{name} is not finite")
        if features.embedding is not None:
            length = norm_along(features.embedding.float(), -1)
            require((length - 1).abs().max() < 1e-3, f"{tower} embedding has length {length.max():.3g}, not 1")


@rule(SEED_REMEDY, each=True)
def a_seed_fixes_everything(subject: AdapterSubject, case: str) -> None:
    """One seed gives one start and one training, and evaluation repeats itself."""
    runs: list[tuple[dict[str, Tensor], dict[str, Tensor]]] = []
    for _ in range(2):
        encoder = subject.encoder(case)
        inputs = subject.inputs(encoder)
        grafted = subject.graft(encoder, case, seed=3)
        start = outputs_of(grafted, inputs)
        changed = difference(start, outputs_of(grafted, inputs))
        require(not changed, f"two runs of one graft in evaluation mode differ: {changed}")
        steps(grafted, inputs, n=1)
        runs.append((start, outputs_of(grafted, inputs)))
    (start, trained), (other, again) = runs
    require(not (changed := difference(start, other)), f"two fresh grafts with one seed differ: {changed}")
    require(not (changed := difference(trained, again)), f"two trainings with one seed differ: {changed}")


@rule("Use no statistics across samples in evaluation mode, such as batch norm without running ones.", each=True)
def samples_do_not_see_each_other(subject: AdapterSubject, case: str) -> None:
    """In evaluation mode a sample's features do not depend on its neighbours in the batch."""
    encoder = subject.encoder(case)
    inputs = subject.inputs(encoder)
    grafted = subject.graft(encoder, case)
    steps(grafted, inputs, n=2)
    together = outputs_of(grafted, inputs)
    alone = outputs_of(grafted, {name: x[:1] for name, x in inputs.items()})
    # Matrix products of another size sum in another order; 1e-4 is a thousand roundings of float32.
    changed = difference({name: value[:1] for name, value in together.items()}, alone, atol=1e-5, rtol=1e-4)
    require(not changed, f"a sample alone and in its batch differ: {changed}")


@rule("Call attachment.record() with every site that changes, so that the first stage is known.", each=True)
def the_first_stage_is_true(subject: AdapterSubject, case: str) -> None:
    """A run from the first stage that the adapter says it changes gives what a whole run gives."""
    encoder = subject.encoder(case)
    inputs = subject.inputs(encoder)
    trial = subject.graft(encoder, case)
    first = trial.first_stage()
    trial.ungraft()
    with torch.no_grad():
        kept: dict[str, Tensor | Features] = {}
        for name, tower in encoder.towers().items():
            if first[name] < tower.n_stages:
                kept[name] = tower.prefix(inputs[name], first[name])
            else:
                kept[name] = tower(inputs[name], scores=tower.has_scores)
        grafted = subject.graft(encoder, case)
        steps_from = {name: stage for name, stage in first.items() if isinstance(kept[name], Tensor)}
        with torch.enable_grad():
            steps(grafted, inputs, n=1)
        whole = outputs_of(grafted, inputs)
        resumed = tensors_of(grafted.encode(kept, steps_from))
    changed = difference(whole, resumed, atol=1e-5, rtol=1e-4)
    require(not changed, f"from its first stage ({first}) and whole, a run differs: {changed}")


def _gradients(grafted: Grafted, inputs: dict[str, Tensor], run: Run) -> dict[str, Tensor]:
    seed_random(5)  # the same dropout masks
    grafted.zero_grad()
    value = loss(grafted, run(inputs))
    back_propagate(value)
    named = {name: p.grad.clone() for name, p in grafted.named_parameters() if p.grad is not None}
    return {"the loss": value.detach(), **{f"the gradient of {name}": grad for name, grad in named.items()}}


@rule("Do the same in every forward pass: change no state that the next one reads.", each=True)
def gradient_checkpointing_agrees(subject: AdapterSubject, case: str) -> None:
    """Gradient checkpointing changes neither the loss nor a gradient."""
    encoder = subject.encoder(case)
    inputs = subject.inputs(encoder)
    grafted = subject.graft(encoder, case).train()
    steps(grafted, inputs, n=1)
    expected = _gradients(grafted, inputs, grafted.encode)
    got = _gradients(grafted, inputs, lambda batch: checkpoint(grafted.encode, batch, use_reentrant=False))
    # The recomputation repeats the same kernels; gradients may be summed in another order.
    changed = difference(expected, got, atol=1e-7, rtol=1e-4)
    require(not changed, f"with gradient checkpointing {changed}")


@rule("Let autocast choose the precision: no .float() or .half() on what is added to the encoder's tensors.", each=True)
def autocast_agrees(subject: AdapterSubject, case: str) -> None:
    """Under bfloat16 autocast the features are those of full precision, to its rounding, and training runs."""
    encoder = subject.encoder(case)
    inputs = subject.inputs(encoder, size=6)
    grafted = subject.graft(encoder, case)
    steps(grafted, inputs, n=1)
    full = outputs_of(grafted, inputs)
    with torch.autocast("cpu", torch.bfloat16):
        half = outputs_of(grafted, inputs)
    for name, expected in full.items():
        size = norm_along(expected.flatten(1), 1).clamp(min=1e-6)
        gap = (norm_along((half[name].float() - expected).flatten(1), 1) / size).median()
        # bfloat16 keeps 8 bits, 0.4% per rounding, and a tower chains some tens of them. The median over samples,
        # because a discrete choice (a top-k, an expert) may fall the other way for a sample in a tie.
        require(gap < 0.08, f"under autocast {name} differs by {gap:.1%} of its size")
    with torch.autocast("cpu", torch.bfloat16):
        value = loss(grafted.train(), grafted.encode(inputs))
    if value.requires_grad:
        back_propagate(value)


@rule("Make tensors in the type of what they meet (x.new_zeros, dtype=x.dtype), never in a fixed one.", each=True)
def float64_works(subject: AdapterSubject, case: str) -> None:
    """On an encoder in float64 the adapter attaches, runs and trains, and the features stay float64."""
    encoder = subject.encoder(case).double()
    inputs = subject.inputs(encoder)
    grafted = subject.graft(encoder, case)
    steps(grafted.double(), {name: x.double() if x.is_floating_point() else x for name, x in inputs.items()}, n=1)
    outputs = outputs_of(grafted, {n: x.double() if x.is_floating_point() else x for n, x in inputs.items()})
    narrow = [name for name, value in outputs.items() if value.dtype != torch.float64]
    require(not narrow, f"{', '.join(narrow)} is not float64")


MANY_PIECES = 8
"""Graphs from one forward pass above which tracing takes seconds for each kind of encoder."""


@rule("Keep data-dependent Python control flow and shadowed attributes out of the forward pass.")
def compilation_agrees(subject: AdapterSubject) -> None:
    """Compilation gives eager mode's numbers, gradients included, on one encoder per kind of attention.

    The backend is ``eager``: it traces the forward pass, which is where hooks and shadowed forwards get lost, and needs
    no C++ compiler. The kinds are those of the encoders' last blocks; images come before volumes. What is traced in
    many pieces, as routing by values is, takes long and is tried on the first kind.
    """
    from torch._dynamo.utils import counters

    if not subject.cases():
        raise unittest.SkipTest(subject.without_cases())
    chosen: dict[str, str] = {}
    for case in subject.cases():
        towers = subject.encoder(case).towers().values()
        kind = next((tower.attention[-1].style for tower in towers if tower.attention), "none")
        chosen.setdefault(kind, case)
    if len(chosen) > 1:
        chosen.pop("none", None)  # one without attention says nothing that those with it do not
    for case in chosen.values():
        encoder = subject.encoder(case)
        inputs = subject.inputs(encoder)
        grafted = subject.graft(encoder, case)
        steps(grafted, inputs, n=1)
        grafted.eval()
        expected = _gradients(grafted, inputs, grafted.encode)
        torch.compiler.reset()
        pieces = counters["stats"]["unique_graphs"]
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of the compiler's, about itself
            got = _gradients(grafted, inputs, compiled(grafted.encode, backend="eager"))
        torch.compiler.reset()
        # The traced graph may sum in another order; 1e-4 is a thousand roundings of float32.
        changed = difference(expected, got, atol=1e-5, rtol=1e-4)
        require(not changed, f"{case}: compiled, {changed}")
        if counters["stats"]["unique_graphs"] - pieces > MANY_PIECES:
            break


RULES: tuple[Rule[AdapterSubject], ...] = (
    features_are_well_formed,
    a_seed_fixes_everything,
    samples_do_not_see_each_other,
    the_first_stage_is_true,
    gradient_checkpointing_agrees,
    autocast_agrees,
    float64_works,
    compilation_agrees,
)
