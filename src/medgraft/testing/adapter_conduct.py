"""Rules about what an adapter leaves alone beside the encoder, and about what it says of itself when it has run."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager

import torch

from medgraft.settings import Settings
from medgraft.testing.adapter_subject import AdapterSubject
from medgraft.testing.check import Rule, require, rule
from medgraft.testing.snapshots import outputs_of
from medgraft.testing.training import steps

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
    with _settings_given_back(before):
        grafted = subject.graft(encoder, case, seed=SEED)
        require(not (problem := before.problem(SEED)), f"after attach(), {problem}")
        steps(grafted, inputs, n=3)
        require(not (problem := before.problem(SEED)), f"after training, {problem}")
        outputs_of(grafted, inputs)
        require(not (problem := before.problem(SEED)), f"after evaluation, {problem}")


@contextmanager
def _settings_given_back(before: Settings) -> Iterator[None]:
    """Undoes what an adapter under test does to those that most harm the checks that follow."""
    try:
        yield
    finally:
        facts = before.facts
        torch.set_default_dtype(facts["torch.get_default_dtype()"])
        torch.set_num_threads(facts["torch.get_num_threads()"])
        torch.set_grad_enabled(facts["torch.is_grad_enabled()"])
        torch.use_deterministic_algorithms(facts["torch.are_deterministic_algorithms_enabled()"])
        torch.set_float32_matmul_precision(facts["torch.get_float32_matmul_precision()"])


@rule("Return plain dicts, lists, strings and numbers from report(), as JSON has them.", each=True)
def reports_are_json(subject: AdapterSubject, case: str) -> None:
    """report() gives a JSON object, before and after a run."""
    encoder = subject.encoder(case)
    inputs = subject.inputs(encoder)
    grafted = subject.graft(encoder, case)
    for _ in range(2):
        for name, adapter in grafted.named_adapters():
            told = adapter.report()
            require(isinstance(told, dict), f"report() of {name} gives a {type(told).__name__}")
            try:
                json.dumps(told, allow_nan=False)
            except (TypeError, ValueError) as error:
                require(False, f"report() of {name} gives what is no JSON: {error}")
            adapter.reset_report()
        outputs_of(grafted, inputs)


RULES: tuple[Rule, ...] = (settings_stay_as_they_are, reports_are_json)
