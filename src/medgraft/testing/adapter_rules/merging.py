"""Rules about merging, and about layers that are never called or do not multiply by their weight as stored."""

from __future__ import annotations

import unittest

import torch
from torch import Tensor, nn

from medgraft.errors import ConfigError, IncompatibleError, MergeError
from medgraft.grafting import Grafted
from medgraft.testing.adapter_rules.subject import AdapterSubject
from medgraft.testing.check import Rule, require, rule
from medgraft.testing.odd import odd_encoder
from medgraft.testing.snapshots import copied, difference, outputs_of, weights_of
from medgraft.testing.training import CLASSES, steps


@rule(
    "Record every site that you change, so that graft() sees whether it is reached, and fold into a weight only what "
    "the layer multiplies by it."
)
def every_parameter_learns_where_layers_are_odd(subject: AdapterSubject) -> None:
    """Where modules are never called and weights are standardised, each parameter learns or graft() refuses."""
    encoder = odd_encoder()
    inputs = subject.inputs(encoder)
    try:
        grafted = Grafted(encoder, subject.adapters())
    except IncompatibleError:
        return
    pooled = next(iter(grafted.encode(inputs).values())).pooled
    grafted.head = nn.Linear(pooled.shape[-1], CLASSES)
    seen = steps(grafted, inputs, n=3)
    by_id = {id(p): name for name, p in grafted.named_parameters()}
    for parameter in grafted.trainable_parameters():
        name = by_id[id(parameter)]
        require(name in seen and seen[name] != 0, f"{name} gets no gradient in three steps")
    if not all(adapter.mergeable for _, adapter in grafted.named_adapters()):
        return
    expected, weights = outputs_of(grafted, inputs), copied(weights_of(encoder))
    try:
        grafted.merge()
    except MergeError:
        changed = difference(weights, weights_of(encoder))
        require(not changed, f"after merge() was refused, {changed}")
        return
    changed = difference(expected, outputs_of(grafted, inputs), atol=1e-5, rtol=1e-5)
    require(not changed, f"after merge(), {changed}")


@rule(
    "Set mergeable = True on the class and restore nothing by arithmetic: merge() adds, and the numbers agree.",
    each=True,
)
def merging_changes_no_output(subject: AdapterSubject, case: str) -> None:
    """The merged graft gives the unmerged one's numbers to 1e-5 of their size."""
    grafted, inputs = _mergeable(subject, case)
    expected = outputs_of(grafted, inputs)
    grafted.merge()
    changed = difference(expected, outputs_of(grafted, inputs), atol=1e-5, rtol=1e-5)
    require(not changed, f"after merge(), {changed}")


@rule("Keep copies of the weights that merge() changes and copy them back in unmerge() and on_detach().", each=True)
def unmerging_restores_every_bit(subject: AdapterSubject, case: str) -> None:
    """unmerge(), and ungraft() of a merged graft, put the encoder's weights back bit for bit."""
    for finish in ("unmerge", "ungraft"):
        grafted, inputs = _mergeable(subject, case)
        weights = weights_of(grafted.encoder)
        before, outputs = copied(weights), outputs_of(grafted, inputs)
        try:
            grafted.merge()
        except MergeError as error:
            raise unittest.SkipTest(f"it does not merge here: {error}") from error
        getattr(grafted, finish)()
        changed = [name for name, tensor in weights.items() if not torch.equal(tensor, before[name])]
        require(not changed, f"after merge() and {finish}(), {', '.join(changed[:4])} of the encoder differs")
        if finish == "unmerge":
            different = difference(outputs, outputs_of(grafted, inputs))
            require(not different, f"after merge() and unmerge(), {different}")


def _mergeable(subject: AdapterSubject, case: str) -> tuple[Grafted, dict[str, Tensor]]:
    if not all(part.cls.mergeable for part in subject.parts):
        raise unittest.SkipTest("it cannot be merged into the encoder's weights, and says so")
    encoder = subject.encoder(case)
    grafted, inputs = subject.graft(encoder, case), subject.inputs(encoder)
    steps(grafted, inputs, n=2)
    return grafted, inputs


@rule("Set mergeable = True if merge() works; leave merge() to the base class if it does not.", each=True)
def what_cannot_merge_says_so(subject: AdapterSubject, case: str) -> None:
    """merge() of an adapter that is not mergeable is an error and changes nothing."""
    stuck = [part for part in subject.parts if not part.cls.mergeable]
    if not stuck:
        raise unittest.SkipTest("it can be merged")
    encoder = subject.encoder(case)
    grafted = subject.graft(encoder, case)
    before = copied(weights_of(encoder))
    for name, adapter in grafted.named_adapters():
        if adapter.mergeable:
            continue
        try:
            adapter.merge()
        except ConfigError:
            continue
        require(False, f"{name} is not mergeable and its merge() raises no ConfigError")
    changed = difference(before, weights_of(encoder))
    require(not changed, f"after merge() was refused, {changed}")


RULES: tuple[Rule[AdapterSubject], ...] = (
    every_parameter_learns_where_layers_are_odd,
    merging_changes_no_output,
    unmerging_restores_every_bit,
    what_cannot_merge_says_so,
)
