"""Rules about what an adapter allows the harness to leave out: it must change no number."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from medgraft.adapter.protocols import Precomputes
from medgraft.fast.cls_block import ClsReadOut
from medgraft.fast.forms import fast_forms
from medgraft.fast.short_texts import cut_texts
from medgraft.features import Features
from medgraft.grafting import Grafted
from medgraft.testing.adapter_rules.subject import AdapterSubject
from medgraft.testing.check import Rule, require, rule
from medgraft.testing.snapshots import difference
from medgraft.testing.training import steps
from medgraft.typed.pytorch import back_propagate


def _pooled(grafted: Grafted, inputs: dict[str, Tensor | Features]) -> dict[str, Tensor]:
    """What a head on the pooled features reads, and its gradients."""
    grafted.zero_grad()
    pooled = {name: features.pooled for name, features in grafted.encode(inputs).items()}
    total = torch.stack([x.sin().mean() for x in pooled.values()]).sum()
    if total.requires_grad:
        back_propagate(total)
    named = {name: p.grad.clone() for name, p in grafted.named_parameters() if p.grad is not None}
    embeddings = {f"{name}.pooled": x.detach() for name, x in pooled.items()}
    return {**embeddings, **{f"the gradient of {name}": gradient for name, gradient in named.items()}}


@rule("Set token_wise only for an adapter that treats each token by itself.", each=True)
def the_short_last_block_agrees(subject: AdapterSubject, case: str) -> None:
    """An adapter that claims to treat tokens one by one gives CLS the same without the last block's other rows."""
    encoder = subject.encoder(case)
    inputs = subject.inputs(encoder)
    grafted = subject.graft(encoder, case)
    steps(grafted, inputs, n=1)
    if not all(adapter.token_wise for _, adapter in grafted.named_adapters()):
        return
    read_out = ClsReadOut(grafted.eval())
    expected = _pooled(grafted, dict(inputs))
    with fast_forms("cpu", bf16=False, read_out=read_out):
        got = _pooled(grafted, dict(inputs))
    # Sums in another order; 1e-4 is a thousand roundings of float32.
    changed = difference(expected, got, atol=1e-6, rtol=1e-4)
    require(not changed, f"with the CLS row of the last block alone: {changed}")


@rule("Put into precompute() only what comes before the first parameter, and all options that change it into its key.",
      each=True)  # fmt: skip
def condensed_features_agree(subject: AdapterSubject, case: str) -> None:
    """What the adapter's condenser keeps of frozen features gives what the features give, gradients included."""
    encoder = subject.encoder(case)
    inputs = subject.inputs(encoder)
    grafted = subject.graft(encoder, case)
    steps(grafted, inputs, n=1)
    if not any(isinstance(adapter, Precomputes) for _, adapter in grafted.named_adapters()):
        return
    condensers = grafted.eval().condensers()
    whole: dict[str, Tensor | Features] = dict(inputs)
    with torch.no_grad():
        for name in condensers:
            tower = encoder.towers()[name]
            whole[name] = tower.forward(inputs[name], scores=tower.has_scores)
    condensed: dict[str, Any] = {name: each.apply(whole[name]) for name, each in condensers.items()}  # pyright: ignore
    for name, each in condensers.items():
        kept = condensed[name]
        require(isinstance(kept, Features), f"the condenser of the {name} tower returns a {type(kept).__name__}")
        require(
            kept.condensed in ("", each.key), f"{name} says it was condensed by {kept.condensed!r}, not {each.key!r}"
        )
    changed = difference(_pooled(grafted, whole), _pooled(grafted, {**whole, **condensed}), atol=1e-6, rtol=1e-4)
    require(not changed, f"from what the condenser keeps: {changed}")


@rule(
    "Leave text_padding at None where what the adapter gives depends on how much padding is behind a text.", each=True
)
def cut_texts_agree(subject: AdapterSubject, case: str) -> None:
    """Texts without the padding that the adapter says it does not need give what they give with it."""
    encoder = subject.encoder(case)
    # All texts but the first of the example end in padding.
    inputs: dict[str, Tensor | Features] = {name: x[1:] for name, x in subject.inputs(encoder).items()}
    grafted = subject.graft(encoder, case)
    steps(grafted, subject.inputs(encoder), n=1)
    cut = cut_texts(grafted.eval(), inputs)
    if all(cut[name] is x for name, x in inputs.items()):
        return
    changed = difference(_pooled(grafted, inputs), _pooled(grafted, cut), atol=1e-6, rtol=1e-4)
    require(not changed, f"with less padding behind texts: {changed}")


RULES: tuple[Rule[AdapterSubject], ...] = (the_short_last_block_agrees, condensed_features_agree, cut_texts_agree)
