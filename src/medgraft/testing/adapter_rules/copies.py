"""Rules about copies: whatever way a graft is copied, the copy obeys its own adapter and the original its own."""

from __future__ import annotations

import copy
import io
from typing import Any

import torch
from torch import Tensor, nn

from medgraft.encoder.stored import twin
from medgraft.grafting import Grafted
from medgraft.testing.adapter_rules.subject import AdapterSubject
from medgraft.testing.check import Rule, require, rule
from medgraft.testing.snapshots import copied, difference, outputs_of, weights_of
from medgraft.testing.training import loss, steps
from medgraft.typed.pytorch import back_propagate

REMEDY = (
    "Reach what the adapter holds through self, through modules, or through variables of the functions that you give "
    "to the Attachment; keep functions that another function made out of lists and of objects of your own, and "
    "tensors of the last batch in attributes of modules"
)


@rule(REMEDY, each=True)
def a_deep_copy_is_its_own(subject: AdapterSubject, case: str) -> None:
    """A deep copy of a trained graft gives its numbers, obeys its own parameters and gets its own gradients."""
    _stands_alone(subject, case, copy.deepcopy)


@rule(REMEDY, each=True)
def a_pickle_is_its_own(subject: AdapterSubject, case: str) -> None:
    """What torch.save() wrote of a trained graft, or another process gets, is a graft like it."""
    _stands_alone(subject, case, stored)


@rule(REMEDY, each=True)
def a_replica_is_its_own(subject: AdapterSubject, case: str) -> None:
    """A replica as nn.DataParallel makes them reads its own parameters, and their gradients reach the original."""
    grafted, inputs = _trained(subject, case)
    expected = outputs_of(grafted, inputs)
    replica = replica_of(grafted)
    with torch.no_grad():
        moved = _moved(grafted)
        got = {
            f"{n}.{part}": getattr(f, part) for n, f in replica.encode(inputs).items() for part in ("tokens", "pooled")
        }
        for parameter, kept in moved:
            parameter.copy_(kept)
    changed = difference({name: expected[name] for name in got}, got)
    require(not changed, f"a replica reads what the original has become: {changed}")


def stored(grafted: Grafted) -> Grafted:
    """What ``torch.load`` makes of what ``torch.save`` wrote."""
    file = io.BytesIO()
    torch.save(grafted, file)
    file.seek(0)
    return torch.load(file, weights_only=False)


def replica_of(network: Any) -> Any:
    """A replica as ``torch.nn.parallel.replicate`` makes them, for one more device of the same kind."""
    modules = list(network.modules())
    index = {module: i for i, module in enumerate(modules)}
    replicas = [module._replicate_for_data_parallel() for module in modules]
    for replica in replicas:
        replica._former_parameters = {}
    for module, replica in zip(modules, replicas, strict=True):
        for name, child in module._modules.items():
            replica._modules[name] = None
            if child is not None:
                setattr(replica, name, replicas[index[child]])
        for name, parameter in module._parameters.items():
            if parameter is None:
                replica._parameters[name] = None
            else:
                setattr(replica, name, twin(parameter))
                replica._former_parameters[name] = getattr(replica, name)
        for name, buffer in module._buffers.items():
            replica._buffers[name] = None if buffer is None else buffer.clone()
    return replicas[0]


def _trained(subject: AdapterSubject, case: str) -> tuple[Grafted, dict[str, Tensor]]:
    encoder = subject.encoder(case)
    inputs = subject.inputs(encoder)
    grafted = subject.graft(encoder, case)
    steps(grafted, inputs, n=1)
    return grafted, inputs


def _moved(grafted: Grafted) -> list[tuple[nn.Parameter, Tensor]]:
    """Gives what is trained other values; returns those from before."""
    kept = [(parameter, parameter.detach().clone()) for parameter in grafted.trainable_parameters()]
    with torch.no_grad():
        for parameter, _ in kept:
            parameter.add_(torch.rand_like(parameter) + 0.1)
    return kept


def _stands_alone(subject: AdapterSubject, case: str, copy_of: Any) -> None:
    grafted, inputs = _trained(subject, case)
    grafted.train()
    value = loss(grafted, grafted.encode(inputs))  # a copy in the middle of a step
    held = copied(weights_of(grafted))
    twin = copy_of(grafted)
    changed = difference(held, weights_of(grafted))
    require(not changed, f"taking a copy changes the original: {changed}")
    if value.requires_grad:
        back_propagate(value)
    require(twin.training, "a copy of a graft in training mode is in evaluation mode")
    grafted.zero_grad()
    expected = outputs_of(grafted, inputs)  # not before the step, which moves running statistics
    changed = difference(expected, outputs_of(twin, inputs))
    require(not changed, f"a copy differs from its original: {changed}")
    if twin.trainable_parameters():
        back_propagate(loss(twin.train(), twin.encode(inputs)))
    strayed = [name for name, parameter in grafted.named_parameters() if parameter.grad is not None]
    require(not strayed, f"a step of the copy gives {', '.join(strayed[:4])} of the original a gradient")
    if trainable := [p for _, adapter in twin.named_adapters() for p in adapter.parameters() if p.requires_grad]:
        reached = any(parameter.grad is not None for parameter in trainable)
        require(reached, "a step of the copy gives no parameter of the copy's adapter a gradient")
        _moved(twin)
        require(bool(difference(expected, outputs_of(twin, inputs))), "a copy does not obey its own parameters")
    changed = difference(expected, outputs_of(grafted, inputs))
    require(not changed, f"parameters of a copy change the original: {changed}")
    alone = outputs_of(twin.ungraft(), inputs)
    changed = difference(expected, outputs_of(grafted, inputs))
    require(not changed, f"after ungraft() of a copy, the original differs: {changed}")
    changed = difference(outputs_of(grafted.ungraft(), inputs), alone)
    require(not changed, f"after ungraft() of a copy and of the original, the encoders differ: {changed}")


RULES: tuple[Rule[AdapterSubject], ...] = (a_deep_copy_is_its_own, a_pickle_is_its_own, a_replica_is_its_own)
