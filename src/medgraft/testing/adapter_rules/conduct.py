"""Rules about what an adapter leaves alone beside the encoder, and about what it says of itself when it has run."""

from __future__ import annotations

import json

from medgraft.adapter.protocols import diagnostics_of, reset_diagnostics
from medgraft.commands.settings import Settings
from medgraft.testing.adapter_rules.subject import AdapterSubject, restored_settings
from medgraft.testing.check import Rule, require, rule
from medgraft.testing.snapshots import outputs_of
from medgraft.testing.training import steps
from medgraft.typed.values import is_a

SEED = 3


@rule(
    "Leave PyTorch's settings and its seed alone; what must be drawn apart belongs in torch.random.fork_rng().",
    each=True,
)
def settings_stay_as_they_are(subject: AdapterSubject, case: str) -> None:
    """Attaching, training and evaluation change neither a setting of PyTorch nor the seed of its random numbers."""
    encoder = subject.encoder(case)
    inputs = subject.inputs(encoder)
    before = Settings.now()
    with restored_settings(before):
        grafted = subject.graft(encoder, case, seed=SEED)
        require(not (problem := before.problem(SEED)), f"after attach(), {problem}")
        steps(grafted, inputs, n=3)
        require(not (problem := before.problem(SEED)), f"after training, {problem}")
        outputs_of(grafted, inputs)
        require(not (problem := before.problem(SEED)), f"after evaluation, {problem}")


@rule("Return plain dicts, lists, strings and numbers from diagnostics(), as JSON has them.", each=True)
def reports_are_json(subject: AdapterSubject, case: str) -> None:
    """diagnostics() gives a JSON object, before and after a run."""
    encoder = subject.encoder(case)
    inputs = subject.inputs(encoder)
    grafted = subject.graft(encoder, case)
    for _ in range(2):
        for name, adapter in grafted.named_adapters():
            report = diagnostics_of(adapter)
            require(is_a(report, dict), f"diagnostics() of {name} gives a {type(report).__name__}")
            try:
                json.dumps(report, allow_nan=False)
            except (TypeError, ValueError) as error:
                require(False, f"diagnostics() of {name} gives what is no JSON: {error}")
            reset_diagnostics(adapter)
        outputs_of(grafted, inputs)


RULES: tuple[Rule[AdapterSubject], ...] = (settings_stay_as_they_are, reports_are_json)
