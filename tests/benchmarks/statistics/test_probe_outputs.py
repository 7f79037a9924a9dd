"""What an objective makes of a probe's outputs is what it makes of its head's."""

from __future__ import annotations

import numpy as np
import torch

from medgraft.objective import make_objective
from medgraft.task import RawInputs, TaskData


def data(targets: np.ndarray, classes: tuple[str, ...], *, uncertain: bool = False) -> TaskData:
    n = len(targets)
    splits = {"train": np.arange(n - 2), "val": np.array([n - 2]), "test": np.array([n - 1])}
    inputs = {"image": RawInputs(lambda i: None, n, "")}
    return TaskData(inputs, targets, np.arange(n).astype(str), splits, classes, uncertain_class=uncertain)


def test_numbers_are_in_their_unit():
    targets = np.array([10.0, 20.0, 30.0, 0.0, 0.0])
    made = make_objective("regression", data(targets, ()), ("image",))
    found = made.of_outputs(torch.tensor([[0.0], [1.0]]))
    np.testing.assert_allclose(found.numpy(), [[20.0], [20.0 + np.std([10.0, 20.0, 30.0])]])


def test_labels_that_may_be_uncertain_are_the_odds_of_present_against_absent():
    targets = np.array([[0, 1], [1, 2], [2, 0], [1, 1], [0, 0]], np.float32)
    made = make_objective("multilabel", data(targets, ("a", "b"), uncertain=True), ("image",))
    outputs = torch.randn(4, 6, generator=torch.Generator().manual_seed(0))
    parts = torch.softmax(outputs.view(4, 2, 3), dim=-1)
    expected = parts[..., 1] / (parts[..., 0] + parts[..., 1])
    torch.testing.assert_close(made.of_outputs(outputs), expected)
