"""Whether adapters compute on a device what they compute on the CPU."""

from __future__ import annotations

import math
from typing import Any

from medgraft.benchmarks.gpu.setting import NotHereError, Setting

PARITY = 1e-3
"""Largest difference from the CPU of a loss or a gradient, relative to its norm: some thousand roundings of float32,
and less than what TF32, which is off here, makes of a few products in a row."""


def adapters(setting: Setting) -> list[str]:
    """Every adapter of this package."""
    from medgraft.plugins import discover

    names = sorted(name for name, plugin in discover("adapter").items() if plugin.builtin)
    return ["ace_hgnn", "lora"] if setting.quick else names


def parity(item: str, setting: Setting) -> dict[str, Any]:
    """Loss and gradients of an adapter on a tiny encoder, eager and fused, against eager mode on the CPU in float32."""
    import numpy as np
    import torch

    from medgraft.ops import backends
    from medgraft.testing.adapter_rules.subject import AdapterSubject
    from medgraft.testing.tiny import ENCODERS
    from medgraft.testing.tiny_language import LANGUAGE_ENCODERS, PACKED_ENCODERS
    from medgraft.testing.tiny_signal import SIGNAL_ENCODERS

    torch.backends.cudnn.allow_tf32 = torch.backends.cuda.matmul.allow_tf32 = False
    made = {**ENCODERS, **SIGNAL_ENCODERS, **LANGUAGE_ENCODERS, **PACKED_ENCODERS}
    order = sorted(made, key=lambda name: name not in ("dual-2d", "packed-3d"))
    subjects = ((name, AdapterSubject(item, {name: made[name]}, {})) for name in order)
    case, subject = next((pair for pair in subjects if pair[1].cases()), (None, None))
    if case is None or subject is None:
        raise NotHereError(f"{item} fits none of the tiny encoders")
    found: dict[str, Any] = {"encoder": case}
    state = _trained(subject, case)
    expected = _gradients(subject, case, state, "cpu", "eager")
    size = math.sqrt(sum(value.norm().item() ** 2 for name, value in expected.items() if name))
    for backend in ("eager", "fused"):
        with backends.recording() as record:
            got = _gradients(subject, case, state, setting.device, backend)
        gaps = [
            ((got[name] - value).norm() / max(value.norm().item(), 1e-2 * size, 1e-12)).item()
            for name, value in expected.items()
        ]
        found[backend] = float(np.max(gaps))  # which keeps a NaN, where max() may lose it
    found["ops"] = record.summary()
    return {**found, "ok": found["eager"] <= PARITY and found["fused"] <= PARITY}


def _trained(subject: Any, case: str) -> dict[str, Any]:
    """What a step on the CPU makes of all that is trained; much of it starts at zero and would hide mistakes."""
    from medgraft.testing import training

    encoder = subject.encoder(case)
    grafted = subject.graft(encoder, case)
    training.steps(grafted, subject.inputs(encoder), n=1)
    return {name: each.detach() for name, each in grafted.named_parameters() if each.requires_grad}


def _gradients(subject: Any, case: str, state: dict[str, Any], device: str, backend: Any) -> dict[str, Any]:
    """The loss, named by nothing, and the gradients by name, with the trained numbers of ``state``."""
    import torch

    from medgraft.ops import backends
    from medgraft.testing import training

    encoder = subject.encoder(case)
    inputs = {name: x.to(device) for name, x in subject.inputs(encoder).items()}
    with backends.using(backend):
        grafted = subject.graft(encoder, case).to(device).eval()
        with torch.no_grad():
            for name, parameter in grafted.named_parameters():
                if name in state:
                    parameter.copy_(state[name])
        for _, adapter in grafted.named_adapters():
            adapter.after_step()
        loss = training.loss(grafted, grafted.encode(inputs))
        if loss.requires_grad:
            loss.backward()
    named = {name: p.grad.double().cpu() for name, p in grafted.named_parameters() if p.grad is not None}
    return {"": torch.atleast_1d(loss.detach().double().cpu()), **named}
