"""Training steps that are bound by launches or by reading: stacked seeds, CUDA graphs, rows that are read ahead."""

from __future__ import annotations

import functools
import time
from typing import Any

from medgraft.benchmarks.gpu.parity import PARITY
from medgraft.benchmarks.gpu.setting import NotHereError, Setting


def _seeds(item: str, setting: Setting) -> Any:
    """An adapter on cached features of a random ViT, in float32."""
    from medgraft.benchmarks.speed.contenders import Order
    from medgraft.benchmarks.speed.stacked_seeds import ROWS, build

    size, seeds = ("tiny", 2) if setting.quick else ("small", 4)
    order = {"job": ROWS[item], "ours": True, "size": size, "seeds": seeds, "device": setting.device}
    return build(item, Order.model_validate(order), steps=3 if setting.quick else 20)


def stackable(setting: Setting) -> list[str]:
    """Adapters whose seeds are trained one by one and stacked."""
    from medgraft.benchmarks.speed.stacked_seeds import ROWS

    return ["linear_probe"] if setting.quick else list(ROWS)


def stacked(item: str, setting: Setting) -> dict[str, Any]:
    """Milliseconds per step and seed, one by one and stacked, which must train the same."""
    from medgraft.benchmarks.speed.stacked_seeds import compare

    apart, together = compare(_seeds(item, setting), 1 if setting.quick else 5)
    return {"one_by_one_ms": 1e3 * apart, "stacked_ms": 1e3 * together, "as_fast": apart / together}


def graphs(item: str, setting: Setting) -> dict[str, Any]:
    """Training in eager mode, compiled, and compiled into CUDA graphs: the last loss and milliseconds per step."""
    import statistics

    import torch

    from medgraft.benchmarks.speed.stacked_seeds import spent_by
    from medgraft.fast.compiling import CompiledEncode, graphs_obstacle

    if (obstacle := graphs_obstacle(setting.device)) is not None:
        raise NotHereError(obstacle)
    seeds = _seeds(item, setting)
    forms = {"eager": None, "compile": CompiledEncode(seeds.grafted.encode, "cpu")}  # of which a CPU has no graphs
    forms["graphs"] = CompiledEncode(seeds.grafted.encode, setting.device)
    losses = {form: seeds.alone(0, encode) for form, encode in forms.items()}
    spent: dict[str, list[float]] = {form: [] for form in forms}
    for _ in range(5):
        for form, encode in forms.items():
            spent[form].append(spent_by(functools.partial(seeds.alone, 0, encode), setting.device))
    counters: Any = torch._dynamo.utils.counters["inductor"]  # pyright: ignore
    gaps = [abs(loss - losses["eager"]) / abs(losses["eager"]) for loss in losses.values()]
    return {
        "ms": {form: 1e3 * statistics.median(each) / seeds.steps for form, each in spent.items()}, "losses": losses,
        "without_graphs": forms["graphs"].reason, "skipped": counters["cudagraph_skips"],
        "ok": all(gap <= PARITY for gap in gaps),
    }  # fmt: skip


def ahead(item: str, setting: Setting) -> dict[str, Any]:
    """Batches of a memory map read ahead and read by the step itself: equal sums, and seconds in turns."""
    import numpy as np
    import torch

    from medgraft.benchmarks.training.read_ahead import LEAST, ReadAhead

    count = 64 if setting.quick else 256 if setting.device == "cpu" else 1024
    shape = (count, 197, 768)
    path = setting.folder / "rows.npy"
    np.save(path, np.random.default_rng(0).standard_normal(shape, np.float32).astype(np.float16))
    rows, weight = np.load(path, mmap_mode="r"), torch.ones(768, 768, device=setting.device)
    parts = np.random.default_rng(1).permutation(shape[0]).reshape(-1, 32)

    def read(part: Any) -> Any:
        return torch.from_numpy(rows[part])

    def whole(device: str, size: int) -> tuple[float, Any]:
        start, sums = time.perf_counter(), []
        with ReadAhead(read, list(parts), device, size) as given:
            for _, batch in given:
                x = batch.to(setting.device).float()
                for _ in range(4):
                    x = x @ weight / 768
                sums.append(x.double().sum())
        sums = torch.stack(sums).cpu()
        return time.perf_counter() - start, sums

    ways = {"itself": ("cpu", 0), "ahead": (setting.device, LEAST)}
    found = {way: [whole(*how) for _ in range(1)] for way, how in ways.items()}
    for _ in range(2 if setting.quick else 5):
        for way, how in ways.items():
            found[way].append(whole(*how))
    same = all(torch.equal(each[1], found["itself"][0][1]) for way in found.values() for each in way)
    ratios = sorted(a[0] / b[0] for a, b in zip(found["itself"][1:], found["ahead"][1:], strict=True))
    return {"itself_over_ahead": ratios, "ok": same}
