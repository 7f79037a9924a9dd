"""Whole cells on a device: one of each family, and one in each precision."""

from __future__ import annotations

import math
from typing import Any

from rich.console import Console

from medgraft.benchmarks.gpu.setting import NotHereError, Setting

FAMILIES = {
    "image": ("lora", "chexpert", "phantom_chest"),
    "volume": ("brain_adapter", "adni_image", "phantom_brain"),
    "text and image": ("ace_lora", "chexpert_5x200", "phantom_chest"),
    "experts": ("tgh_moe", "adni_image", "phantom_brain"),
    "resampler": ("perceiver_resampler", "chexpert", "phantom_chest"),
    "language": ("soft_prefix", "chest_reports", "pair:embedded:chest|causal_lm:embedded"),
    "fmri": ("lora", "abide", "swift:tiny@random"),
    "eeg": ("channel_mixing", "tuab", "braindecode:cbramod,seconds=4@random"),
}
"""Family -> adapter, task and encoder of its job, on a small phantom."""

LAUNCHED = "through the launcher"


def jobs(setting: Setting) -> list[str]:
    """One job per family, and one as ``medgraft run`` starts it."""
    return ["image"] if setting.quick else [*FAMILIES, LAUNCHED]


def job(item: str, setting: Setting, **changes: Any) -> dict[str, Any]:
    """A whole cell on a small phantom, from data to metrics; on a GPU a second time on the CPU, for the difference."""
    import numpy as np

    if item == LAUNCHED:
        from medgraft.benchmarks.sweep.request import Sweep
        from medgraft.benchmarks.sweep.run import sweep_and_show

        sweep = Sweep.model_validate({**request("image", setting), "jobs": 1})
        return {"ok": not sweep_and_show(sweep, fresh=True, command="gpu_check")}
    result, scores = _cell(item, setting, **changes)
    found: dict[str, Any] = {
        "row": list(FAMILIES[item]), "primary": result.metrics[result.primary].value, "timing": result.timing,
        "steps": result.training["steps"], "ms_per_step": 1e3 * result.training["seconds"] / result.training["steps"],
        "epoch_loss": result.training["epoch_loss"], "ops": {k: [vars(u) for u in v] for k, v in result.ops.items()},
        "memory": result.efficiency.train_step_peak_bytes,
    }  # fmt: skip
    losses = result.training["epoch_loss"]
    found["ok"] = bool(losses) and all(map(math.isfinite, losses))
    if setting.device == "cuda" and not changes and scores is not None:
        other = _cell(item, Setting("cpu", setting.quick, setting.folder))[1]
        found["largest_score_difference_from_cpu"] = float(np.abs(scores - other).max())  # dropout differs by device
    return found


def _cell(item: str, setting: Setting, **changes: Any) -> tuple[Any, Any]:
    """The result of a family's cell, and the scores of its test samples ``[n, K]``."""
    from medgraft.benchmarks.cell.job import Job
    from medgraft.benchmarks.cell.worker import run_cell
    from medgraft.benchmarks.sweep.plan import make_plan
    from medgraft.benchmarks.sweep.request import Sweep

    sweep = Sweep.model_validate({**request(item, setting), **changes})
    plan = make_plan(sweep, Console(quiet=True))
    (cell,) = plan.cells
    order = Job(spec=cell, root=plan.cohorts[cell.cohort.name].root, devices=1)
    result, arrays = run_cell(order, lambda text, share: None)
    return result, arrays.get("scores")


def request(item: str, setting: Setting) -> dict[str, Any]:
    """The sweep of one cell that a family's job is."""
    from medgraft.task.names import task_class
    from medgraft.testing.phantoms import small_phantom

    adapter, task, encoder = FAMILIES[item]
    cohort = task_class(task).cohort
    return {
        "adapters": (adapter,), "tasks": (task,), "encoders": (encoder,), "seeds": (0,), "epochs": 2,
        "precision": "fp32", "device": setting.device, "data": {cohort: small_phantom(cohort)}, "baselines": False,
        "results": setting.folder / "results",
    }  # fmt: skip


def precisions(setting: Setting) -> list[str]:
    """What the job of images is run in."""
    return ["bf16", "fp8"] if setting.quick else ["fp32", "bf16", "bf16_frozen", "fp8"]


def precision(item: str, setting: Setting) -> dict[str, Any]:
    """The job of images in another precision."""
    from medgraft.fast.float8 import float8_obstacle

    if item == "fp8" and (obstacle := float8_obstacle(setting.device)) is not None:
        raise NotHereError(obstacle)
    return job("image", setting, precision=item)
