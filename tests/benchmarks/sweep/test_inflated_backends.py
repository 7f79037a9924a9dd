"""Every backend runs the adapters of prompted volumes on an inflated encoder, from the cohort to scores and speed."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from cells import Ran, ran, spec

from medgraft.adapter.protocols import diagnostics_of
from medgraft.benchmarks.cell.steps.operations import uses_of

PROMPTED: dict[str, dict[str, Any]] = {
    "tgh_moe": {"tasks": 2, "width": 8, "stages": "one", "targets": ["volume.blocks.3.mlp"]},
    "perceiver_resampler": {"depth": 1, "heads": 2, "head_dim": 8, "num_latents": 4},
    "gated_xattn": {"heads": 2, "head_dim": 8},
}


def cell(root: Path, adapter: str, backend: str) -> Ran:
    return ran(
        spec(
            task="brain_prompts",
            task_options={"questions": ["sex", "diagnosis"]},
            encoder="pair:inflate3d:slices=2:embedded:chest@random|embedded:brain@random",
            adapter=adapter,
            adapter_options=PROMPTED[adapter],
            backend=backend,
            limit=8,
        ),
        root,
    )


@pytest.mark.parametrize("adapter", PROMPTED)
def test_auto_gives_the_scores_of_eager_mode(adapter, adni_cohort):
    eager, auto = (cell(adni_cohort, adapter, backend) for backend in ("eager", "auto"))
    np.testing.assert_allclose(auto.arrays["scores"], eager.arrays["scores"], atol=1e-4)
    uses = [use for each in uses_of(auto.record).values() for use in each]
    assert all(use.asked == "auto" and (use.form == "fused" or use.reason) for use in uses)
    assert bool(uses) == (adapter != "gated_xattn")


@pytest.mark.slow
@pytest.mark.parametrize("adapter", PROMPTED)
def test_a_compiled_cell_gives_the_scores_of_eager_mode(adapter, adni_cohort, monkeypatch):
    eager = cell(adni_cohort, adapter, "eager")
    # The graphs are what is asked here, not the minutes of code that a compiler writes for them.
    monkeypatch.setattr(torch, "compile", partial(torch.compile, backend="eager"))
    compiled = cell(adni_cohort, adapter, "compile")
    np.testing.assert_allclose(compiled.arrays["scores"], eager.arrays["scores"], atol=1e-4)
    report, plain = (diagnostics_of(made.grafted.adapters[adapter]) for made in (compiled, eager))
    assert report.get("chosen_tasks") == plain.get("chosen_tasks")
    assert report.get("router_entropy") == pytest.approx(plain.get("router_entropy"), abs=1e-4)
