"""The last step: what the trained graft costs."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from medgraft.benchmarks.cell.steps.precomputing import Ready
from medgraft.benchmarks.measure.costs import forward_flops, peak_allocation, process_peak, samples_per_second
from medgraft.benchmarks.results.intact import NotIntactError, hidden_leaves, named
from medgraft.benchmarks.results.result import Efficiency
from medgraft.benchmarks.training.training_state import TrainingLog
from medgraft.features import Features
from medgraft.modality import find_modality
from medgraft.objective import modalities


def measure(ready: Ready, log: TrainingLog) -> Efficiency:
    """Costs of the trained graft.

    Of several ranks the first measures operations and speed, with its device alone on whole batches, while the others
    wait; a training step is taken by all together, and its peak is that of one device's part.

    Args:
        ready: The graft.
        log: Of its training.

    Raises:
        NotIntactError: An adapter trains tensors that it does not register, or changed what it must leave as it is.
    """
    loaded, grafted, device = ready.loaded, ready.grafted, ready.spec.device
    size = min(min(find_modality(name).measure_batch for name in loaded.task.inputs), len(loaded.splits["train"]))
    index = loaded.splits["train"][:size]
    grafted.eval()
    flops = speed = None
    if ready.runner.world.rank == 0:
        rows = ready.runner.cut({name: part.batch(index) for name, part in loaded.prepared.items()})
        whole = {name: row.to(device) for name, row in rows.items()}
        with ready.runner.autocast():  # weights that are held in bf16 take no other inputs
            flops = forward_flops(lambda: grafted.encode(whole), size)  # a compiled graph hides its operations
        speed = _inference_speed(ready, whole, size)
    grafted.train()
    for parameter in grafted.trainable_parameters():
        parameter.grad = None
    peak = peak_allocation(lambda: _step(ready), device) if log.steps else None
    ready.attached.check_untouched(ready.spec.seed + 1)
    read = {name: tower for name, tower in loaded.encoder.towers().items() if name in modalities(loaded.task)}
    return Efficiency(
        trainable=grafted.trainable_count(),
        trainable_dtype=grafted.trainable_dtypes(),
        encoder_parameters=sum(p.numel() for tower in read.values() for p in tower.parameters()),
        forward_flops=flops,
        train_samples_per_s=log.samples / log.seconds if log.seconds else None,
        inference_samples_per_s=speed,
        generated_tokens_per_s=ready.runner.objective.generation_rate(),
        train_step_peak_bytes=peak,
        process_peak_bytes=process_peak(),
        cached_stage={name: (ready.first[name], tower.n_stages) for name, tower in loaded.towers().items()},
    )


def _inference_speed(ready: Ready, whole: Mapping[str, Tensor | Features], size: int) -> float:
    objective = ready.runner.objective
    with torch.no_grad():
        context = objective.context(ready.grafted) if objective.learns_classes else None

    def infer() -> object:
        with torch.no_grad(), ready.runner.autocast():
            outputs = ready.runner.encode(whole, {})  # compiled where the cell is
            # Some methods embed the prompts anew for each image, which is most of what a prediction costs.
            return objective.scores(ready.grafted, outputs, context) if objective.learns_classes else outputs

    return samples_per_second(infer, size, ready.spec.device)


def _step(ready: Ready) -> None:
    """A training step without its update."""
    loss = ready.runner.loss(ready.loaded.splits["train"][: ready.spec.train.batch_size])
    if hidden := hidden_leaves(loss, ready.grafted):
        shapes = named(str(list(leaf.shape)) for leaf in hidden)
        raise NotIntactError(
            f"adapter {ready.spec.adapter!r} trains tensors that it does not register, of shape {shapes}, so "
            "that they are neither counted nor saved; make them nn.Parameters of the adapter"
        )
    if loss.requires_grad:
        ready.runner.backward(loss)
