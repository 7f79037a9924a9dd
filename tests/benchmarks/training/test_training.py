"""Training and prediction: the schedule, the order of samples, what is optimised, and what happens to a bad loss."""

from __future__ import annotations

from collections.abc import Mapping
from itertools import pairwise
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from medgraft_toy import ToyEncoder, ToyGain
from torch import Tensor, nn

from medgraft.adapter import Adapter
from medgraft.benchmarks.prefix_cache.rows import TowerInputs
from medgraft.benchmarks.training.phases import learning_rate
from medgraft.benchmarks.training.trainer import Runner, batches
from medgraft.features import Features
from medgraft.grafting import Grafted
from medgraft.objective import make_objective
from medgraft.registry import TrainDefaults, build_adapters
from medgraft.task import RawInputs, TaskData

N = 48
FAST = TrainDefaults(epochs=8, lr=0.05, head_lr=0.05, batch_size=16)


def runner(adapter: Adapter | None = None, kind: str = "multiclass", *, seed: int = 0) -> Runner:
    """A graft of the toy encoder on images whose brightness is their class."""
    torch.manual_seed(seed)
    rng = np.random.default_rng(0)
    targets = np.arange(N, dtype=np.int64) % 2
    x = (0.3 * rng.random((N, 1, 8, 8)) + 0.5 * targets[:, None, None, None]).astype(np.float32)
    table = np.stack([targets, 1 - targets], axis=1).astype(np.float32)
    data = TaskData(
        inputs={"image": RawInputs(lambda i: x[i], N, "")},
        targets=table if kind == "multilabel" else targets,
        subjects=np.arange(N).astype(str),
        splits={},
        classes=("dull", "bright"),
    )
    adapters = {"own": adapter} if adapter is not None else build_adapters("linear_probe")
    grafted = Grafted(ToyEncoder(), adapters)
    found = Runner(
        grafted, make_objective(kind, data, ("image",)), data, {"image": TowerInputs(0, {"x": x})}, grafted.encode
    )
    found.add_head(np.arange(N))
    return found


def quiet(share: float) -> None:
    """No progress is shown."""


# --- the schedule -----------------------------------------------------------------------------------------------------


def test_the_rate_climbs_to_its_peak_and_ends_at_zero():
    rates = [learning_rate(step, 100, 0.1) for step in range(100)]
    assert rates[9] == 1.0 and rates[-1] == pytest.approx(0.0, abs=1e-12)
    assert all(a < b for a, b in pairwise(rates[:10]))
    assert all(a > b for a, b in pairwise(rates[9:]))


@given(steps=st.integers(1, 300), warmup=st.floats(0, 1))
def test_every_rate_is_a_share_of_the_peak(steps, warmup):
    rates = [learning_rate(step, steps, warmup) for step in range(steps)]
    assert all(0 <= rate <= 1 for rate in rates) and max(rates) > 0


def test_the_half_way_rate_of_the_cosine_is_one_half():
    assert learning_rate(59, 110, 0.1) == pytest.approx(0.5, abs=0.01)  # 49 of 99 falling steps


# --- fitting ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["multiclass", "multilabel"])
def test_the_loss_falls_and_a_separable_toy_is_learned(kind):
    found = runner(kind=kind)
    log = found.fit(np.arange(N), FAST, 0, quiet)
    assert log.epoch_loss[-1] < 0.5 * log.epoch_loss[0]
    scores = found.predict(np.arange(N))
    assert ((scores[:, 1] if kind == "multiclass" else scores[:, 0]) > 0.5).tolist() == (np.arange(N) % 2 == 1).tolist()


def test_the_log_counts_steps_and_samples():
    log = runner().fit(np.arange(40), FAST.model_copy(update={"epochs": 2}), 0, quiet)
    assert (log.steps, log.samples, len(log.epoch_loss)) == (6, 80, 2)  # 16 + 16 + 8, twice
    assert log.seconds > 0


def test_progress_ends_at_one():
    shares: list[float] = []
    runner().fit(np.arange(N), FAST.model_copy(update={"epochs": 1}), 0, shares.append)
    assert shares == pytest.approx([1 / 3, 2 / 3, 1.0])


def steps_of(found: Runner, monkeypatch: pytest.MonkeyPatch, epochs: int) -> tuple[list[list[int]], list[float]]:
    """Samples and learning rate of every step."""
    samples: list[list[int]] = []
    rates: list[float] = []
    loss, optimizer = found.loss, found.optimizer(FAST)

    def watched(index: np.ndarray, *rest: Any) -> Tensor:
        samples.append(index.tolist())
        rates.append(optimizer.param_groups[0]["lr"])
        return loss(index, *rest)

    monkeypatch.setattr(found, "loss", watched)
    monkeypatch.setattr(found, "optimizer", lambda train: optimizer)
    found.fit(np.arange(N), FAST.model_copy(update={"epochs": epochs}), 0, quiet)
    return samples, rates


def test_every_epoch_sees_every_sample_once_in_an_order_of_its_own(monkeypatch):
    samples, _ = steps_of(runner(), monkeypatch, 2)
    first, second = ([i for part in parts for i in part] for parts in (samples[:3], samples[3:]))
    assert sorted(first) == sorted(second) == list(range(N))
    assert first != second and list(range(N)) not in (first, second)


def test_every_step_takes_the_rate_of_the_schedule(monkeypatch):
    _, rates = steps_of(runner(), monkeypatch, 4)
    assert rates == [FAST.lr * learning_rate(step, 12, FAST.warmup) for step in range(12)]


def test_zero_epochs_train_nothing():
    found = runner()
    before = found.predict(np.arange(N))
    assert found.fit(np.arange(N), FAST.model_copy(update={"epochs": 0}), 0, quiet).steps == 0
    assert np.array_equal(found.predict(np.arange(N)), before)


def test_training_leaves_the_encoder_bit_identical():
    found = runner(ToyGain())
    before = {name: value.clone() for name, value in found.grafted.encoder.state_dict().items()}
    found.fit(np.arange(N), FAST, 0, quiet)
    assert all(torch.equal(before[name], value) for name, value in found.grafted.encoder.state_dict().items())


def test_adapter_and_head_are_both_trained():
    found = runner(ToyGain())
    before = {name: value.clone() for name, value in found.grafted.named_parameters() if value.requires_grad}
    found.fit(np.arange(N), FAST, 0, quiet)
    changed = {name for name, value in found.grafted.named_parameters() if name in before}
    assert changed == {"adapters.own.gain", "head.linear.weight", "head.linear.bias"}
    assert not any(torch.equal(before[name], dict(found.grafted.named_parameters())[name]) for name in before)


class Slowed(ToyGain):
    def learning_rate_scale(self, parameter: str) -> float:
        return 0.25


def test_an_adapters_own_factor_scales_its_rate_and_not_the_heads():
    groups = runner(Slowed()).optimizer(FAST).param_groups
    assert sorted((group["lr"], len(group["params"])) for group in groups) == [(0.0125, 1), (0.05, 2)]


class Penalised(ToyGain):
    def extra_loss(self, outputs: Mapping[str, Features]) -> Tensor:
        return torch.tensor(100.0)


def test_an_adapters_own_loss_is_added():
    own, plain = runner(Penalised()), runner(ToyGain())
    difference = own.loss(np.arange(8)) - plain.loss(np.arange(8))
    assert difference.item() == pytest.approx(100.0, abs=1e-3)


class Exploding(Adapter):
    def attach(self, encoder: Any, sites: Any) -> Any:
        from medgraft.adapter import Attachment

        self.factor = nn.Parameter(torch.tensor(1.0))
        attachment = Attachment(encoder)
        attachment.map_features(
            encoder, lambda f: f.replace(pooled=f.pooled * (self.factor * torch.inf if self.training else 1.0))
        )
        return attachment


def test_a_loss_that_is_not_finite_is_an_error_with_a_remedy():
    with pytest.raises(FloatingPointError, match="the loss is nan after 3 steps; lower the learning rate"):
        runner(Exploding()).fit(np.arange(N), FAST, 0, quiet)


# --- determinism ------------------------------------------------------------------------------------------------------


def fitted(seed: int) -> np.ndarray:
    found = runner(ToyGain(), seed=seed)
    torch.manual_seed(seed + 1)
    found.fit(np.arange(N), FAST, seed, quiet)
    return found.predict(np.arange(N))


def test_the_same_seed_gives_the_same_bits():
    assert np.array_equal(fitted(0), fitted(0))


def test_another_seed_gives_other_numbers():
    assert not np.array_equal(fitted(0), fitted(1))


def test_the_order_of_samples_does_not_depend_on_what_was_drawn_before():
    def losses() -> list[float]:
        return runner().fit(np.arange(N), FAST, 3, quiet).epoch_loss

    first = losses()
    torch.rand(5)
    np.random.default_rng().random(5)
    assert losses() == first


def test_bf16_learns_the_same_toy_with_numbers_of_its_own():
    found, plain = runner(ToyGain()), runner(ToyGain())
    found.bf16 = True
    for each in (found, plain):
        torch.manual_seed(1)
        each.fit(np.arange(N), FAST, 0, quiet)
    scores, expected = found.predict(np.arange(N)), plain.predict(np.arange(N))
    # Features of 8 bits, a relative error of 2^-8 each, through a few steps of training.
    assert not np.array_equal(scores, expected) and np.abs(scores - expected).max() < 0.1


# --- prediction -------------------------------------------------------------------------------------------------------


def test_predictions_come_in_the_order_that_was_asked_for():
    found = runner()
    found.fit(np.arange(N), FAST, 0, quiet)
    backwards = found.predict(np.arange(N)[::-1].copy())
    np.testing.assert_allclose(backwards[::-1], found.predict(np.arange(N)), rtol=1e-6)


def test_predictions_are_probabilities_in_double_precision():
    scores = runner().predict(np.arange(5))
    assert scores.dtype == np.float64 and np.allclose(scores.sum(axis=1), 1.0, atol=1e-6)


def test_prediction_turns_what_is_random_in_training_off():
    found = runner(ToyGain(ToyGain.Config(noise=0.5)))
    found.fit(np.arange(N), FAST, 0, quiet)
    found.grafted.train()
    assert not torch.equal(found.loss(np.arange(N)), found.loss(np.arange(N)))
    assert np.array_equal(found.predict(np.arange(N)), found.predict(np.arange(N)))


def test_batches_cover_everything_once():
    parts = list(batches(np.arange(10), 4))
    assert [len(part) for part in parts] == [4, 4, 2] and np.concatenate(parts).tolist() == list(range(10))


# --- which parameters are kept ----------------------------------------------------------------------------------------


def kept_of(keep: str, losses: list[float], monkeypatch: pytest.MonkeyPatch) -> tuple[Tensor, list[Tensor]]:
    """The head after training whose epochs report these losses, and after each epoch."""
    found, after = runner(), []
    train = FAST.model_copy(update={"epochs": len(losses), "batch_size": N, "keep": keep})
    loss, told = found.loss, iter(losses)

    def pretend(index: np.ndarray, *rest: Any) -> Tensor:
        after.append(found.grafted.head.linear.weight.detach().clone())
        value = loss(index, *rest)
        return value + (next(told) - value).detach()

    monkeypatch.setattr(found, "loss", pretend)
    found.fit(np.arange(N), train, 0, quiet)
    return found.grafted.head.linear.weight.detach(), after[1:]


def test_the_parameters_of_the_last_epoch_are_kept(monkeypatch):
    last, after = kept_of("last", [3.0, 1.0, 2.0, 4.0], monkeypatch)
    # The schedule ends at a rate of zero, so the last step changes nothing more.
    assert torch.equal(last, after[-1]) and not any(torch.equal(last, each) for each in after[:-1])


def test_on_request_those_of_the_epoch_with_the_lowest_training_loss_are(monkeypatch):
    kept, after = kept_of("lowest_loss", [3.0, 1.0, 2.0, 1.0], monkeypatch)
    assert torch.equal(kept, after[1])  # the first of two equal ones


class NormedGain(ToyGain):
    """A gain behind a batch norm."""

    def __init__(self, config: Any = None) -> None:
        super().__init__(config)
        self.norm = nn.BatchNorm1d(ToyEncoder().spec.dim)

    def _scale(self, features: Features) -> Features:
        return super()._scale(features.replace(pooled=self.norm(features.pooled)))


def test_running_statistics_are_kept_with_the_parameters(monkeypatch):
    adapter = NormedGain()
    found, means, steps = runner(adapter), [], []
    loss, told = found.loss, iter([3.0, 1.0, 2.0])

    def pretend(index: np.ndarray, *rest: Any) -> Tensor:
        value = loss(index, *rest)
        means.append(adapter.norm.running_mean.clone())
        steps.append(int(adapter.norm.num_batches_tracked))
        return value + (next(told) - value).detach()

    monkeypatch.setattr(found, "loss", pretend)
    train = FAST.model_copy(update={"epochs": 3, "batch_size": N, "keep": "lowest_loss"})
    found.fit(np.arange(N), train, 0, quiet)
    assert torch.equal(adapter.norm.running_mean, means[1]) and not torch.equal(means[1], means[2])
    assert int(adapter.norm.num_batches_tracked) == steps[1] == 2


@pytest.mark.parametrize("bf16", [False, True])
@pytest.mark.parametrize("where", ["input", "blocks"])
def test_what_is_computed_again_takes_the_forms_that_it_had(where, bf16, monkeypatch):
    import tiny_encoders as tiny

    from medgraft.fast import linear

    monkeypatch.setattr(linear, "SMALLEST", 0)  # small products take the faster form too
    volumes = np.random.default_rng(0).random((6, 1, *tiny.shared("brain").towers()["volume"].spec.input_size))
    data = TaskData(
        inputs={"volume": RawInputs(lambda i: volumes[i], 6, "")},
        targets=np.arange(6, dtype=np.int64) % 2,
        subjects=np.arange(6).astype(str),
        splits={},
        classes=("a", "b"),
    )
    rows = {"volume": TowerInputs(0, {"x": volumes.astype(np.float32)})}
    gradients = []
    for recompute in (False, True):
        torch.manual_seed(0)
        grafted = Grafted(
            tiny.fresh("brain").towers()["volume"],
            build_adapters("brain_adapter", {"where": where, "recompute": recompute}),
        )
        made = Runner(grafted, make_objective("multiclass", data, ("volume",)), data, rows, grafted.encode, bf16)
        made.add_head(np.arange(6))
        with torch.no_grad():
            for parameter in grafted.trainable_parameters():
                parameter.add_(torch.randn_like(parameter) * 0.02)
        for _ in range(2):
            grafted.zero_grad()
            made.backward(made.loss(np.arange(4)))
        gradients.append([p.grad for p in grafted.trainable_parameters()])
    # Without recomputing, the last block runs for CLS alone: sums in another order, and bf16 holds 8 bits.
    size = max(g.abs().max() for g in gradients[0])
    for a, b in zip(*gradients, strict=True):
        assert (a - b).abs().max() <= (0.05 if bf16 else 1e-4) * size
