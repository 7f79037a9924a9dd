"""Names that the documentation of some version gave to authors of plugins: they go on to work."""

from __future__ import annotations

import importlib

import pytest

NAMES = """
medgraft: Adapter AdapterConfig Attachment Encoder EncoderSpec Features Site Support build_encoder graft match_sites
medgraft.task: Task TaskConfig TaskData RawInputs subject_split
medgraft.losses: label_guided_info_nce gathered_info_nce
medgraft.options: Options
medgraft.registry: TrainDefaults build_encoder
medgraft.schedule: Phase ONE_PHASE
medgraft.sources: check
medgraft.adapter: Adapter AdapterConfig Attachment Support
medgraft.adapter.class_prompts: ClassAdapter
medgraft.adapter.protocols: HasDiagnostics LearnsClasses Precomputes
medgraft.adapter.class_prompts: ClassAdapter
medgraft.adapter.support_adapter: SupportAdapter
medgraft.encoder: DualEncoder Encoder EncoderSpec MultimodalEncoder TextEncoder
medgraft.grafting: Grafted encoder_of graft ungraft_all
medgraft.metric: Metric Predictions
medgraft.objective: Objective
medgraft.classes: ClassAdapter
medgraft.forms: fast_forms backward
medgraft.testing: check_adapter check_encoder check_task Check ConformanceError
medgraft.adapters.ace_hgnn: AceHgnn
medgraft.adapters.gated_xattn: GatedCrossAttention
medgraft.adapters.perceiver_resampler: PerceiverResampler
medgraft.encoders.m3d: M3DViT
medgraft.benchmarks.content: file_facts
medgraft.files.content: file_facts
"""
LINES = [line.partition(": ") for line in NAMES.strip().splitlines()]


@pytest.mark.parametrize(("module", "name"), [(m, n) for m, _, names in LINES for n in names.split()])
def test_a_name_that_was_documented_is_there(module, name):
    assert hasattr(importlib.import_module(module), name)
