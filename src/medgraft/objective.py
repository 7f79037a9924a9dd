"""The contract of an objective plugin: what a task optimises, how it predicts, and what judges the predictions.

An objective is found by its name in the entry-point group ``medgraft.objectives``; a task names one, or hands over the
class. One object serves one cell: it is made with the task's data, gives the graft a head, turns features into a loss
and into scores, and says which metrics read them.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Literal

import numpy as np

from medgraft import plugins
from medgraft.errors import ConfigError, DataError, UnknownNameError
from medgraft.metric import Predictions
from medgraft.modality import TEXT, check_modalities, is_text

if TYPE_CHECKING:  # planning reads names and needs of objectives before torch is imported
    from torch import Tensor, nn

    from medgraft.features import Features
    from medgraft.grafting import Grafted
    from medgraft.schedule import Phase
    from medgraft.task import Task, TaskData

Outputs = Mapping[str, "Features"]
"""Modality -> features of a batch, as :meth:`medgraft.Grafted.encode` gives them."""

Need = Literal["prompts", "text tower", "shared space", "tokens", "still images"]
"""What an objective needs of a task or an encoder.

``prompts``: prompts for each class in the task's data; ``text tower``: an encoder of texts beside the sample's own
modalities, which reads those prompts; ``shared space``: towers that share a space; ``tokens``: the features' tokens, so
that nothing may leave them out; ``still images``: places in the image are learnt, so that augmented views do not fit.
"""


@dataclass
class Batch:
    """Targets of a batch; its inputs travel beside it.

    Attributes:
        targets: ``[B]`` or ``[B, L]``.
        mask: ``[B, L]`` or ``None``.
        labels: ``[B, L]`` or ``None``.
        index: ``int64 [B]`` numbers of the samples, by which an objective finds what else it knows of them.
        again: Features of an augmented view of the same samples, for an objective that compares the two.
    """

    targets: Tensor
    mask: Tensor | None = None
    labels: Tensor | None = None
    index: np.ndarray | None = None
    again: Outputs | None = None


class Objective:
    """Base class of objective plugins.

    Args:
        data: The task's data.
        inputs: Modalities of a sample, in the order in which a head reads them.

    Attributes:
        api_version: Version of this contract that the plugin was written for.
        needs: What it needs of task and encoder.
        primary: Metric that ranks a board where a task names none.
        metrics: Names of the metrics that judge its predictions, in the order of a result.
        columns: Numbers of theirs that a board shows first, beside the primary one.
        one_class_each: Targets are one class for each sample.
        learns_classes: Adapters that learn classes from their prompts
            (:class:`medgraft.adapter.class_prompts.ClassAdapter`) fit it.
        takes_support: It lets an adapter that classifies by its training features
            (:class:`medgraft.adapter.support_adapter.SupportAdapter`) do so in the place of a head.
        activation: What :meth:`activated` does, in words: ``softmax``, ``sigmoid``, or ``identity`` where predictions
            are :meth:`decision` itself.
        compares: It trains on pairs: two modalities of a sample, which :attr:`pair` names.
        writes: Its predictions are texts, which :meth:`texts_for` makes of new samples.
        baselines: Adapters whose rows stand beside every other, on the same encoders: what it takes no skill to reach.
        resumes: Predicting takes long, so that what is predicted is kept as it comes: :meth:`resume_at`.
        missing_inputs: Samples may lack some of their inputs; see :attr:`medgraft.task.RawInputs.present`.
        views: Augmented views of each sample that it compares with it in training (:attr:`Batch.again`), whatever a
            sweep asks for; 0 for most.
        gathers: Of several processes each calls :meth:`loss` with its part of the batch, and the objective gathers what
            it compares (:class:`medgraft.world.World`) and returns the loss of the whole; otherwise the harness gathers
            features, and every process is given the whole batch.
        pair: These two; a task may name others, and where neither does they are the first that is no text, and the
            text. See :func:`pair_of`.
    """

    api_version: ClassVar[int] = 1
    needs: ClassVar[frozenset[Need]] = frozenset()
    primary: ClassVar[str] = ""
    metrics: ClassVar[tuple[str, ...]] = ()
    columns: ClassVar[tuple[str, ...]] = ()
    one_class_each: ClassVar[bool] = False
    learns_classes: ClassVar[bool] = False
    takes_support: ClassVar[bool] = False
    activation: str = "identity"
    compares: ClassVar[bool] = False
    writes: ClassVar[bool] = False
    baselines: ClassVar[tuple[str, ...]] = ("linear_probe",)
    resumes: ClassVar[bool] = False
    missing_inputs: ClassVar[bool] = False
    views: int = 0
    gathers: ClassVar[bool] = False
    pair: tuple[str, ...] = ()

    def __init__(self, data: TaskData, inputs: tuple[str, ...]) -> None:
        self.data, self.inputs = data, inputs

    @classmethod
    def of(cls, data: TaskData, inputs: tuple[str, ...]) -> Objective:
        """The objective for a task's data; one of several kinds of data picks a subclass here.

        Raises:
            DataError: Targets, prompts or inputs do not fit it.
        """
        return cls(data, inputs)

    @classmethod
    def check(cls, data: TaskData, inputs: tuple[str, ...]) -> None:
        """Refuses data that it cannot learn from or be judged on, before anything is trained.

        Called by :meth:`medgraft.task.TaskData.check` with splits that are disjoint by subject.

        Raises:
            DataError: They do not fit; the message names what and how to mend it.
        """

    def state(self) -> dict[str, Any]:
        """What its predictions need that it took from the training targets, as JSON; empty unless it takes any."""
        return {}

    def restore(self, state: Mapping[str, Any]) -> None:
        """Takes back what :meth:`state` gave, in an objective without the data that it was trained on."""

    def save(self, folder: Path) -> None:
        """Writes what its predictions need and is too large for :meth:`state` into the folder of a kept graft."""

    def load(self, folder: Path) -> None:
        """Takes back what :meth:`save` wrote; called after :meth:`restore`.

        Raises:
            CheckpointError: It is missing or damaged.
        """

    def make_head(self, sample: Outputs) -> nn.Module | None:
        """A head that fits the features of some training samples; ``None`` where it needs none."""
        return None

    def prepare_adapters(self, grafted: Grafted, run: Callable[[np.ndarray], Outputs], index: np.ndarray) -> None:
        """Shows training samples to adapters that ask for them; once, on a fresh graft.

        Args:
            grafted: The graft.
            run: Sample numbers -> their features.
            index: ``int64 [n]``, training samples.
        """

    def loss(self, grafted: Grafted, outputs: Outputs, batch: Batch) -> Tensor:
        """The loss of a batch, a scalar."""
        raise TypeError(f"{type(self).__name__} must implement loss()")

    def arrange(self, index: np.ndarray, size: int) -> np.ndarray:
        """The samples of an epoch in the order in which they are cut into batches, ``int64 [n]``.

        Args:
            index: In random order, ``int64 [n]``.
            size: Samples of a batch.
        """
        return index

    def last_phase(self) -> Phase | None:
        """A phase of its own behind those of the adapters, in which :meth:`loss` is another; ``None`` for most.

        Its share of the steps is taken off theirs.
        """
        return None

    def begin_last_phase(self, grafted: Grafted, run: Callable[[np.ndarray], Outputs], index: np.ndarray) -> None:
        """Called where :meth:`last_phase` begins, with what was learnt before it.

        Args:
            grafted: The graft, in training mode, which it must be in again afterwards.
            run: Sample numbers -> their features.
            index: ``int64 [n]``, training samples.
        """

    def context(self, grafted: Grafted) -> Any:
        """What all batches of a prediction share, such as the embeddings of the classes."""
        return None

    def scores(self, grafted: Grafted, outputs: Outputs, context: Any = None) -> Tensor:
        """Predictions of a batch, ``[B, ...]``."""
        raise TypeError(f"{type(self).__name__} must implement scores()")

    def scores_of(self, grafted: Grafted, outputs: Outputs, context: Any, index: np.ndarray) -> Tensor:
        """Predictions of the samples ``index``, ``int64 [B]``, ``[B, ...]``: those of :meth:`scores` for most.

        An objective that knows more of a sample than its features, such as the question that it is asked, overrides it.
        """
        return self.scores(grafted, outputs, context)

    def texts_for(self, grafted: Grafted, run: Callable[[np.ndarray], Outputs], count: int) -> list[str]:
        """Texts of new samples by a kept graft, where it :attr:`writes` any.

        Args:
            grafted: The graft.
            run: Numbers of samples ``int64 [B]``, from 0 -> their features.
            count: Number of samples, one batch.
        """
        raise TypeError(f"{type(self).__name__} writes no texts")

    def resume_at(self, stem: Path) -> None:
        """Told once, after training and before any prediction, where to keep what it predicts, if it :attr:`resumes`.

        Args:
            stem: Path of which no file exists unless a run of the same weights was killed while it predicted; endings
                are the objective's own. The harness removes the folder when the cell is done.
        """

    def generation_rate(self) -> float | None:
        """Tokens a second that were generated so far, where it :attr:`writes` texts; ``None`` where none were."""
        return None

    def decision(self, grafted: Grafted, outputs: Outputs, context: Any = None) -> Tensor:
        """What :meth:`scores` are made of by :meth:`activated`, ``[B, K]``: logits where they are probabilities.

        An objective that overrides it overrides :attr:`activation` and :meth:`activated`, too; heat maps and exported
        models read all three.
        """
        return self.scores(grafted, outputs, context)

    def activated(self, decision: Tensor) -> Tensor:
        """Predictions ``[B, K]`` of what :meth:`decision` gave, so that ``activated(decision(...)) == scores(...)``."""
        return decision

    def of_outputs(self, outputs: Tensor) -> Tensor:
        """What :meth:`scores` are, made of the outputs ``[B, K]`` of a head that :meth:`linear_problems` fit."""
        return self.activated(outputs)

    def linear_problems(self, data: TaskData, index: np.ndarray) -> Sequence[Any] | None:
        """The regressions on samples ``[n]`` that its head is made of, where it is one linear map; ``None`` where not.

        The harness then fits the head exactly and chooses how strongly it is held back; see
        :mod:`medgraft.benchmarks.training.linear_problems`.
        """
        return None

    def predictions(
        self, predict: Callable[[np.ndarray], np.ndarray], splits: Mapping[str, np.ndarray], groups: np.ndarray
    ) -> Predictions:
        """Predictions of the test split, with what its metrics read; validation samples may choose a threshold.

        Args:
            predict: Sample numbers ``int64 [n]`` -> what :meth:`scores` gives for them, ``float64 [n, ...]``.
            splits: Split -> sample numbers.
            groups: ``int64 [n]`` anonymous subject numbers of the test samples.
        """
        raise TypeError(f"{type(self).__name__} must implement predictions()")

    @classmethod
    def judged_by(cls, p: Predictions) -> tuple[str, ...]:
        """Names of the metrics for some predictions; :attr:`metrics` unless the predictions are of several kinds."""
        return cls.metrics

    @classmethod
    def subjects_by_class(cls, p: Predictions) -> dict[str, int]:
        """Test subjects of each class, for the warning that few make intervals too narrow; empty without classes."""
        return {}

    @classmethod
    def strata(cls, p: Predictions) -> Sequence[np.ndarray]:
        """Ways to divide the test samples into classes, each ``int64 [n]``; none where nothing is rare.

        An interval takes the spread of each class from its own subjects, and knows how little few of them say: one
        division where each sample is of one class, one for each label where labels go together.
        """
        return ()

    @classmethod
    def misfit(cls, p: Predictions) -> str:
        """What makes stored arrays no predictions of its kind, in words; empty if nothing does.

        Whoever reads a folder of results calls it before any metric; arrays of other shapes must not get past it.
        """
        return ""


_handed_over: dict[str, type[Objective]] = {}
"""Classes that tasks handed over in this process, by :func:`objective_name`."""


def objective_class(named: str | type[Objective]) -> type[Objective]:
    """The class that a task names or hands over.

    Args:
        named: Name of a plugin; or a class, or what :func:`objective_name` made of one that an installed task hands
            over. No other module is imported, whatever a file of results says.

    Raises:
        UnknownNameError: No installed plugin has the name; near ones are suggested.
        PluginError: It cannot be imported, or is no objective.
    """
    if isinstance(named, str):
        return _handed_over.get(named) or _by_name(named)
    _handed_over[objective_name(named)] = named
    return named


@functools.cache
def _by_name(name: str) -> type[Objective]:
    """Looked up once: finding a plugin reads what every installed distribution declares."""
    try:
        return plugins.load(plugins.find("objective", name))
    except UnknownNameError:
        package = name.partition(":")[0].partition(".")[0]
        for plugin in plugins.discover("task").values():
            if ":" in name and plugin.target.partition(":")[0].partition(".")[0] == package:
                cls = plugins.load(plugin).objective
                if objective_name(cls) == name:
                    return objective_class(cls)
        raise


def objective_name(named: str | type[Objective]) -> str:
    """The name by which results know it: that of its plugin, or of the class where a task hands one over."""
    return named if isinstance(named, str) else f"{named.__module__}:{named.__qualname__}"


def make_objective(
    named: str | type[Objective], data: TaskData, inputs: tuple[str, ...], pair: tuple[str, ...] = ()
) -> Objective:
    """The objective of a task for its data.

    Args:
        named: Name of the objective, or its class.
        data: The task's data.
        inputs: Modalities of a sample.
        pair: The two of them that are compared, as :func:`pair_of` gives them; empty for those of the objective.

    Raises:
        UnknownNameError: No installed plugin has the name.
        DataError: The data do not fit it.
        ConfigError: The pair does not fit the inputs.
    """
    cls = objective_class(named)
    pair = _pair(cls, inputs, pair) if cls.compares else ()
    check_whole(cls, data)
    cls.check(data, inputs)
    objective = cls.of(data, inputs)
    if pair:
        objective.pair = pair
    return objective


def check_whole(cls: type[Objective], data: TaskData) -> None:
    """Refuses samples that lack an input where the objective reads all of them.

    Raises:
        DataError: There are some, and it does.
    """
    gaps = {name: int((~raw.present).sum()) for name, raw in data.inputs.items() if raw.present is not None}
    if not cls.missing_inputs and any(gaps.values()):
        said = ", ".join(f"{name}: {count}" for name, count in gaps.items() if count)
        raise DataError(
            f"samples lack inputs ({said}), and {cls.__name__} reads all of them; leave such samples out of the task, "
            "or take an objective with missing_inputs"
        )


def modalities(task: Task | type[Task]) -> tuple[str, ...]:
    """Modalities that an encoder must have: those of a sample, and text where prompts stand for the classes.

    Raises:
        UnknownNameError: The task names a modality or an objective that there is not.
        ConfigError: It names a modality twice.
    """
    check_modalities(task.inputs, "the task's inputs")
    inputs = task.inputs
    return (*inputs, TEXT) if "text tower" in objective_class(task.objective).needs and TEXT not in inputs else inputs


def pair_of(task: Task | type[Task]) -> tuple[str, ...]:
    """The two modalities that a task's objective compares; empty where it compares none.

    They are those that the task names, else the objective, else the first that is no text, and the text.

    Raises:
        ConfigError: They are not two of the task's inputs.
    """
    cls = objective_class(task.objective)
    return _pair(cls, task.inputs, task.pair) if cls.compares else ()


def default_pair(inputs: tuple[str, ...]) -> tuple[str, ...]:
    """The first of some modalities that is no text, and the first that is; fewer where there are none.

    Example:
        >>> default_pair(("volume", "text", "table")), default_pair(("image",))
        (('volume', 'text'), ('image',))
    """
    texts = [name for name in inputs if is_text(name)]
    return (*[name for name in inputs if name not in texts][:1], *texts[:1])


def _pair(cls: type[Objective], inputs: tuple[str, ...], pair: tuple[str, ...]) -> tuple[str, str]:
    pair = pair or cls.pair or default_pair(inputs)
    if len(pair) != 2 or pair[0] == pair[1] or not set(pair) <= set(inputs):
        said = f"the pair {' and '.join(pair)}" if pair else "no pair"
        raise ConfigError(
            f"a contrastive task compares two of its inputs, {' and '.join(inputs)}, and names {said}; set pair = "
            "(first, second) on the task"
        )
    return pair[0], pair[1]
