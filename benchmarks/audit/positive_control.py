"""Does ``tgh_moe`` use the prompt where that is needed? ``python -m benchmarks.audit.positive_control``, as Markdown.

Trains adapters of one size on the questions of :mod:`~medgraft.benchmarks.audit.conflicting_questions`, whose ceilings
are known: exactly 1/2 for whatever is not told the question, 1 for an adapter of each question's own. Training is that
of a sweep (:class:`~medgraft.benchmarks.training.trainer.Runner`), with the adapters' own phases and losses. Ends with
exit code 1 where a verdict does not hold, which means that the implementation is wrong. ``--figure`` draws which
experts each question's tokens chose, in the form of ``medgraft expert-load``.
"""

from __future__ import annotations

import argparse
import statistics
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch

from medgraft.adapter.protocols import diagnostics_of, reset_diagnostics
from medgraft.adapter.sizing import sized, trainable_of
from medgraft.benchmarks.audit.conflicting_questions import (
    QUESTIONS,
    SHARED_CEILING,
    Control,
    draw_control,
    tiny_encoder,
)
from medgraft.benchmarks.board.drawn.load_figure import Load, draw_loads
from medgraft.benchmarks.objectives.multiclass import MulticlassObjective
from medgraft.benchmarks.training.trainer import Runner
from medgraft.grafting import Grafted
from medgraft.registry import TrainDefaults, build_adapters

MARGIN = 0.3
"""By which ``tgh_moe`` must pass the shared ceiling."""
REACH = 0.95
"""Share of the accuracy of one adapter per question that it must reach."""
SHIFT = 0.1
"""By how much the load of a question's tokens must differ from that of all, in total variation."""

TGH: Mapping[str, Any] = {"tasks": 4, "width": 16}


@dataclass(frozen=True)
class Arm:
    """One row of the control.

    Attributes:
        name: For people.
        adapter: Registered name.
        options: Of the adapter; the size knob of others than ``tgh_moe`` is set to its size.
        blind: It is not told the question, so the shared ceiling holds for it.
        own: One adapter for each question, trained and tested on its samples alone.
    """

    name: str
    adapter: str = "tgh_moe"
    options: Mapping[str, Any] = field(default_factory=lambda: dict(TGH))
    blind: bool = False
    own: bool = False


FULL = "tgh_moe"
OWN = "one adaptformer per question"
ARMS = (
    Arm("adaptformer", "adaptformer", {}, blind=True),
    Arm("lora", "lora", {}, blind=True),
    Arm("tgh_moe, no text", options={**TGH, "text": False}, blind=True),
    Arm("tgh_moe, token level only, no text", options={**TGH, "levels": "token", "text": False}, blind=True),
    Arm("tgh_moe, token level only", options={**TGH, "levels": "token"}),
    Arm("tgh_moe, task level only", options={**TGH, "levels": "task"}),
    Arm("tgh_moe, one stage", options={**TGH, "stages": "one"}),
    Arm("tgh_moe, router text at the adapter's rate", options={**TGH, "text_lr": 1.0}),
    Arm("tgh_moe, router text ten times as fast", options={**TGH, "text_lr": 10.0}),
    Arm(FULL),
    Arm(OWN, "adaptformer", {}, own=True),
)


@dataclass(frozen=True)
class Outcome:
    """What one arm reached with one seed.

    Attributes:
        accuracy: On test images, over all questions.
        by_question: The same of each.
        trainable: Parameters, head left out.
        told: Share of test prompts, in unseen wordings, that told their question; ``None`` without such a report.
        shares: Question -> share of its tokens' picks that each shared expert got; empty without shared experts.
        dense: Some router had collapsed and was made dense.
    """

    accuracy: float
    by_question: tuple[float, ...]
    trainable: int
    told: float | None = None
    shares: tuple[tuple[float, ...], ...] = ()
    dense: bool = False


def load_shift(shares: Sequence[Sequence[float]]) -> float:
    """Mean total variation between the load of each question and the mean load: 0 where all questions are alike.

    Example:
        >>> load_shift([[0.5, 0.5], [0.5, 0.5]]), load_shift([[1.0, 0.0], [0.0, 1.0]])
        (0.0, 0.5)
    """
    table = np.asarray(shares, float)
    return float(0.5 * np.abs(table - table.mean(axis=0)).sum(axis=1).mean())


def train_arm(arm: Arm, control: Control, epochs: int, seed: int) -> Outcome:
    """Trains an arm on the training images and tests it.

    Args:
        arm: Which.
        control: The drawn questions.
        epochs: Passes over the training samples; one adapter per question takes as many steps in all.
        seed: Of fresh weights and of the order of the samples.
    """
    encoder = tiny_encoder()
    budget = trainable_of(encoder, "tgh_moe", TGH)
    options = dict(arm.options) if arm.adapter == "tgh_moe" else dict(sized(encoder, arm.adapter, {}, budget).options)
    asked, splits = control.data.asked, control.data.splits
    assert asked is not None
    groups = [[q] for q in range(len(QUESTIONS))] if arm.own else [list(range(len(QUESTIONS)))]
    right, outcome = np.zeros(len(asked), bool), {}
    for questions in groups:
        train, test = (index[np.isin(asked[index], questions)] for index in (splits["train"], splits["test"]))
        torch.manual_seed(seed)
        adapters = build_adapters(arm.adapter, options)
        grafted = Grafted(encoder, adapters)
        # The head reads the image alone: told the question, a linear head could be right for 3 of 4 answers by itself.
        runner = Runner(
            grafted, MulticlassObjective(control.data, ("image",)), control.data, control.inputs, grafted.encode
        )
        runner.add_head(train)
        runner.fit(train, TrainDefaults.model_validate({"epochs": epochs}), seed, lambda share: None)
        for adapter in adapters.values():
            reset_diagnostics(adapter)
        right[test] = runner.predict(test).argmax(axis=1) == control.data.targets[test]
        outcome = _routing(diagnostics_of(next(iter(adapters.values()))))
        grafted.ungraft()
    test = splits["test"]
    by_question = tuple(float(right[test][asked[test] == q].mean()) for q in range(len(QUESTIONS)))
    count = trainable_of(encoder, arm.adapter, options) * len(groups)
    return Outcome(float(right[test].mean()), by_question, count, **outcome)


def _routing(report: Mapping[str, Any]) -> dict[str, Any]:
    """Fields of an outcome from the diagnostics of ``tgh_moe``; empty for other adapters."""
    if "samples" not in report:
        return {}
    shares = tuple(tuple(report["expert_load"][str(q)]) for q in range(len(QUESTIONS)) if "expert_load" in report)
    return {"told": report.get("task_accuracy"), "shares": shares, "dense": bool(report["dense_blocks"])}


def run(arms: Sequence[Arm], images: int, epochs: int, seeds: Sequence[int]) -> dict[str, list[Outcome]]:
    """Outcomes of each arm by seed; a seed draws the images, the fresh weights and the order of the samples."""
    found: dict[str, list[Outcome]] = {arm.name: [] for arm in arms}
    for seed in seeds:
        control = draw_control(tiny_encoder(), images, images, seed)
        for arm in arms:
            found[arm.name].append(train_arm(arm, control, epochs, seed))
    return found


def verdicts(arms: Sequence[Arm], found: Mapping[str, Sequence[Outcome]]) -> dict[str, bool]:
    """What must hold, in words -> whether it does, over all seeds."""
    blind = [each.accuracy for arm in arms if arm.blind for each in found[arm.name]]
    full = statistics.fmean(each.accuracy for each in found[FULL])
    said = {f"whatever is not told the question has an accuracy of {SHARED_CEILING:g}": set(blind) == {SHARED_CEILING}}
    said[f"{FULL} passes the shared ceiling by {MARGIN:g}"] = full >= SHARED_CEILING + MARGIN
    if OWN in found:
        own = statistics.fmean(each.accuracy for each in found[OWN])
        said[f"{FULL} reaches {REACH:.0%} of one adapter per question"] = full >= REACH * own
    shift = statistics.fmean(load_shift(each.shares) for each in found[FULL])
    said[f"the load of a question differs from that of all by {SHIFT:g} at least"] = shift >= SHIFT
    return said


def table(arms: Sequence[Arm], found: Mapping[str, Sequence[Outcome]]) -> str:
    """Markdown: means over seeds, and the lowest and the highest seed."""
    heads = [
        "adapter",
        "told the question",
        "ceiling",
        "accuracy",
        *QUESTIONS,
        "trainable",
        "prompts told",
        "load shift",
    ]
    lines = [f"| {' | '.join(heads)} |", "|---" * len(heads) + "|"]
    for arm in arms:
        outcomes = found[arm.name]
        told = [each.told for each in outcomes if each.told is not None]
        shifts = [load_shift(each.shares) for each in outcomes if each.shares]
        each_question = zip(*(each.by_question for each in outcomes), strict=True)
        cells = [
            arm.name + (" (router made dense)" if any(each.dense for each in outcomes) else ""),
            "no" if arm.blind else "yes",
            f"{SHARED_CEILING:g}" if arm.blind else "1",
            _spread([each.accuracy for each in outcomes]),
            *(f"{statistics.fmean(one):.3f}" for one in each_question),
            f"{outcomes[0].trainable:,}",
            f"{statistics.fmean(told):.3f}" if told else "-",
            f"{statistics.fmean(shifts):.3f}" if shifts else "-",
        ]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def _spread(values: Sequence[float]) -> str:
    return f"{statistics.fmean(values):.3f} ({min(values):.3f} to {max(values):.3f})"


def panels(found: Mapping[str, Sequence[Outcome]]) -> list[Load]:
    """What the tokens of each question chose, of the arms with shared experts and a prompt; the first seed's."""
    return [
        Load(
            ("positive control", "random ViT", name), list(QUESTIONS), [list(s) for s in each.shares], True, each.dense
        )
        for name, (each, *_) in found.items()
        if each.shares and each.told is not None
    ]


def main(arguments: list[str] | None = None) -> int:
    """Writes the table and the verdicts to the output; 1 where one does not hold."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.audit.positive_control", description=__doc__)
    parser.add_argument("--images", type=int, default=256, help="training images, and as many to test on")
    parser.add_argument("--epochs", type=int, default=12)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--figure", type=Path, help="SVG file of the experts' load to write")
    options = parser.parse_args(arguments)
    torch.set_num_threads(1)
    found = run(ARMS, options.images, options.epochs, range(options.seeds))
    said = verdicts(ARMS, found)
    lines = [f"- {'holds' if holds else '**does not hold**'}: {what}" for what, holds in said.items()]
    sys.stdout.write("\n".join([table(ARMS, found), "", *lines, ""]))
    if options.figure is not None:
        draw_loads(panels(found), options.figure)
    return 0 if all(said.values()) else 1


if __name__ == "__main__":
    sys.exit(main())
