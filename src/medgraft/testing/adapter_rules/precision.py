"""Rules about types: trained in float32 on an encoder in half precision, and moved to half precision as a whole."""

from __future__ import annotations

import torch
from torch import Tensor

from medgraft.testing.adapter_rules.subject import AdapterSubject
from medgraft.testing.check import Rule, require, rule
from medgraft.testing.snapshots import outputs_of
from medgraft.testing.training import loss
from medgraft.typed.pytorch import back_propagate, norm_along

SMALL_RATE = 1e-5
"""A usual learning rate, which bfloat16 rounds away from any number above 0.003."""


@rule(
    "Connect through the Attachment's methods, which widen what your functions get and narrow what they give.",
    each=True,
)
def training_in_half_precision_moves_what_is_trained(subject: AdapterSubject, case: str) -> None:
    """On an encoder in bfloat16 what is trained is float32, a step at 1e-5 moves it, and features stay bfloat16."""
    encoder = subject.encoder(case).to(torch.bfloat16)
    grafted = subject.graft(encoder, case).train()
    inputs = {
        name: _in(x, torch.bfloat16 if next(encoder.parameters(), None) is not None else x.dtype)
        for name, x in subject.inputs(encoder).items()
    }
    adapter_parameters = {
        name: p for _, adapter in grafted.named_adapters() for name, p in adapter.named_parameters() if p.requires_grad
    }
    narrow = [name for name, parameter in adapter_parameters.items() if parameter.dtype != torch.float32]
    require(
        not narrow, f"{', '.join(narrow[:4])} is trained in {adapter_parameters[narrow[0]].dtype if narrow else ''}"
    )
    kind = next((p.dtype for p in encoder.parameters() if p.is_floating_point()), torch.float32)
    before = {name: parameter.detach().clone() for name, parameter in adapter_parameters.items()}
    optimizer = (
        torch.optim.AdamW(adapter_parameters.values(), lr=SMALL_RATE, weight_decay=0) if adapter_parameters else None
    )
    outputs = grafted.encode(inputs)
    other = [name for name, features in outputs.items() if {features.tokens.dtype, features.pooled.dtype} != {kind}]
    require(not other, f"features of an encoder in {kind} are of another type in {', '.join(other)}")
    if optimizer is None:
        return
    back_propagate(loss(grafted, outputs))
    optimizer.step()  # pyright: ignore[reportUnknownMemberType]
    for name, parameter in adapter_parameters.items():
        # Numbers beyond 100 are no longer moved by such a step in float32 either.
        reached = torch.zeros_like(parameter) if parameter.grad is None else parameter.grad
        due = (reached.abs() > 1e-6) & (before[name].abs() < 100)
        stuck = int(((parameter == before[name]) & due).sum())
        require(
            stuck == 0, f"a step at {SMALL_RATE} leaves {stuck} of {int(due.sum())} numbers of {name} where they were"
        )


@rule("Make tensors in the type of what they meet, and read parameters in it too (weight.to(x.dtype)).", each=True)
def a_graft_moves_to_half_precision(subject: AdapterSubject, case: str) -> None:
    """Moved to bfloat16 or float16 as a whole, the graft has that type, runs in it and gives about the same numbers."""
    encoder = subject.encoder(case)
    inputs = subject.inputs(encoder, size=6)
    expected = outputs_of(subject.graft(encoder, case), inputs)
    for kind in (torch.bfloat16, torch.float16):
        moved = subject.graft(subject.encoder(case), case).to(kind)
        odd = [name for name, p in moved.named_parameters() if p.is_floating_point() and p.dtype != kind]
        require(not odd, f"moved to {kind}, {', '.join(odd[:4])} is not")
        got = outputs_of(moved, {name: _in(x, kind) for name, x in inputs.items()})
        for name, value in got.items():
            require(value.dtype == kind, f"moved to {kind}, {name} is {value.dtype}")
            size = norm_along(expected[name].flatten(1), 1).clamp(min=1e-6)
            gap = (norm_along((value.float() - expected[name]).flatten(1), 1) / size).median()
            # As under autocast: a tower chains tens of roundings, and a tie may fall the other way for a sample.
            require(gap < 0.2, f"moved to {kind}, {name} differs by {gap:.1%} of its size")
        value = loss(moved.train(), moved.encode({name: _in(x, kind) for name, x in inputs.items()}))
        if value.requires_grad:
            back_propagate(value)


def _in(x: Tensor, kind: torch.dtype) -> Tensor:
    return x.to(kind) if x.is_floating_point() else x


RULES: tuple[Rule[AdapterSubject], ...] = (
    training_in_half_precision_moves_what_is_trained,
    a_graft_moves_to_half_precision,
)
