"""Rules about the frozen encoder: what trains, what stays, and that a graft leaves no trace."""

from __future__ import annotations

import contextlib
import tempfile
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from unittest import mock

import torch
from safetensors.torch import load_file  # pyright: ignore[reportUnknownVariableType]
from torch import Tensor, nn

from medgraft.adapter import Adapter, Attachment, Support
from medgraft.attachment.blank_run import leaves
from medgraft.checkpoints.folder import WEIGHTS_NAME
from medgraft.encoder import Encoder
from medgraft.grafting import Grafted
from medgraft.testing.adapter_rules.subject import AdapterSubject
from medgraft.testing.check import Rule, require, rule
from medgraft.testing.snapshots import Tree, copied, difference, outputs_of, tree_difference, tree_of, weights_of
from medgraft.testing.training import loss, steps
from medgraft.typed.pytorch import named_modules
from medgraft.typed.values import is_a

UNDO = (
    "Connect through the Attachment's methods (add_to_output, map_output, map_input, map_features, set_attribute), or "
    "undo what you do yourself with attachment.on_detach()."
)
CHANGES = (
    *("record", "absorb", "set_attribute", "add_to_output", "add_to_branch", "map_output", "map_input"),
    *("map_block_input", "map_projection", "map_features"),
)
MOST_FAULTS = 5


@rule("Leave requires_grad of the encoder's parameters alone; train parameters of the adapter's own.", each=True)
def only_adapter_and_head_train(subject: AdapterSubject, case: str) -> None:
    """No parameter of the encoder requires or gets a gradient, and none belongs to the adapter."""
    encoder = subject.encoder(case)
    frozen = dict(encoder.named_parameters())
    grafted = subject.graft(encoder, case)
    loose = [name for name, p in frozen.items() if p.requires_grad]
    require(not loose, f"after attach(), {', '.join(loose[:4])} of the encoder requires a gradient")
    steps(grafted, subject.inputs(encoder), n=1)
    reached = [name for name, p in frozen.items() if p.grad is not None]
    require(not reached, f"training gives {', '.join(reached[:4])} of the encoder a gradient")
    adapter_parameters = {id(p) for _, adapter in grafted.named_adapters() for p in adapter.parameters()}
    taken = [name for name, p in frozen.items() if id(p) in adapter_parameters]
    require(not taken, f"the adapter registers {', '.join(taken[:4])} of the encoder as its own")


@rule("Use every parameter in the forward pass, set requires_grad=False on fixed ones, or do not make it.", each=True)
def every_parameter_learns(subject: AdapterSubject, case: str) -> None:
    """Every trainable parameter gets a finite gradient other than zero within three steps."""
    encoder = subject.encoder(case)
    grafted = subject.graft(encoder, case)
    seen = steps(grafted, subject.inputs(encoder), n=3)
    by_id = {id(p): name for name, p in grafted.named_parameters()}
    for parameter in grafted.trainable_parameters():
        name = by_id[id(parameter)]
        require(name in seen and seen[name] != 0, f"{name} gets no gradient in three steps")
        require(seen[name].isfinite(), f"{name} gets a gradient that is not finite")


@rule(
    "Register every trained tensor as an nn.Parameter of the adapter (attribute, ModuleDict, ParameterList).", each=True
)
def trainable_parameters_are_all(subject: AdapterSubject, case: str) -> None:
    """trainable_parameters() is exactly what the loss depends on and what trainable_count() counts."""
    encoder = subject.encoder(case)
    grafted = subject.graft(encoder, case).train()
    frozen = {id(p) for p in encoder.parameters()}
    listed = {id(p) for p in grafted.trainable_parameters()}
    value = loss(grafted, grafted.encode(subject.inputs(encoder)))
    hidden = [leaf for leaf in leaves(value) if id(leaf) not in listed | frozen]
    shapes = ", ".join(str(list(leaf.shape)) for leaf in hidden[:4])
    require(not hidden, f"the loss depends on tensors that no optimizer would see, of shape {shapes}")
    counted = sum(grafted.trainable_count().values())
    total = sum(p.numel() for p in grafted.trainable_parameters())
    require(counted == total, f"trainable_count() gives {counted} numbers and trainable_parameters() {total}")


@rule("Return a positive factor from learning_rate_scale() for every parameter.", each=True)
def learning_rates_are_positive(subject: AdapterSubject, case: str) -> None:
    """Every parameter's factor on the learning rate is a positive, finite number."""
    grafted = subject.graft(subject.encoder(case), case)
    for _, adapter in grafted.named_adapters():
        for name, _ in adapter.named_parameters():
            scale = adapter.learning_rate_scale(name)
            fine = is_a(scale, int | float) and 0 < scale < float("inf")
            require(fine, f"learning_rate_scale({name!r}) is {scale!r}")


@rule("Never write to an encoder's parameter or buffer in place; work on copies, or add to outputs.", each=True)
def training_leaves_the_encoder_alone(subject: AdapterSubject, case: str) -> None:
    """The encoder's parameters and buffers are bit-identical after training and evaluation."""
    encoder = subject.encoder(case)
    live, inputs = weights_of(encoder), subject.inputs(encoder)
    before = copied(live)
    grafted = subject.graft(encoder, case)
    for what, run in (
        ("attach()", lambda: None),
        ("training", lambda: steps(grafted, inputs, n=3)),
        ("evaluation", lambda: outputs_of(grafted, inputs)),
    ):
        run()
        changed = [name for name, tensor in live.items() if not torch.equal(tensor, before[name])]
        require(not changed, f"{what} changes {', '.join(changed[:4])} of the encoder")


@rule(
    "Do not switch the encoder's modules to training mode; train() of an adapter reaches its own modules only.",
    each=True,
)
def the_encoder_stays_in_evaluation_mode(subject: AdapterSubject, case: str) -> None:
    """Training mode reaches the adapter and the head, and no module of the encoder."""
    encoder = subject.encoder(case)
    encoder_modules = dict(named_modules(encoder))
    grafted = subject.graft(encoder, case).train()
    grafted.encode(subject.inputs(encoder))
    switched = [name for name, module in encoder_modules.items() if module.training]
    require(not switched, f"grafted.train() switches {', '.join(switched[:4])} of the encoder to training mode")


@rule(UNDO, each=True)
def ungraft_restores_the_tree(subject: AdapterSubject, case: str) -> None:
    """After ungraft() the module tree, hooks and attributes are those from before."""
    encoder = subject.encoder(case)
    before = tree_of(encoder)
    grafted = subject.graft(encoder, case)
    steps(grafted, subject.inputs(encoder), n=1)
    require(grafted.ungraft() is encoder, "ungraft() returns another encoder")
    changed = tree_difference(before, tree_of(encoder))
    require(not changed, f"after ungraft(), {changed}")


@rule(UNDO, each=True)
def ungraft_restores_the_outputs(subject: AdapterSubject, case: str) -> None:
    """After ungraft() the encoder's outputs are bit-equal to those from before."""
    encoder = subject.encoder(case)
    inputs = subject.inputs(encoder)
    before = outputs_of(encoder, inputs)
    grafted = subject.graft(encoder, case)
    steps(grafted, inputs, n=1)
    changed = difference(before, outputs_of(grafted.ungraft(), inputs))
    require(not changed, f"after ungraft(), {changed}")


@rule("Keep nothing about an encoder between grafts: no class attributes, no caches keyed by the encoder.", each=True)
def a_second_graft_is_like_the_first(subject: AdapterSubject, case: str) -> None:
    """A second graft on an encoder leaves as little behind as the first."""
    encoder = subject.encoder(case)
    inputs = subject.inputs(encoder)
    results: list[tuple[Tree, dict[str, Tensor]]] = []
    for seed in (0, 1):
        grafted = subject.graft(encoder, case, seed=seed)
        steps(grafted, inputs, n=1)
        grafted.ungraft()
        results.append((tree_of(encoder), outputs_of(encoder, inputs)))
    (tree, outputs), (second, again) = results
    changed = tree_difference(tree, second) or difference(outputs, again)
    require(not changed, f"after a second graft and ungraft(), {changed}")


@rule(
    "Give attachment.on_detach() a redo for every undo, or connect through the Attachment's other methods.", each=True
)
def switching_off_and_on_changes_nothing(subject: AdapterSubject, case: str) -> None:
    """Switched off, the adapter leaves the encoder's tree as it was; switched on again, it gives the same numbers."""
    encoder = subject.encoder(case)
    inputs = subject.inputs(encoder)
    before = tree_of(encoder)
    grafted = subject.graft(encoder, case)
    fresh = outputs_of(grafted, inputs)
    grafted.activate()
    changed = tree_difference(before, tree_of(encoder))
    require(not changed, f"switched off, {changed}")
    grafted.activate(*subject.names())
    changed = difference(fresh, outputs_of(grafted, inputs))
    require(not changed, f"switched off and on again, {changed}")


@rule(
    "Register the undo with attachment.on_detach() before the change it undoes, so that a failure finds it.", each=True
)
def a_failed_attach_leaves_no_trace(subject: AdapterSubject, case: str) -> None:
    """If attach() fails half-way, the encoder is as it was."""
    for fault in range(1, MOST_FAULTS + 1):
        encoder = subject.encoder(case)
        before, weights = tree_of(encoder), copied(weights_of(encoder))
        failed = False
        with _failing_at(fault) as calls:
            try:
                Grafted(encoder, subject.adapters())
            except _Fault:
                failed = True
        if not failed and calls["n"] >= fault:
            require(False, f"attach() swallows the error of {calls['last']}()", "Let errors of the Attachment through.")
        if not failed:
            return
        changed = tree_difference(before, tree_of(encoder)) or difference(weights, weights_of(encoder))
        require(not changed, f"attach() failed in {calls['last']}() and {changed}")


class _Fault(RuntimeError):
    """Raised on purpose."""


@contextmanager
def _failing_at(fault: int) -> Generator[dict[str, Any]]:
    """The ``fault``-th call of an attachment's method raises."""
    calls: dict[str, Any] = {"n": 0, "last": ""}

    def failing(name: str):
        original = getattr(Attachment, name)

        def run(self: Attachment, *args: Any, **kwargs: Any) -> Any:
            calls["n"] += 1
            if calls["n"] == fault:
                calls["last"] = name
                raise _Fault(f"{name}() fails on purpose")
            return original(self, *args, **kwargs)

        return run

    with contextlib.ExitStack() as stack:
        for name in CHANGES:
            stack.enter_context(mock.patch.object(Attachment, name, failing(name)))
        yield calls


class _Probe(Adapter):
    """Scales every block's output and the pooled features by trained gains, one at the start."""

    def supports(self, encoder: Encoder) -> Support:
        return Support(True)

    def attach(self, encoder: Encoder, sites: Any) -> Attachment:
        attachment = Attachment(encoder)
        blocks = [site for site in sites.values() if site.kind == "block"]
        attachment.record({"block": blocks} if blocks else {})
        attachment.record({"features": [site for site in sites.values() if site.kind == "features"]})
        self.gain = nn.Parameter(torch.ones(()))
        for site in blocks:
            attachment.map_output(site, lambda x: x * self.gain.to(x.dtype))
        for tower in encoder.towers().values():
            attachment.map_features(tower, lambda features: features.replace(pooled=features.pooled * self.gain))
        return attachment


@rule(
    "Assume nothing about other adapters on the encoder: undo your own changes only, keep what others return.",
    each=True,
)
def composes_with_another(subject: AdapterSubject, case: str) -> None:
    """The adapter works before and after another one, and both leave no trace."""
    for first in (True, False):
        encoder = subject.encoder(case)
        inputs = subject.inputs(encoder)
        before = tree_of(encoder)
        adapters = subject.adapters()
        both: dict[str, Adapter] = {"probe": _Probe(), **adapters} if first else {**adapters, "probe": _Probe()}
        grafted = Grafted(encoder, both)
        outputs = outputs_of(grafted, inputs)
        finite = all(value.isfinite().all() for value in outputs.values())
        require(finite, f"{'after' if first else 'before'} another adapter its features are not finite")
        grafted.ungraft()
        changed = tree_difference(before, tree_of(encoder))
        require(not changed, f"beside another adapter, after ungraft(), {changed}")


@rule("Keep everything that training changes in parameters or persistent buffers.", each=True)
def saving_and_loading_is_exact(subject: AdapterSubject, case: str) -> None:
    """What save() wrote gives bit-equal parameters and outputs in a fresh graft on a fresh encoder."""
    encoder = subject.encoder(case)
    inputs = subject.inputs(encoder)
    first = subject.graft(encoder, case)
    steps(first, inputs, n=2)
    expected, state = outputs_of(first, inputs), copied(first.adapters.state_dict())
    with tempfile.TemporaryDirectory(prefix="medgraft-check-") as folder:
        first.save(folder)
        second = subject.graft(subject.encoder(case), case, seed=7).load(folder)
    changed = difference(state, second.adapters.state_dict()) or difference(expected, outputs_of(second, inputs))
    require(not changed, f"after save() and load(), {changed}")


@rule(
    "Hold no encoder weight in a parameter, a submodule or a buffer; read it through the encoder's modules.", each=True
)
def the_file_holds_no_encoder_weight(subject: AdapterSubject, case: str) -> None:
    """The file of a trained graft holds no tensor of the encoder."""
    encoder = subject.encoder(case)
    weights = copied(weights_of(encoder))
    grafted = subject.graft(encoder, case)
    steps(grafted, subject.inputs(encoder), n=2)
    with tempfile.TemporaryDirectory(prefix="medgraft-check-") as folder:
        stored = load_file(Path(grafted.save(folder)) / WEIGHTS_NAME)
    for key, tensor in stored.items():
        same = [n for n, w in weights.items() if w.numel() > 1 and w.shape == tensor.shape and torch.equal(w, tensor)]
        require(not same, f"the file holds {same[0] if same else ''!r} of the encoder as {key!r}")


RULES: tuple[Rule[AdapterSubject], ...] = (
    only_adapter_and_head_train,
    every_parameter_learns,
    trainable_parameters_are_all,
    learning_rates_are_positive,
    training_leaves_the_encoder_alone,
    the_encoder_stays_in_evaluation_mode,
    ungraft_restores_the_tree,
    ungraft_restores_the_outputs,
    a_second_graft_is_like_the_first,
    switching_off_and_on_changes_nothing,
    a_failed_attach_leaves_no_trace,
    composes_with_another,
    saving_and_loading_is_exact,
    the_file_holds_no_encoder_weight,
)
