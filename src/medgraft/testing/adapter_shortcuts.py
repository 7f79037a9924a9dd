"""Rules about what an adapter allows the harness to leave out: it must change no number."""

from __future__ import annotations

import torch
from torch import Tensor

from medgraft.adapter import Adapter
from medgraft.features import Features
from medgraft.forms import fast_forms
from medgraft.grafting import Grafted
from medgraft.readout import ClsReadOut
from medgraft.testing.adapter_subject import AdapterSubject
from medgraft.testing.check import Rule, require, rule
from medgraft.testing.snapshots import difference
from medgraft.testing.training import steps


def _pooled(grafted: Grafted, inputs: dict[str, Tensor | Features]) -> dict[str, Tensor]:
    """What a head on the pooled features reads, and its gradients."""
    grafted.zero_grad()
    pooled = {name: features.pooled for name, features in grafted.encode(inputs).items()}
    total = torch.stack([x.sin().mean() for x in pooled.values()]).sum()
    if total.requires_grad:
        total.backward()
    named = {name: p.grad.clone() for name, p in grafted.named_parameters() if p.grad is not None}
    found = {f"{name}.pooled": x.detach() for name, x in pooled.items()}
    return {**found, **{f"the gradient of {name}": gradient for name, gradient in named.items()}}


@rule("Set row_wise only for an adapter that treats each token by itself, affine_projections only for an affine map.",
      each=True)  # fmt: skip
def the_short_last_block_agrees(subject: AdapterSubject, case: str) -> None:
    """An adapter that claims to treat tokens one by one gives CLS the same without the last block's other rows."""
    encoder = subject.encoder(case)
    inputs = subject.inputs(encoder)
    grafted = subject.graft(encoder, case)
    steps(grafted, inputs, n=1)
    if not all(adapter.row_wise for _, adapter in grafted.named_adapters()):
        return
    read_out = ClsReadOut(grafted.eval())
    wanted = _pooled(grafted, dict(inputs))
    for run in ("the first run", "a later run"):  # the first looks whether keys and values can be folded
        with fast_forms("cpu", bf16=False, read_out=read_out):
            got = _pooled(grafted, dict(inputs))
        # Sums in another order; 1e-4 is a thousand roundings of float32.
        changed = difference(wanted, got, atol=1e-6, rtol=1e-4)
        require(not changed, f"{run} with the CLS row of the last block alone: {changed}")


@rule("Put into condenser() only what comes before the first parameter, and all options that change it into its key.",
      each=True)  # fmt: skip
def condensed_features_agree(subject: AdapterSubject, case: str) -> None:
    """What the adapter's condenser keeps of frozen features gives what the features give, gradients included."""
    encoder = subject.encoder(case)
    inputs = subject.inputs(encoder)
    grafted = subject.graft(encoder, case)
    steps(grafted, inputs, n=1)
    if all(type(adapter).condenser is Adapter.condenser for _, adapter in grafted.named_adapters()):
        return
    condensers = grafted.eval().condensers()
    whole: dict[str, Tensor | Features] = dict(inputs)
    with torch.no_grad():
        for name in condensers:
            tower = encoder.towers()[name]
            whole[name] = tower.forward(inputs[name], scores=tower.has_scores)
    small = {**whole, **{name: each.apply(whole[name]) for name, each in condensers.items()}}  # pyright: ignore
    for name, each in condensers.items():
        kept = small[name]
        require(isinstance(kept, Features), f"the condenser of the {name} tower returns a {type(kept).__name__}")
        require(
            kept.condensed in ("", each.key), f"{name} says it was condensed by {kept.condensed!r}, not {each.key!r}"
        )
    changed = difference(_pooled(grafted, whole), _pooled(grafted, small), atol=1e-6, rtol=1e-4)
    require(not changed, f"from what the condenser keeps: {changed}")


RULES: tuple[Rule, ...] = (the_short_last_block_agrees, condensed_features_agree)
