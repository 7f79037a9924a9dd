"""The fused operations on a device: errors and speed."""

from __future__ import annotations

import dataclasses
from typing import Any

from medgraft.benchmarks.gpu.setting import Setting


def operations(setting: Setting) -> list[str]:
    """Every fused operation."""
    from medgraft.benchmarks.kernels.cases import CASES

    return ["bottleneck", "packed_lora"] if setting.quick else list(CASES)


def kernel(item: str, setting: Setting) -> dict[str, Any]:
    """A fused operation: the parity gate, the largest error against float64, and its speed against eager mode."""
    import statistics

    import numpy as np
    import torch

    from medgraft.benchmarks.kernels.cases import CASES
    from medgraft.benchmarks.kernels.command import one_run, parity, relative

    case, device, found = CASES[item], setting.device, dict[str, Any]()
    small = device == "cpu"
    gate = case if not small else _small(case)
    for name in case.dtypes:
        dtype = getattr(torch, name)
        exact, got = case.build(device, torch.float64, "eager", True)(), case.build(device, dtype, "fused", True)()
        errors = {part: relative(a, b) for part, a, b in zip(case.outputs, got, exact, strict=True)}
        most = [((a.double() - b).abs().max() / b.abs().max()).item() for a, b in zip(got, exact, strict=True)]
        steps = {form: case.build(device, dtype, form, small) for form in ("eager", "fused")}
        seconds: dict[str, list[float]] = {form: [] for form in steps}
        for turn in range(3 if small else 12):
            for form, step in steps.items():
                spent = one_run(step, device)
                if turn:  # the first compiles
                    seconds[form].append(spent)
        ratios = [a / b for a, b in zip(seconds["eager"], seconds["fused"], strict=True)]
        found[name] = {
            "wrong": parity(gate, device, dtype), "error": errors, "largest": float(np.max(most)),
            "ms": {form: 1e3 * statistics.median(each) for form, each in seconds.items()},
            "eager_over_fused": [min(ratios), statistics.median(ratios), max(ratios)],
        }  # fmt: skip
    form = "Triton" if not small else "the CPU form on small shapes; the Triton kernel was not run"
    return {"form": form, **found, "ok": not any(each["wrong"] for each in found.values())}


def _small(case: Any) -> Any:
    return dataclasses.replace(case, build=lambda device, dtype, form, _: case.build(device, dtype, form, True))
