"""A request: what ``run`` was asked for, from the command line and a YAML file, checked before anything is made."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, Literal

from pydantic import ConfigDict, Field, field_validator, model_validator

from medgraft.adapter.sizing import parse_count
from medgraft.benchmarks.calibration.conformal import COVERAGE, Method
from medgraft.benchmarks.cohorts.own.task_file import is_task_file, read_task_file
from medgraft.benchmarks.commands.arguments import listed, listed_encoders, parse_seeds
from medgraft.benchmarks.launch.profiles import with_profile
from medgraft.benchmarks.mirror.place import copy_of
from medgraft.benchmarks.prefix_cache.store import parse_size
from medgraft.benchmarks.results.spec import Backend, Calibrate
from medgraft.benchmarks.schedule.order import Order
from medgraft.benchmarks.storage.opening import as_url, is_url
from medgraft.benchmarks.suite.membership import as_preset, with_suite
from medgraft.benchmarks.sweep.assignments import canonical_encoder, read_assignments, with_encoder_options
from medgraft.errors import ConfigError, MedgraftError, UnknownNameError
from medgraft.files.documents import read_yaml
from medgraft.options import Options, Seed, checked
from medgraft.registry import PresetEntry, catalogue
from medgraft.suites import find_suite
from medgraft.task.names import current_name, expand_where_known

AUTO = Path("auto")
"""``--tensorboard`` without a folder."""

LISTS = ("adapters", "encoders", "tasks", "test_on")
"""Fields that a file may also give as one text with commas."""


class Sweep(Options):
    """A request; every field is an option of ``run`` or a line of ``--config``.

    Attributes:
        adapters: Adapter names; may be empty where the preset brings variants.
        encoders: Encoder names; by default those that the tasks name.
        tasks: Task names and groups of them (``chest_prompts:*``, ``tag:few_shot``); by default the preset's, else
            those that the catalogue names for each adapter.
        seeds: Seeds of each row; the preset's by default.
        epochs: Takes the place of every adapter's own number.
        backend: How adapters run.
        precision: ``auto`` takes bf16 where the processor or GPU multiplies it natively, else fp32; ``bf16_frozen``
            and ``fp8`` are never taken unasked; the preset's by default.
        device: ``auto`` takes a GPU where PyTorch sees one.
        data: Cohort name -> folder.
        results: Folder of the results.
        shared_results: URL that the folder is a copy of; what ``results: s3://...`` becomes.
        jobs: Worker processes.
        devices: GPUs, or on the CPU processes, that run each cell together.
        launcher: What starts them, and where.
        preset: Named size of the sweep.
        limit: Largest number of samples per split.
        augment_views: Augmented views of each image or volume, one of which is drawn in each epoch; 0 for none.
        cache_size: What the cache may hold, such as ``20GB``; ``None`` leaves it to ``MEDGRAFT_CACHE_SIZE``.
        shared_cache: Storage whose cache machines share, behind the cache of each; ``None`` leaves it to
            ``MEDGRAFT_SHARED_CACHE``.
        test_on: Tasks, or cohorts of whose tasks the first that fits is taken, that trained grafts are tested on.
        match: Class of such a cohort -> class that a graft was trained for, where their names differ.
        timeout: Seconds after which a cell is killed.
        order: In which cells start: as planned, or those first that earlier results let expect to end soonest.
        max_hours: After which the sweep ends, and what is at work with it.
        max_cells: Cells that run at most.
        checkpoint_every: Seconds between two checkpoints of a cell's training at least.
        threads: Threads per worker; part of what defines a number.
        calibrate: ``temperature`` divides the logits of all rows by what is best on validation samples.
        sets: Score of the conformal sets: ``lac`` or ``aps``.
        coverage: Share of the conformal sets that should hold the right class.
        sets_by_class: Each class is to be covered so often, and not only all together.
        keep: Trained grafts to keep beside their results: ``all`` (or ``adapters``), or of each row the seed that is
            ``best`` on validation samples.
        suite: Suite that is run, ``name`` or ``name@version``; it decides tasks, encoders, seeds and budgets.
        tune: Trials by which each row's options and training are chosen on validation samples; 0 leaves them alone.
        budget: Trainable parameters that each adapter is scaled to by its size knob, as a number or such as ``1M``.
        baselines: Add the reference rows.
        verify: Read every file of the cohorts again to tell whether they are what they were.
        options: Adapter, task or launcher name -> its options; those of an adapter also hold where it is part of a
            composed one.
        train: Adapter name -> training hyper-parameters. One beside the names (``lr: 1e-3``) is for every adapter
            that trains.
        tensorboard: Folder for TensorBoard event files, ``auto`` for ``tensorboard`` in that of the results; none are
            written by default.
        json_logs: Write a log of JSON lines beside each result.
        traces: Send spans by OpenTelemetry.
        yes: Run any number of cells.
        assigned: Adapters and tasks whose options stand on the command line, so that some row must be of each.
    """

    model_config = ConfigDict(allow_inf_nan=False)

    adapters: tuple[str, ...] = ()
    encoders: tuple[str, ...] | None = Field(None, min_length=1)
    tasks: tuple[str, ...] | None = Field(None, min_length=1)
    seeds: tuple[Seed, ...] | None = Field(None, min_length=1)
    epochs: int | None = Field(None, ge=0, le=100_000)
    backend: Backend = "eager"
    precision: Literal["auto", "fp32", "bf16", "bf16_frozen", "fp8"] | None = None
    device: Literal["auto", "cpu", "cuda"] = "cpu"
    data: dict[str, Path] = Field(default_factory=dict)
    results: Path = Path("results")
    shared_results: str = ""
    jobs: int | None = Field(None, ge=1, le=1024)
    devices: int = Field(1, ge=1, le=1024)
    launcher: str = "local"
    preset: str = "quick"
    limit: int | None = Field(None, ge=4)
    augment_views: int = Field(0, ge=0, le=10_000)
    cache_size: str | None = None
    shared_cache: str | None = Field(None, min_length=1)
    test_on: tuple[str, ...] = ()
    match: dict[str, str] = Field(default_factory=dict)
    timeout: float = Field(3600.0, gt=0, le=30 * 86_400)
    order: Order = "plan"
    max_hours: float | None = Field(None, gt=0, le=10_000)
    max_cells: int | None = Field(None, ge=1)
    checkpoint_every: float = Field(60.0, ge=0, le=30 * 86_400)
    threads: int = Field(1, ge=1, le=1024)
    calibrate: Calibrate = "none"
    sets: Method = "lac"
    coverage: float = Field(COVERAGE, gt=0, lt=1)
    sets_by_class: bool = False
    keep: Literal["none", "best", "all"] = "none"
    suite: str = ""
    tune: int = Field(0, ge=0, le=10_000)
    budget: int | None = Field(None, ge=1)
    baselines: bool = True
    verify: bool = False
    options: dict[str, dict[str, Any]] = Field(default_factory=dict)
    train: dict[str, Any] = Field(default_factory=dict)
    tensorboard: Path | None = None
    json_logs: bool = False
    traces: bool = False
    yes: bool = False
    assigned: tuple[str, ...] = ()

    @field_validator("adapters")
    @classmethod
    def _one_spelling(cls, names: tuple[str, ...]) -> tuple[str, ...]:
        return tuple("+".join(part.strip() for part in name.split("+")) for name in names)

    @field_validator("encoders")
    @classmethod
    def _one_name(cls, names: tuple[str, ...] | None) -> tuple[str, ...] | None:
        return None if names is None else tuple(dict.fromkeys(known_encoder(name) for name in names))

    @field_validator("tasks")
    @classmethod
    def _expanded_tasks(cls, names: tuple[str, ...] | None) -> tuple[str, ...] | None:
        return None if names is None else expand_where_known(names)

    @field_validator("options")
    @classmethod
    def _task_names_now(cls, options: dict[str, dict[str, Any]]) -> dict[str, dict[str, Any]]:
        by_name: dict[str, dict[str, Any]] = {}
        for name, values in options.items():
            by_name[current_name(name)] = merged(by_name.get(current_name(name), {}), values)
        return by_name

    @field_validator("assigned")
    @classmethod
    def _assigned_names_now(cls, names: tuple[str, ...]) -> tuple[str, ...]:
        return tuple(current_name(name) for name in names)

    @field_validator("keep", mode="before")
    @classmethod
    def _all_adapters(cls, keep: Any) -> Any:
        return "all" if keep == "adapters" else keep

    @field_validator("budget", mode="before")
    @classmethod
    def _is_count(cls, value: Any) -> Any:
        try:
            return parse_count(value) if isinstance(value, str) else value
        except ConfigError as error:
            raise ValueError(str(error)) from error

    @field_validator("cache_size")
    @classmethod
    def _is_size(cls, text: str | None) -> str | None:
        if text is not None:
            try:
                parse_size(text)
            except ConfigError as error:
                raise ValueError(str(error)) from error
        return text

    @model_validator(mode="after")
    def _something_to_run(self) -> Sweep:
        entry = self.preset_entry() if self.suite else catalogue().presets.get(self.preset)
        if not self.adapters and (entry is None or not entry.variants):
            raise ValueError("no adapter was named; choose some with --adapters (`medgraft ls adapters` lists them)")
        return self

    def events(self) -> Path | None:
        """Folder for TensorBoard event files, if any are to be written."""
        return self.results / "tensorboard" if self.tensorboard == AUTO else self.tensorboard

    def preset_entry(self) -> PresetEntry:
        """The preset, or the suite as one.

        Raises:
            UnknownNameError: There is none of that name.
        """
        if self.suite:
            return as_preset(find_suite(self.suite))
        presets = catalogue().presets
        if self.preset not in presets:
            raise UnknownNameError("preset", self.preset, presets)
        return presets[self.preset]


def known_encoder(name: str) -> str:
    """The one name of an encoder that has several; one that is unknown stays as it is, for a better error later."""
    try:
        return canonical_encoder(name)
    except MedgraftError:
        return name


def read_sweep(path: Path | None, overrides: Mapping[str, Any], assignments: Iterable[str] = ()) -> Sweep:
    """A request from a YAML file and the command line, which wins.

    Args:
        path: The file.
        overrides: Field -> value; ``None`` says nothing.
        assignments: ``NAME.OPTION=VALUE``, see :mod:`medgraft.benchmarks.sweep.assignments`.

    Raises:
        ConfigError: The file cannot be read, a field does not exist or has a value out of range, or a suite has decided
            what the request says.
    """
    values = {} if path is None else _from_file(path)
    fields = {name: value for name, value in overrides.items() if value is not None}
    if "epochs" in fields:
        values["train"] = _without(values.get("train"), "epochs")
    values |= fields
    _read_task_files(values)
    if assignments := list(assignments):
        _assign(values, assignments, fields)
    if (profile := values.pop("profile", None)) is not None:
        values = with_profile(values, str(profile))
    if is_url(str(values.get("results", ""))):
        values |= {"shared_results": as_url(str(values["results"])), "results": copy_of(str(values["results"]))}
    if values.get("suite"):
        values = with_suite(values, find_suite(str(values["suite"])))
    return checked(Sweep, values, "the sweep's options")


def _read_task_files(values: dict[str, Any]) -> None:
    """Puts tasks, data and options of task files into the values; what stands elsewhere wins."""
    for field in ("tasks", "test_on"):
        names = [str(name) for name in values.get(field) or ()]
        if any(is_task_file(name) for name in names):
            values[field] = [_from_task_file(name, values) if is_task_file(name) else name for name in names]


def _from_task_file(path: str, values: dict[str, Any]) -> str:
    """Puts data and options of a task file into the values; gives the task's name."""
    file = read_task_file(Path(path))
    values["data"] = {file.name: file.data} | dict(values.get("data") or {})
    options = dict(values.get("options") or {})
    values["options"] = options | {file.name: merged(file.options, options.get(file.name) or {})}
    return file.name


def _from_file(path: Path) -> dict[str, Any]:
    values = read_yaml(path, name=f"--config {path}") or {}
    if not isinstance(values, dict):
        raise ConfigError(f"--config {path} must hold a mapping of options, not {type(values).__name__}")
    for name in LISTS:
        if isinstance(values.get(name), str):
            values[name] = (listed_encoders if name == "encoders" else listed)(values[name], f"--config {path}: {name}")
    seeds = values.get("seeds")
    if isinstance(seeds, (str, int)) and not isinstance(seeds, bool):
        values["seeds"] = parse_seeds(str(seeds), f"--config {path}: seeds")
    for name in ("assigned", "shared_results"):
        if name in values:
            raise ConfigError(f"--config {path}: {name}: no such option")
    return {str(name): value for name, value in values.items()}


def _without(train: Any, option: str, but: Iterable[str] = ()) -> Any:
    """A train table without a hyper-parameter, of adapters too except some: what comes later is to hold for all."""
    if not isinstance(train, dict):
        return {} if train is None else train
    return {
        name: {key: each for key, each in value.items() if key != option or name in but}
        if isinstance(value, dict)
        else value
        for name, value in train.items()
        if name != option
    }


def _assign(values: dict[str, Any], items: list[str], fields: Mapping[str, Any]) -> None:
    """Puts what ``--set`` says into the values of a request."""
    assignments = read_assignments(items)
    if "epochs" in assignments.every and "epochs" in fields:
        raise ConfigError("--epochs and --set train.epochs say the same thing; give one of them")
    train = dict(values.get("train") or {})
    if "epochs" in values and (assignments.train or assignments.every):  # it would win over what is set for one adapter
        train = _without(train, "epochs") | {"epochs": values.pop("epochs")}
    for option, value in assignments.every.items():
        train = _without(train, option) | {option: value}
    options = dict(values.get("options") or {})
    values["options"] = options | {
        name: merged(options.get(name) or {}, table) for name, table in assignments.options.items()
    }
    values["train"] = train | {name: merged(train.get(name) or {}, table) for name, table in assignments.train.items()}
    if assignments.encoders:
        names = [str(name) for name in values.get("encoders") or []]
        values["encoders"] = with_encoder_options(names, assignments.encoders)
    values["assigned"] = tuple(dict.fromkeys([*assignments.options, *assignments.train]))


def merged(old: Mapping[str, Any], new: Mapping[str, Any]) -> dict[str, Any]:
    """Both tables; the new one's entries win, and tables inside of them are joined likewise."""
    both = dict(old)
    for name, value in new.items():
        inner = both.get(name)
        both[name] = merged(inner, value) if isinstance(inner, Mapping) and isinstance(value, Mapping) else value
    return both
