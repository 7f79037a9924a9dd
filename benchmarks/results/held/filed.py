"""Results that stay in their files but for what tables are made of: some kilobytes each, and not two hundred.

A result as it is read has hundreds of small objects: every number of every group and class, every point of every
curve. A board of many thousand would hold gigabytes of them, of which its tables show a few. Here the numbers of a
result are one array; what equals that of another result (data, versions, settings) is held once; and groups and
curves are read again when somebody asks for them.
"""

from __future__ import annotations

import functools
import marshal
import math
from array import array
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, TypeVar

from pydantic import BaseModel

from medgraft.benchmarks.calibration.conformal import SetRule
from medgraft.benchmarks.calibration.reliability import Reliability
from medgraft.benchmarks.calibration.summary import Calibration, Sets
from medgraft.benchmarks.metrics.bootstrap import Estimate
from medgraft.benchmarks.results.reading import read_result
from medgraft.benchmarks.results.result import CellResult, Efficiency
from medgraft.benchmarks.results.result_files import UnreadableError
from medgraft.benchmarks.results.spec import CellSpec
from medgraft.errors import MedgraftError

SHARED = ("data", "encoder", "adapters", "diagnostics", "cache", "metric_versions", "suites", "plugins", "env")
"""Fields of plain values that most results of a sweep have in common."""

PACKED = ("training", "timing")
"""Fields of plain values that no two results have in common."""

AGAIN = 64
"""Results read again that are kept: whoever asks for one part of a row asks for others."""

Model = TypeVar("Model", bound=BaseModel)
State = tuple[int, int, int] | None
"""Size, time and number of a file; ``None`` where there is none."""


class Numbers(Mapping[str, Estimate]):
    """Named estimates, as one array.

    Args:
        names: Name -> its place; shared by results of the same numbers.
        values: ``float64 [3 N]``: value, lower and upper end of each; not a number for ``None``.
        counts: Samples, subjects and share of undefined resamples of each; shared, too.
    """

    __slots__ = ("_counts", "_names", "_values")

    def __init__(
        self, names: Mapping[str, int], values: array[float], counts: tuple[tuple[int, int, float], ...]
    ) -> None:
        self._names, self._values, self._counts = names, values, counts

    def __getitem__(self, name: str) -> Estimate:
        place = self._names[name]
        value, low, high = self._values[3 * place : 3 * place + 3]
        n, n_subjects, undefined = self._counts[place]
        facts = {
            "value": None if math.isnan(value) else value,
            "ci_low": None if math.isnan(low) else low,
            "ci_high": None if math.isnan(high) else high,
            "n": n,
            "n_subjects": n_subjects,
            "undefined_share": undefined,
        }
        return _made(Estimate, facts)

    def __contains__(self, name: object) -> bool:
        return name in self._names

    def __iter__(self) -> Iterator[str]:
        return iter(self._names)

    def share(self, shared: dict[Any, Any]) -> None:
        """Holds names and counts as others do that have the same.

        Args:
            shared: Names -> their places, and counts -> themselves; takes those that are new.
        """
        self._names = shared.setdefault(("names", *self._names), self._names)  # of none, both would be one empty tuple
        self._counts = shared.setdefault(("counts", *self._counts), self._counts)

    def __len__(self) -> int:
        return len(self._names)


class FiledReliability(Reliability):
    """Reliability curves that are read when they are asked for."""

    def __getattr__(self, name: str) -> Any:
        if name in ("likeliest", "classes"):
            again = _again(vars(self)["file"], vars(self)["key"], vars(self)["state"]).calibration
            return getattr(again.reliability, name) if again is not None else None
        return super().__getattr__(name)  # pyright: ignore

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Reliability) and _equal(self, other, Reliability)

    __hash__ = None  # pyright: ignore


class FiledResult(CellResult):
    """A result whose groups are read when they are asked for, as are its curves; what few ask for is packed."""

    def __getattr__(self, name: str) -> Any:
        if name in PACKED:
            return marshal.loads(vars(self)["packed"])[PACKED.index(name)]
        if name == "groups":
            return self.whole().groups
        return super().__getattr__(name)  # pyright: ignore

    def whole(self) -> CellResult:
        """The result as it stands in its file.

        Raises:
            MedgraftError: The file is not as it was.
        """
        return _again(vars(self)["file"], self.key, vars(self)["state"])

    def model_dump(self, **how: Any) -> dict[str, Any]:
        """That of the whole result; see :meth:`whole`."""
        return self.whole().model_dump(**how)

    def model_dump_json(self, **how: Any) -> str:
        """That of the whole result; see :meth:`whole`."""
        return self.whole().model_dump_json(**how)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, CellResult) and _equal(self, other, CellResult)

    __hash__ = None  # pyright: ignore


def _equal(one: BaseModel, other: BaseModel, of: type[BaseModel]) -> bool:
    """Whether two have the same values, however they are held."""
    return all(getattr(one, name) == getattr(other, name) for name in of.model_fields)


@functools.lru_cache(AGAIN)
def _again(path: Path, key: str, state: State) -> CellResult:
    """A result once more, where its file is as it was; its key is that of its cell and says nothing of its numbers."""
    try:
        result = read_result(path)
    except UnreadableError as error:
        raise MedgraftError(f"{path} was changed while its board was made ({error}); make it again") from error
    if result.key != key or _state(path) != state:
        raise MedgraftError(f"{path} was changed while its board was made; make it again")
    return result


def _state(path: Path) -> State:
    try:
        found = path.stat()
    except OSError:
        return None
    return found.st_size, found.st_mtime_ns, found.st_ino


@functools.cache
def _fields(of: type[BaseModel]) -> set[str]:
    return set(of.model_fields)


def _made(of: type[Model], values: dict[str, Any]) -> Model:
    """A model of values that were validated before, whose set of fields is one for all."""
    made = of.__new__(of)
    object.__setattr__(made, "__dict__", values)
    object.__setattr__(made, "__pydantic_fields_set__", _fields(of))
    object.__setattr__(made, "__pydantic_extra__", None)
    object.__setattr__(made, "__pydantic_private__", None)
    return made


class Filing:
    """Makes results small; what they have in common is held once."""

    def __init__(self) -> None:
        self._shared: dict[Any, Any] = {}
        self._specs: dict[str, CellSpec] = {}

    def __call__(self, path: Path, cell: CellResult) -> CellResult:
        """A result of the same values, for its groups and curves tied to its file, which must not change.

        Args:
            path: The file.
            cell: Read from it.
        """
        values = {name: value for name, value in vars(cell).items() if name != "groups" or not value}
        values |= {name: self._once(values[name]) for name in SHARED}
        values["packed"] = marshal.dumps([values.pop(name) for name in PACKED], 2)
        values |= {"spec": self._spec(cell.spec), "metrics": self._numbers(cell.metrics), "file": path}
        values["state"] = state = _state(path)
        if cell.efficiency is not None:
            costs = vars(cell.efficiency)
            small = {name: self._once(value) if isinstance(value, dict) else value for name, value in costs.items()}
            values["efficiency"] = _made(Efficiency, small)
        if cell.calibration is not None:
            values["calibration"] = self._calibration({"file": path, "key": cell.key, "state": state}, cell.calibration)
        return _made(FiledResult, values)

    def adopt(self, results: Iterable[tuple[Path, CellResult]]) -> None:
        """Makes results that were made small in another process share what they have in common with those here.

        Args:
            results: With their files; those of one message, in which what is equal is one object.
        """
        ours: dict[int, tuple[Any, Any]] = {}  # the first of each pair is kept, or its number would be another's

        def once(value: Any) -> Any:
            return (ours.get(id(value)) or ours.setdefault(id(value), (value, self._once(value))))[1]

        for path, cell in results:
            values = vars(cell)
            for name in SHARED:
                values[name] = once(values[name])
            values |= {"spec": self._spec(cell.spec), "file": path}
            if cell.efficiency is not None:
                costs = vars(cell.efficiency)
                costs |= {name: once(value) for name, value in costs.items() if isinstance(value, dict)}
            numbers = [cell.metrics]
            if cell.calibration is not None:
                if isinstance(curves := cell.calibration.reliability, FiledReliability):
                    vars(curves)["file"] = path
                if (sets := cell.calibration.sets) is not None:
                    vars(sets)["rule"] = self._rule(sets.rule)
                    numbers.append(sets.numbers)
            for each in numbers:
                if isinstance(each, Numbers):
                    each.share(self._shared)

    def _once(self, value: Any) -> Any:
        return self._shared.setdefault(marshal.dumps(value, 2), value)  # version 2 tells values, not objects, apart

    def _spec(self, spec: CellSpec) -> CellSpec:
        first = self._specs.setdefault(spec.row(), spec)
        return _made(CellSpec, {**vars(first), "seed": spec.seed, "_digests": (spec.key(), first.row())})

    def _numbers(self, numbers: Mapping[str, Estimate]) -> Numbers:
        counts = tuple((e.n, e.n_subjects, e.undefined_share) for e in numbers.values())
        values = array("d")
        for each in numbers.values():
            values.extend(math.nan if x is None else x for x in (each.value, each.ci_low, each.ci_high))
        made = Numbers({name: place for place, name in enumerate(numbers)}, values, counts)
        made.share(self._shared)
        return made

    def _rule(self, rule: SetRule) -> SetRule:
        return self._shared.setdefault(repr(rule), rule)

    def _calibration(self, place: dict[str, Any], said: Calibration) -> Calibration:
        curves, sets = said.reliability, said.sets
        if curves.likeliest is not None or curves.classes:
            curves = _made(FiledReliability, {"chance_error": curves.chance_error, **place})
        if sets is not None:
            sets = _made(Sets, {"rule": self._rule(sets.rule), "numbers": self._numbers(sets.numbers)})
        return _made(Calibration, {"reliability": curves, "scaling": said.scaling, "sets": sets})
