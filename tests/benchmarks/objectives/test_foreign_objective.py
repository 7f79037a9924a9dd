"""An objective and a metric of another distribution: found, trained, judged, ranked; and every way to misname one."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from distributions import install, install_groups
from sweeping import Toy, command

from medgraft import plugins
from medgraft.benchmarks.board.rows import board_rows
from medgraft.benchmarks.results.reading import read_results
from medgraft.errors import DataError, UnknownNameError
from medgraft.metric.judging import metric
from medgraft.objective import make_objective, objective_class, objective_name
from medgraft.task import TaskData

SOURCE = '''
"""The middle of what may be, by the pinball loss."""

import numpy as np
import torch
from medgraft.benchmarks.objectives.heads import joined, linear_head
from medgraft.errors import DataError
from medgraft.metric import Metric, Predictions
from medgraft.objective import Objective
from medgraft.task import Task
from medgraft_toy import ToyTask

TAU = 0.8


class Pinball(Metric):
    """Mean pinball loss of the 80% quantile."""

    numbers, bounds, higher_is_better = ("pinball",), (0.0, float("inf")), False

    def statistics(self, p):
        error = p.targets - p.scores[:, 0]
        loss = np.maximum(TAU * error, (TAU - 1) * error)
        return {"pinball": lambda weights: weights @ loss / weights.sum(axis=1)}


class Quantile(Objective):
    """The 80% quantile of a number, by a linear head."""

    primary, metrics, columns = "pinball", ("pinball_loss", "errors"), ("pinball", "mae")

    @classmethod
    def check(cls, data, inputs):
        if data.targets.dtype.kind != "f":
            raise DataError("a quantile is of numbers")

    def make_head(self, sample):
        return linear_head(sample, self.inputs, 1)

    def loss(self, grafted, outputs, batch):
        error = batch.targets.float() - self.scores(grafted, outputs)[:, 0]
        return torch.maximum(TAU * error, (TAU - 1) * error).mean()

    def scores(self, grafted, outputs, context=None):
        return grafted.head(joined(outputs, self.inputs))

    def predictions(self, predict, splits, groups):
        test = splits["test"]
        return Predictions(predict(test), self.data.targets[test], groups, ())

    @classmethod
    def misfit(cls, p):
        return "" if p.scores.shape == (len(p.targets), 1) else "no single numbers"


class Brightness(ToyTask):
    """How bright a film is."""

    objective, primary = "quantile", "pinball"

    def load(self, root):
        data = super().load(root)
        raw = data.inputs["image"]
        data.targets = np.array([raw.read(i).mean() for i in range(raw.count)])
        data.classes = ()
        return data


class Misspelt(ToyTask):
    objective = "quantil"

    def load(self, root):
        raise AssertionError("nothing may be read before names are right")


class ByItsClass(Brightness):
    objective = Quantile


class Unfit(ToyTask):
    objective = "quantile"
'''
ENTRY_POINTS = """
[medgraft.objectives]
quantile = medgraft_quantiles:Quantile
[medgraft.metrics]
pinball_loss = medgraft_quantiles:Pinball
[medgraft.tasks]
brightness = medgraft_quantiles:Brightness
brightness_by_class = medgraft_quantiles:ByItsClass
misspelt = medgraft_quantiles:Misspelt
unfit = medgraft_quantiles:Unfit
"""


@pytest.fixture
def quantiles(toy: Toy, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Toy:
    """The toy beside a distribution with an objective, its metric, and tasks of it; in this process and in workers."""
    site = tmp_path / "site"
    install_groups(site, "medgraft-quantiles", ENTRY_POINTS, {"medgraft_quantiles": SOURCE})
    monkeypatch.syspath_prepend(str(site))
    monkeypatch.setenv("PYTHONPATH", f"{site}:{toy.site}")
    return toy


def swept(toy: Toy, task: str, out: Path, *more: str):
    arguments = ["--adapters", "toy_gain", "--tasks", task, "--encoders", "toy:tiny", "--data", f"toy={toy.cohort}"]
    return command("run", *arguments, "--epochs", "4", "--no-baselines", "--results", str(out), *more)


@pytest.mark.slow
@pytest.mark.parametrize("task", ["brightness", "brightness_by_class"])
def test_a_foreign_objective_is_trained_judged_and_ranked_by_its_own_metric(quantiles, task, tmp_path):
    done = swept(quantiles, task, tmp_path / "out", "--adapters", "toy_gain,linear_probe")
    assert done.exit_code == 0, done.output
    found = {cell.spec.adapter: cell for _, cell in read_results([tmp_path / "out"])}
    assert set(found) == {"toy_gain", "linear_probe"}
    for cell in found.values():
        assert cell.status == "success" and list(cell.metrics) == ["pinball", "mae", "rmse"]
        value = cell.metrics["pinball"]
        assert value.ci_low < value.value < value.ci_high and cell.primary == "pinball"
        assert cell.data["objective"] in ("quantile", "medgraft_quantiles:Quantile")
    rows = board_rows([tmp_path / "out"])
    assert [row.unverified for row in rows] == [0, 0]  # the numbers were made again of the stored predictions
    assert rows[0].metrics["pinball"][0] <= rows[1].metrics["pinball"][0]  # less is better
    board = command("leaderboard", str(tmp_path / "out"), "--out", str(tmp_path))
    assert board.exit_code == 0 and "pinball" in (tmp_path / "leaderboard.md").read_text()


def test_a_misspelt_objective_is_refused_before_anything_is_read(quantiles, tmp_path):
    done = swept(quantiles, "misspelt", tmp_path / "out")
    assert done.exit_code == 2
    assert "unknown objective 'quantil'; did you mean quantile" in " ".join(done.output.split())


def test_targets_that_do_not_fit_are_one_sentence(quantiles, tmp_path):
    done = swept(quantiles, "unfit", tmp_path / "out")
    assert done.exit_code != 0 and "a quantile is of numbers" in done.output and "Traceback" not in done.output


def test_a_name_that_two_distributions_register_needs_its_distribution(quantiles, tmp_path, monkeypatch):
    twin = tmp_path / "twin"
    install(
        twin, "twin", {"quantile": "medgraft_twin:Quantile"}, {"medgraft_twin": SOURCE}, group="medgraft.objectives"
    )
    monkeypatch.syspath_prepend(str(twin))
    with pytest.raises(UnknownNameError, match=r"several .* medgraft-quantiles:quantile, twin:quant"):
        plugins.find("objective", "quantile")
    assert plugins.find("objective", "twin:quantile").target == "medgraft_twin:Quantile"


def test_a_built_in_name_cannot_be_taken(toy, tmp_path, monkeypatch, caplog):
    site = tmp_path / "thief"
    site.mkdir()
    install_groups(site, "thief", "[medgraft.objectives]\nsurvival = thief:Quantile\n", {"thief": SOURCE})
    monkeypatch.syspath_prepend(str(site))
    assert plugins.find("objective", "survival").builtin
    assert [each.plugin.distribution for each in plugins.survey("objective").refused] == ["thief"]


@pytest.mark.parametrize(("kind", "near"), [("multiklass", "multiclass"), ("regresion", "regression"), ("x" * 40, "")])
def test_an_unknown_objective_names_near_ones(kind, near):
    with pytest.raises(
        UnknownNameError, match=f"unknown objective '{kind}'" + (f".*did you mean {near}" if near else "")
    ):
        objective_class(kind)


def test_an_unknown_metric_names_near_ones():
    with pytest.raises(UnknownNameError, match="did you mean concordance"):
        metric("concordence")


@pytest.mark.parametrize(
    ("objective", "targets", "message"),
    [
        ("regression", np.array([0, 1, 2, 3, 4, 5]), "a regression has one number"),
        ("regression", np.array([0.0, np.nan, 1, 2, 3, 4]), "not finite"),
        ("survival", np.array([1.0, 2, 3, 4, 5, 6]), "event"),
        ("multiclass", np.array([0, 1, 0, 1, 0, 7]), "targets"),
        ("multilabel", np.array([0, 1, 0, 1, 0, 1]), "targets"),
        ("prompted", np.array([0, 1, 0, 1, 0, 1]), "prompt"),
        ("segmentation", np.array([0, 1, 0, 1, 0, 1]), "regions"),
    ],
)  # fmt: skip
def test_targets_of_another_kind_are_refused_by_every_objective(objective, targets, message):
    parts = {"train": np.array([0, 1]), "val": np.array([2, 3]), "test": np.array([4, 5])}
    data = TaskData({}, targets, np.array(list("abcdef")), parts, ("calm", "busy"))
    with pytest.raises(DataError, match=message):
        make_objective(objective, data, ("image",))


def test_a_class_that_is_handed_over_is_known_by_its_module_and_name(quantiles):
    from medgraft_quantiles import Quantile  # pyright: ignore[reportMissingImports]  # installed by the fixture

    assert objective_name(Quantile) == "medgraft_quantiles:Quantile"
    assert json.dumps(objective_name("quantile")) == '"quantile"'
