"""What a result says about the parts of its cell."""

from __future__ import annotations

from typing import Any

import numpy as np

from medgraft.benchmarks.cell.steps.evaluation import Evaluated
from medgraft.benchmarks.cell.steps.loading import Loaded
from medgraft.benchmarks.cell.steps.precomputing import Ready
from medgraft.benchmarks.cohorts.places import was_trained_on
from medgraft.benchmarks.metrics.bootstrap import METHOD
from medgraft.benchmarks.prefix_cache.rows import hit_rate
from medgraft.benchmarks.results.chosen import Sizing
from medgraft.benchmarks.results.spec import CellSpec
from medgraft.benchmarks.results.values import json_safe
from medgraft.encoder import TextEncoder
from medgraft.modality import TEXT
from medgraft.objective import objective_name
from medgraft.registry import adapter_facts, resolve_adapter, resolve_encoder
from medgraft.task import SPLITS
from medgraft.task.names import resolve_task


def describe_data(loaded: Loaded, evaluated: Evaluated) -> dict[str, Any]:
    """Counts and digests; no identifiers."""
    data, thresholds = loaded.data, evaluated.thresholds
    counts = {name: {"samples": len(loaded.splits[name]), "subjects": _subjects(loaded, name)} for name in SPLITS}
    return json_safe(
        {
            "splits": counts,
            "split_hash": data.split_hash(),
            "subjects_disjoint": True,
            "unreadable": loaded.unreadable,
            "unreadable_reasons": dict(loaded.reasons),
            "texts_at_limit": texts_at_limit(loaded),
            "classes": list(data.classes),
            "objective": objective_name(loaded.task.objective),
            "variants": list(data.variants),
            "questions": list(data.questions),
            "answers": [list(classes) for classes in data.answers],
            "few_subjects": evaluated.few,
            "interval_method": METHOD,
            "thresholds": None if thresholds is None else thresholds.tolist(),
            **data.provenance,
        }
    )


def _subjects(loaded: Loaded, split: str) -> int:
    return len(np.unique(loaded.data.subjects[loaded.splits[split]]))


def texts_at_limit(loaded: Loaded) -> int | None:
    """Texts that fill the encoder's context to its last token, so that what came after it is cut off."""
    tower = loaded.towers().get(TEXT)  # of a sample; class prompts are no samples
    if not isinstance(tower, TextEncoder):
        return None
    used = np.concatenate([loaded.splits[name] for name in SPLITS])
    return int((loaded.prepared[TEXT].array[np.sort(used), -1] != tower.pad_id).sum())


def describe_encoder(loaded: Loaded) -> dict[str, Any]:
    """The encoder's facts, and whether its pre-training saw this cohort."""
    spec = loaded.encoder.spec.model_dump(mode="json")
    spec["saw_this_cohort"] = was_trained_on(loaded.encoder.spec.cohorts, loaded.task.cohort)
    return spec


def describe_cache(ready: Ready) -> dict[str, Any]:
    """Entries that the cell read or built, and the share of the rows read that it did not compute."""
    sources = [*ready.inputs.values(), *(view for views in ready.views.values() for view in views)]
    read = {id(source.use): source.use for source in sources if source.use is not None}
    prepared = {id(part.use): part.use for part in ready.loaded.prepared.values()}
    entries = [use.to_dict() for use in (prepared | read).values()]
    return {"entries": entries, "hit_rate": hit_rate(read.values())}


def describe_adapters(ready: Ready) -> dict[str, Any]:
    """Title, options and coverage of each adapter."""
    names = {part.replace(".", "/"): part for part in ready.spec.adapter.split("+")}
    return {
        name: {
            **adapter_facts(resolve_adapter(names[name])).to_dict(),
            "options": adapter.config.model_dump(mode="json"),
            "coverage": {pattern: len(hits) for pattern, hits in ready.grafted.coverage()[name].items()},
        }
        for name, adapter in ready.grafted.named_adapters()
    }


def describe_size(ready: Ready) -> Sizing | None:
    """How large the adapters are beside their budget; ``None`` without one."""
    if (budget := ready.spec.budget) is None:
        return None
    reached = sum(count for part, count in ready.grafted.trainable_count().items() if part != "head")
    knobs = {}
    for part, adapter in ready.grafted.named_adapters():
        if adapter.size_knob is not None and not knobs:  # of several the first is scaled
            knobs[f"{part}.{adapter.size_knob.option}"] = adapter.size_knob.value_in(adapter.config.model_dump())
    knobs = {name: value for name, value in knobs.items() if value is not None}
    return Sizing(budget=budget, reached=reached, share=reached / budget, knobs=knobs)


def recipe_epochs(spec: CellSpec) -> int:
    """Epochs of the adapter's own recipe, of the last part of a composed one, as a sweep joins them."""
    return adapter_facts(resolve_adapter(spec.adapter.split("+")[-1])).train.epochs


def plugins_of(spec: CellSpec) -> list[dict[str, str]]:
    """Every plugin that took part."""
    plugins = [resolve_adapter(name).plugin for name in spec.adapter.split("+")]
    plugins += [resolve_encoder(spec.encoder).plugin, resolve_task(spec.task).plugin]
    return [{"kind": plugin.kind, **plugin.provenance()} for plugin in plugins]
